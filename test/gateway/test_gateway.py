"""What the gateway makes of questions in both dialects, and how it answers.."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from builtin_interfaces.msg import Time
from qwen3vl_ros.action import AskImage
from std_msgs.msg import Header

from gateway_server import Server, data_url, events, image_file, question, serving, stays_open
from qwen3vl_ros.client.answer import Box, Moment, Position, Region, Usage
from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.engines import speed
from qwen3vl_ros.engines.catalogue import catalogue
from qwen3vl_ros.engines.machine import this_machine
from qwen3vl_ros.gateway.backend import NodeStatus
from qwen3vl_ros.gateway.chat_response import STAGES

CHAT = "/v1/chat/completions"

pytest_plugins = ["gateway_fixtures"]


def test_an_answer_is_openais_completion(http: httpx.Client) -> None:
    reply = http.post(CHAT, json=question()).raise_for_status().json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "tiny"
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "red"
    assert choice["finish_reason"] == "stop"
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (80, 2, 82)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 64}
    assert usage["total_time_ms"] == 250


def test_an_answer_has_what_openai_has_no_place_for(server: Server, http: httpx.Client) -> None:
    header = Header(frame_id="optical")
    header.stamp.sec, header.stamp.nanosec = 7, 8
    place = Position(0.1, 0.2, 0.3, "optical", header.stamp)
    regions = (
        Region("ball", 0, Box(1, 2, 3, 4), (2.5, 4.0), position=place, score=0.5, spread=(1.0, 2.0, 3.0, 4.0)),
        Region("box", 0, Box(5, 6, 7, 8), position_error="NO_DEPTH: nobody publishes /depth"),
    )
    server.backend.script = lambda asked: asked.answer(
        "[]",
        regions=regions,
        moments=(Moment("it falls", Time(sec=8), Time(sec=9, nanosec=5), 1),),
        json=[],
        image_headers=(header,),
        pixel_stamps=(Time(sec=6, nanosec=5),),
        usage=Usage(image_change=1.5),
        probability=0.75,
        notes=("one",),
    )
    more = http.post(CHAT, json=question(image_file(), "Where?")).json()["qwen3vl_ros"]
    ball, box = more["regions"]
    assert ball["box"] == [1, 2, 3, 4]
    assert ball["point"] == [2.5, 4.0]
    assert ball["image"] == 0
    assert ball["position"] == [0.1, 0.2, 0.3]
    assert ball["problem"] == ""
    assert (ball["score"], ball["spread"]) == (0.5, [1.0, 2.0, 3.0, 4.0])
    assert (box["score"], box["spread"]) == (None, [])
    assert box["point"] is None
    assert box["position"] is None
    assert box["problem"].startswith("NO_DEPTH")
    assert more["moments"] == [
        {"label": "it falls", "stamp": {"sec": 8, "nanosec": 0}, "end_stamp": {"sec": 9, "nanosec": 5}, "image": 1}
    ]
    assert more["image_headers"] == [{"stamp": {"sec": 7, "nanosec": 8}, "frame_id": "optical"}]
    assert (more["pixel_stamps"], more["image_change"]) == ([{"sec": 6, "nanosec": 5}], 1.5)
    assert (more["json"], more["engine"], more["probability"], more["notes"]) == ([], "scripted", 0.75, ["one"])


def stream(http: httpx.Client, body: dict[str, Any]) -> list[Any]:
    with http.stream("POST", CHAT, json={**body, "stream": True}) as response:
        response.raise_for_status()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response))


def text_of(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks if isinstance(chunk, dict) for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_a_stream_is_openais_chunks(http: httpx.Client) -> None:
    chunks = stream(http, question())
    assert chunks.pop() == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks) == "red"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["qwen3vl_ros"]["engine"] == "scripted"
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_ends_with_the_usage_that_was_asked_for(http: httpx.Client) -> None:
    *chunks, usage, done = stream(http, question(stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 82
    assert usage["qwen3vl_ros"]["regions"] == []
    assert all(chunk["usage"] is None for chunk in chunks)


def test_text_comes_while_the_model_is_still_talking(server: Server, http: httpx.Client) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        asked.say("red")
        coming = events(response)
        assert next(chunk for chunk in coming if text_of([chunk])) is not None
        asked.say(" and blue")
        asked.answer()
        assert text_of(list(coming)[:-1]) == " and blue"


def test_a_stream_says_how_far_the_question_is(server: Server, http: httpx.Client) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        coming = events(response)
        shown = []
        for stage, position in ((0, 2), (0, 1), (1, 0), (2, 0), (3, 0), (4, 0)):
            asked.say(stage=stage, queue_position=position)
            shown.append(next(c["qwen3vl_ros"] for c in coming if "qwen3vl_ros" in c))
        asked.answer("done")
        assert shown == [
            {"stage": "queued", "queue_position": 2},
            {"stage": "queued", "queue_position": 1},
            *({"stage": stage, "queue_position": 0} for stage in ("frame", "encode", "prefill", "decode")),
        ]
        assert text_of(list(coming)[:-1]) == "done"


def test_text_does_not_overtake_its_stage(server: Server, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        coming = events(response)
        asked.say(stage=2)
        assert next(c["qwen3vl_ros"]["stage"] for c in coming if "qwen3vl_ros" in c) == "encode"
        stage, tokens = AnswerFuture.stage.fget, ["red"]

        def look(question: AnswerFuture) -> int:
            seen: int = stage(question)
            if seen == 3 and tokens:
                asked.say(tokens.pop(), stage=4)  # it comes while the stream looks
            return seen

        monkeypatch.setattr(AnswerFuture, "stage", property(look))
        asked.say(stage=3)
        shown = []
        while not text_of([chunk := next(coming)]):
            shown += [chunk["qwen3vl_ros"]["stage"]] if "qwen3vl_ros" in chunk else []
        assert shown == ["prefill", "decode"]
        asked.answer()
        list(coming)


def test_a_queued_stream_has_comments_that_keep_it_alive(server: Server, http: httpx.Client) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        asked.say(stage=0, queue_position=2)
        coming = events(response)
        assert next(line for line in coming if isinstance(line, str)) == ": queued, position 2"
        asked.answer("")
        assert list(coming)[-1] == "[DONE]"


def test_reasoning_is_kept_apart(server: Server, http: httpx.Client) -> None:
    def think(asked: Any) -> None:
        asked.say(reasoning_delta="Hm. ")
        asked.say("red")
        asked.answer(reasoning="Hm. ")

    server.backend.script = think
    message = http.post(CHAT, json=question()).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm. ", "red")
    chunks = stream(http, question())[:-1]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert text_of(chunks) == "red"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) in ("Hm. ", "")


def test_characters_beyond_ascii_arrive_whole(server: Server, http: httpx.Client) -> None:
    text = 'ß "北京" \\ \n\n data: 🤖\u2028'
    server.backend.script = lambda asked: (asked.say(text), asked.answer())[0]
    assert http.post(CHAT, json=question()).json()["choices"][0]["message"]["content"] == text
    assert text_of(stream(http, question())[:-1]) == text


# --- what a request means ---------------------------------------------------------------------------------------------


def asked_by(server: Server, http: httpx.Client, body: dict[str, Any]) -> Any:
    response = http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return server.backend.next_asked()


@pytest.fixture
def asking(server: Server, http: httpx.Client) -> Any:
    return lambda body: asked_by(server, http, body)


def test_images_reach_the_backend_as_they_were_sent(asking: Any) -> None:
    first, second = image_file(), image_file(32, 32, "JPEG")
    goal = asking(question(first, second, "Which is larger?")).goal
    assert goal.prompt == "Which is larger?"
    assert [bytes(image.data) for image in goal.compressed_images] == [first, second]
    assert not goal.text_only
    assert not goal.history


def test_an_image_may_follow_its_question(asking: Any) -> None:
    goal = asking(question("What is it?", image_file())).goal
    assert (goal.prompt, len(goal.compressed_images), len(goal.history)) == ("What is it?", 1, 0)


def test_an_image_url_may_be_a_plain_string(asking: Any) -> None:
    part = {"type": "image_url", "image_url": data_url(image_file())}
    content = [{"type": "text", "text": "What is it?"}, part]
    goal = asking({"messages": [{"role": "user", "content": content}]}).goal
    assert bytes(goal.compressed_images[0].data) == image_file()


def test_webp_is_taken(asking: Any) -> None:
    goal = asking(question(image_file(8, 6, "WEBP"), "What is it?")).goal
    assert [(image.width, image.height, image.encoding) for image in goal.images] == [(8, 6, "rgb8")]


def test_a_question_without_an_image_is_text_only(asking: Any) -> None:
    goal = asking({"messages": [{"role": "user", "content": "Who are you?"}]}).goal
    assert (goal.prompt, goal.text_only) == ("Who are you?", True)


@pytest.mark.parametrize("camera", ["front", ["front"]])
def test_a_camera_takes_the_place_of_an_image(asking: Any, camera: Any) -> None:
    goal = asking(question(camera=camera)).goal
    assert goal.cameras == ["front"]
    assert not goal.text_only


def test_a_conversation_keeps_its_turns_and_the_places_of_its_images(asking: Any) -> None:
    first, second = image_file(16, 16), image_file(24, 24)
    url = {"type": "image_url", "image_url": {"url": data_url(first)}}
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, url, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": "A ball.", "refusal": None, "tool_calls": None},
            *question(second, "And here?")["messages"],
        ]
    }
    goal = asking(body).goal
    assert goal.system_prompt == "Be brief.\n\nBe kind."
    assert [(turn.role, list(turn.content)) for turn in goal.history] == [
        ("user", ["Look:", "", "what?"]),
        ("assistant", ["A ball."]),
    ]
    assert goal.prompt == "And here?"
    assert [bytes(image.data) for image in goal.compressed_images] == [first, second]
    assert not goal.text_only


def test_a_follow_up_without_an_image_looks_through_no_camera(asking: Any) -> None:
    turns = [*question(image_file(), "What?")["messages"], {"role": "assistant", "content": "A ball."}]
    goal = asking({"messages": [*turns, {"role": "user", "content": "What colour?"}]}).goal
    assert goal.text_only
    assert len(goal.compressed_images) == 1


def test_the_order_of_several_texts_and_images_is_kept(asking: Any) -> None:
    goal = asking(question("Left:", image_file(16, 16), "Right:", image_file(24, 24), "Which is larger?")).goal
    assert [(turn.role, list(turn.content)) for turn in goal.history] == [("user", ["Left:", "", "Right:", ""])]
    assert goal.prompt == "Which is larger?"
    assert goal.text_only
    assert len(goal.compressed_images) == 2


def test_a_task_has_its_slots_and_its_images(asking: Any) -> None:
    goal = asking(question("red", image_file(), "cups", task="locate", slots={"language": "en"})).goal
    assert (goal.task, goal.prompt, json.loads(goal.slots)) == ("locate", "red\ncups", {"language": "en"})
    assert not goal.history


def test_options_reach_the_backend(asking: Any) -> None:
    options = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "seed": 5, "repetition_penalty": 1.5}
    options |= {"presence_penalty": 1.5, "frequency_penalty": 0.5}
    goal = asking(question(**options, max_completion_tokens=9, stop="END")).goal
    assert {name: getattr(goal.options, name) for name in options} == options
    assert (goal.options.max_tokens, goal.options.stop) == (9, ["END"])


def test_thinking_and_the_detail_of_images_reach_the_backend(asking: Any) -> None:
    goal = asking(question(thinking=False, max_image_tokens=64)).goal
    assert (goal.thinking, goal.max_image_tokens) == (goal.THINKING_OFF, 64)
    assert asking(question(thinking=True)).goal.thinking == goal.THINKING_ON
    goal = asking(question()).goal
    assert (goal.thinking, goal.max_image_tokens) == (goal.THINKING_UNSET, 0)


def test_new_pixels_of_a_camera_can_be_demanded(asking: Any) -> None:
    assert asking(question(camera="front", new_pixels=True)).goal.new_pixels
    assert not asking(question(camera="front")).goal.new_pixels


def test_the_frame_of_positions_reaches_the_backend(asking: Any) -> None:
    assert asking(question(camera="front", target_frame="map")).goal.target_frame == "map"
    assert asking(question(camera="front", target_frame=None)).goal.target_frame == ""


def test_the_number_of_image_tokens_may_be_left_to_the_node(asking: Any) -> None:
    goal = asking(question(max_image_tokens="auto")).goal
    assert goal.max_image_tokens == goal.MAX_IMAGE_TOKENS_AUTO


@pytest.mark.parametrize("wrong", ["lots", 1.5, "64"])
def test_a_wrong_number_of_image_tokens_is_told_with_both_alternatives(http: httpx.Client, wrong: Any) -> None:
    error = http.post(CHAT, json=question(max_image_tokens=wrong)).json()["error"]
    assert error["message"].startswith("max_image_tokens: it has to be a whole number or 'auto'")
    assert error["param"] == "max_image_tokens"


DETAILS = [
    (("low",), 256), (("high",), 1024), (("auto",), 2**32 - 1), ((None,), 0), (("",), 0), (("original",), 0),
    (("low", "high"), 1024), (("low", "auto"), 2**32 - 1), (("high", "auto"), 1024), ((None, "low"), 256),
]  # fmt: skip


@pytest.mark.parametrize(("details", "tokens"), DETAILS, ids=str)
def test_openais_detail_is_a_number_of_image_tokens(asking: Any, details: tuple[Any, ...], tokens: int) -> None:
    body = question("What?", *[image_file() for _ in details])
    images = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    for image, detail in zip(images, details, strict=True):
        image["image_url"]["detail"] = detail
    assert asking(body).goal.max_image_tokens == tokens
    assert asking(body | {"max_image_tokens": 64}).goal.max_image_tokens == 64


@pytest.mark.parametrize(
    ("fields", "thinking", "limit"),
    [
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, 0),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False, 0),
        ({"enable_thinking": False}, False, 0),
        ({"reasoning_effort": "none"}, False, 0),
        ({"reasoning_effort": "minimal"}, True, 64),
        ({"reasoning_effort": "low"}, True, 256),
        ({"reasoning_effort": "medium"}, True, 1024),
        ({"reasoning_effort": "high"}, True, 4096),
        ({"reasoning_effort": "high", "max_reasoning_tokens": 7}, True, 7),
        ({"reasoning_effort": "low", "thinking": True}, True, 256),
        ({"max_reasoning_tokens": 7}, None, 7),
        ({"thinking_token_budget": 7}, None, 7),
        ({"thinking_budget_tokens": 7}, None, 7),
        ({"thinking": False, "max_reasoning_tokens": 7}, False, 0),
    ],
    ids=str,
)
def test_every_way_to_say_how_long_to_think_is_understood(
    fields: dict[str, Any], thinking: bool | None, limit: int, asking: Any
) -> None:
    goal = asking(question(**fields)).goal
    wanted = {None: goal.THINKING_UNSET, False: goal.THINKING_OFF, True: goal.THINKING_ON}[thinking]
    assert (goal.thinking, goal.max_reasoning_tokens) == (wanted, limit)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        (
            {"thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"enable_thinking": "perhaps"}}, "chat_template_kwargs.enable_thinking"),
        ({"max_reasoning_tokens": 0}, "max_reasoning_tokens"),
        ({"thinking_token_budget": 10**9}, "thinking_token_budget"),
    ],
    ids=str,
)
def test_contradictions_about_thinking_are_refused_by_name(
    fields: dict[str, Any], named: str, http: httpx.Client
) -> None:
    reply = http.post(CHAT, json=question(**fields))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, named), reply.text
    assert reply.json()["error"]["message"].startswith(f"{named}: ")


def test_hyphenated_parameters_are_understood(asking: Any) -> None:
    goal = asking(question(**{"top-p": 0.25, "top-k": 7})).goal
    assert (goal.options.top_p, goal.options.top_k) == (0.25, 7)


def test_fields_that_say_nothing_about_the_answer_have_no_effect(asking: Any) -> None:
    goal = asking(question(user="me", metadata={"a": "b"}, store=False, n=1, tools=[])).goal
    assert goal.prompt == "What colour is the box?"


SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}


def test_a_response_format_is_a_schema_for_the_answer(asking: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert json.loads(asking(question(response_format=schema)).goal.response_schema) == SCHEMA
    goal = asking(question(response_format={"type": "json_object"})).goal
    assert json.loads(goal.response_schema) == {"type": "object"}
    assert asking(question(response_format={"type": "text"})).goal.response_schema == ""


@pytest.mark.parametrize("text", ['{"colour": "red"}', '```json\n{"colour": "red"}\n```'])
def test_structured_content_can_be_parsed_however_the_model_wrote_it(
    server: Server, http: httpx.Client, text: str
) -> None:
    def write(asked: Any) -> None:
        for letter in text:
            asked.say(letter)
        asked.answer(json={"colour": "red"})

    server.backend.script = write
    body = question(response_format={"type": "json_object"})
    content = http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"colour": "red"}
    assert json.loads(text_of(stream(http, body)[:-1])) == {"colour": "red"}


# --- the form ---------------------------------------------------------------------------------------------------------


def test_a_form_with_image_and_prompt_is_a_question(server: Server, http: httpx.Client, asking: Any) -> None:
    response = http.post(CHAT, files={"image": ("box.png", image_file(), "image/png")}, data={"prompt": "What is it?"})
    reply = response.raise_for_status().json()
    assert reply["choices"][0]["message"]["content"] == "red"
    assert reply["usage"]["total_time_ms"] == 250
    goal = server.backend.next_asked().goal
    assert goal.prompt == "What is it?"
    assert bytes(goal.compressed_images[0].data) == image_file()
    assert not goal.text_only


def test_a_form_takes_the_other_fields_as_text(server: Server, http: httpx.Client, asking: Any) -> None:
    form = {"prompt": "What is it?", "max_tokens": "9", "temperature": "0.5", "camera": "front"}
    response = http.post(CHAT, files={name: (None, value) for name, value in form.items()})
    assert response.status_code == 200, response.text
    goal = server.backend.next_asked().goal
    assert (goal.options.max_tokens, goal.options.temperature, goal.cameras) == (9, 0.5, ["front"])


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_models_are_the_one_that_answers_and_a_name_that_always_means_it(server: Server, http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny", "qwen3-vl"]
    assert http.get("/v1/models/").json() == listed
    for name in ("tiny", "qwen3-vl"):
        assert http.get(f"/v1/models/{name}").json()["id"] == name
        assert http.post(CHAT, json=question(model=name)).status_code == 200


def test_models_have_the_length_of_their_context_where_clients_look_for_it(
    server: Server, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "max_model_len" not in http.get("/v1/models/tiny").json()  # it is not known
    monkeypatch.setattr(server.backend, "now", dataclasses.replace(server.backend.now, context_length=4096))
    for model in (*http.get("/v1/models").json()["data"], http.get("/v1/models/tiny").json()):
        assert (model["max_model_len"], model["meta"]) == (4096, {"n_ctx": 4096})


@pytest.mark.parametrize("name", ["AXERA-TECH/Qwen3-VL-2B-Instruct-GPTQ-Int4", "gpt-4o", "", None])
def test_whatever_model_is_named_the_one_that_is_there_answers(http: httpx.Client, name: str | None) -> None:
    for stream_it in (False, True):
        with http.stream("POST", CHAT, json=question(model=name, stream=stream_it)) as response:
            reply = next(events(response)) if stream_it else json.loads(response.read())
        assert reply["model"] == "tiny"


def test_another_model_is_404_where_the_gateway_is_strict() -> None:
    with serving(strict_model=True) as server, server.client() as http:
        refused = http.post(CHAT, json=question(model="gpt-4o"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        for name in ("tiny", "qwen3-vl", ""):
            assert http.post(CHAT, json=question(model=name)).status_code == 200
        server.backend.now = NodeStatus("absent")  # it is not known which model there is
        assert http.post(CHAT, json=question(model="gpt-4o")).status_code == 200


def test_health_is_the_gateways_and_readiness_the_nodes(server: Server, http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "healthy"}
    assert http.get("/ready").json() == {"status": "ready"}


def test_metrics_count_requests_tokens_and_errors(server: Server, http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(name)), 0))

    def values() -> list[float]:
        return [
            value(f'qwen3vl_requests_total{{path="{CHAT}",status="200"}}'),
            value('qwen3vl_tokens_total{kind="completion"}'),
            value("qwen3vl_answer_seconds_count"),
            value('qwen3vl_errors_total{code="model_not_found"}'),
        ]

    before = values()
    http.post(CHAT, json=question())
    http.get("/v1/models/another")
    assert [after - was for after, was in zip(values(), before, strict=True)] == [1, 2, 1, 1]
    assert value("qwen3vl_queue_capacity") == 8
    assert value("qwen3vl_node_up") == 1


def test_the_page_is_told_of_node_cameras_and_tasks(http: httpx.Client) -> None:
    status = http.get("/api/status").json()
    assert status == {
        "node": True, "state": "ready", "message": "", "engine": "scripted", "model": "tiny", "queue_length": 0,
        "queue_capacity": 8, "records": False, "token_required": False, "max_video_bytes": 20_000_000,
        "model_card": {"domain": "", "demonstration": False, "tasks": [], "conversation": True, "languages": [],
                       "license": "", "grounding_image_tokens": 0},
        "cameras": [{"name": "front", "topic": "/front/image", "rate": 30.0, "age": 0.02, "problem": ""}],
    }  # fmt: skip
    (task,) = http.get("/api/tasks").json()
    assert (task["name"], task["main"], task["slots"], task["min_images"]) == ("locate", "what", [], 1)


def test_the_page_is_told_of_the_published_models_with_the_figures_that_are_kept(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = http.get("/api/catalogue").json()
    assert found["measured"] is False and len(found["models"]) == len(catalogue())
    assert not list(tmp_path.iterdir())  # the server measures nothing
    speed.save(this_machine(), speed.Measurement(*[speed.Cost(0.001, 0.001)] * 3))
    found = http.get("/api/catalogue").json()
    assert found["measured"] is True
    (model,) = (model for model in found["models"] if (model["name"], model["quant"]) == ("2b", "Q4_K_M"))
    assert model["repo"] == "Qwen/Qwen3-VL-2B-Instruct-GGUF"
    assert {"fits_memory", "fits_disk", "first_token", "tokens_per_second", "recommended"} <= set(model)


def test_a_frame_is_a_jpeg_that_says_when_it_was_taken(http: httpx.Client) -> None:
    frame = http.get("/api/cameras/front/frame.jpg", params={"width": 32})
    assert frame.headers["content-type"] == "image/jpeg"
    assert frame.content.startswith(b"\xff\xd8")
    assert frame.headers["x-frame-stamp"] == "12.000000034"
    assert frame.headers["x-frame-age"] == "0.056"
    assert frame.headers["x-frame-size"] == "64x48"
    assert frame.headers["cache-control"] == "no-store"


def test_the_page_is_served_with_its_parts(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert http.get("/static/index.html").text == page.text
    assert http.get("/static/../app.py").status_code == 404


def test_stages_are_counted_as_in_the_feedback() -> None:
    names = ("QUEUED", "WAITING_FRAME", "ENCODE", "PREFILL", "DECODE")
    assert [getattr(AskImage.Feedback, f"STAGE_{name}") for name in names] == list(range(len(STAGES)))
