"""What a request may have in it beside what is documented, and how turns become the model's messages."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from gateway_server import Asked, Server, events, image_file, question
from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.exceptions import BadResponse
from qwen3vl_ros.prompts.request import AskRequest, Turn, conversation

pytest_plugins = ["gateway_fixtures"]
CHAT = "/v1/chat/completions"


def post(http: httpx.Client, body: Any) -> httpx.Response:
    """As ASCII, in which JSON can say what UTF-8 cannot."""
    content = json.dumps(body).replace("Infinity", "1e999")
    return http.post(CHAT, content=content, headers={"Content-Type": "application/json"})


def notes_of(http: httpx.Client, body: Any) -> list[str]:
    response = post(http, body)
    assert response.status_code == 200, response.text
    notes: list[str] = response.json()["qwen3vl_ros"]["notes"]
    return notes


# --- fields without effect --------------------------------------------------------------------------------------------

NAMES = [
    "audio", "best_of", "camera", "chat_template", "chat_template_kwargs", "frequency_penalty", "function_call",
    "functions", "grammar", "guided_json", "json_schema", "logit_bias", "logprobs", "max_completion_tokens",
    "max_reasoning_tokens", "max_tokens", "metadata", "min_p", "min_tokens", "modalities", "model", "moderation", "n",
    "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_retention",
    "reasoning_effort",
    "repeat_penalty", "repetition_penalty", "response_format", "safety_identifier", "seed", "service_tier", "slots",
    "stop", "store", "stream", "stream_options", "structured_outputs", "task", "temperature", "tool_choice", "tools",
    "top_k", "top_logprobs", "top_p", "user", "verbosity", "web_search_options", "anything",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_is_null_is_not_there(http: httpx.Client, name: str) -> None:
    assert notes_of(http, question(**{name: None})) == []


NOTHING: list[dict[str, Any]] = [
    {"n": 1}, {"best_of": 1}, {"tools": []}, {"functions": []}, {"tool_choice": "none"}, {"tool_choice": "auto"},
    {"function_call": "auto"}, {"logprobs": False}, {"logit_bias": {}}, {"top_logprobs": 0},
    {"modalities": ["text"]}, {"modalities": []},
    {"response_format": {"type": "text"}}, {"response_format": {}}, {"ignore_eos": False}, {"min_tokens": 0},
    {"guided_json": ""}, {"grammar": ""}, {"store": False}, {"metadata": {}}, {"stop": []}, {"stop": ""},
    {"camera": []}, {"camera": ""}, {"typical_p": 1.0}, {"mirostat": 0}, {"stream_options": {}},
    {"chat_template_kwargs": {}}, {"thinking_budget_tokens": -1},
    {"add_generation_prompt": True}, {"length_penalty": 1.0}, {"model": ""}, {"slots": {}},
]  # fmt: skip


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_a_field_that_asks_for_nothing_is_taken_without_a_word(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert notes_of(http, question(**fields)) == []


WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"verbosity": "high"}, {"prediction": {"type": "content", "content": "x"}},
    {"prompt_cache_key": "k"}, {"prompt_cache_retention": "24h"}, {"prompt_cache_options": {"ttl": 5}},
    {"timings_per_token": True}, {"user": "me"}, {"user": 5},
    {"mm_processor_kwargs": {"max_pixels": 100}}, {"cache_prompt": True}, {"service_tier": "auto"},
    {"top_logprobs": 5}, {"keep_alive": "5m"}, {"extra_body": {"a": 1}}, {"no_such_field": [1]}, {"a.b": 1},
    {"\u0130\n": 1}, {"return_progress": True}, {"id_slot": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", WITHOUT_EFFECT, ids=str)
def test_a_field_without_effect_is_taken_and_told(http: httpx.Client, fields: dict[str, Any]) -> None:
    (name,) = fields
    assert notes_of(http, question(**fields)) == [f"{name}: without effect"]


def test_variables_of_the_template_without_effect_are_told(http: httpx.Client) -> None:
    variables = {"enable_thinking": False, "preserve_thinking": True}
    assert notes_of(http, question(chat_template_kwargs=variables)) == [
        "chat_template_kwargs.preserve_thinking: without effect"
    ]


def test_what_has_no_effect_is_told_in_a_stream_and_for_a_form(http: httpx.Client) -> None:
    with http.stream("POST", CHAT, json=question(stream=True, verbosity="low")) as response:
        last = [chunk for chunk in events(response) if isinstance(chunk, dict)][-1]
    assert last["qwen3vl_ros"]["notes"] == ["verbosity: without effect"]
    form = {"prompt": "?", "n": "1", "top_p": "1", "max_tokens": "-1", "seed": "", "verbosity": "low"}
    reply = http.post(CHAT, files={"image": ("a.png", image_file())}, data=form)
    assert reply.json()["qwen3vl_ros"]["notes"] == ["verbosity: without effect"]


def test_fields_of_messages_and_parts_without_effect_are_taken_and_told_once(http: httpx.Client) -> None:
    body = question(image_file(), "What?", "Really?")
    (turn,) = body["messages"]
    turn |= {"name": "Ann", "weight": 1, "tool_calls": [], "refusal": None, "annotations": []}
    image, *texts = turn["content"]
    image |= {"uuid": "a", "min_pixels": 1, "cache_control": {"type": "ephemeral"}}
    image["image_url"] |= {"detail": "original", "max_dynamic_patch": 4}
    for text in texts:
        text |= {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": True, "annotations": None}
    assert notes_of(http, body) == [
        "messages[].name: without effect",
        "messages[].weight: without effect",
        "messages[].content[].uuid: without effect",
        "messages[].content[].min_pixels: without effect",
        "messages[].content[].cache_control: without effect",
        "messages[].content[].image_url.detail: without effect",
        "messages[].content[].image_url.max_dynamic_patch: without effect",
        "messages[].content[].prompt_cache_breakpoint: without effect",
    ]


def test_notes_stay_few_and_short(http: httpx.Client) -> None:
    notes = notes_of(http, question(**{f"{number}{'x' * 1000}": 1 for number in range(50)}))
    assert len(notes) == 21
    assert max(map(len, notes)) < 250
    assert notes[-1] == "30 more fields: without effect"


def test_an_earlier_answer_may_come_back_as_it_was(server: Server, http: httpx.Client) -> None:
    earlier = http.post(CHAT, json=question()).json()["choices"][0]["message"]
    server.backend.rewrite()
    turns = [*question()["messages"], {**earlier, "tool_calls": None, "audio": None, "function_call": None}]
    assert notes_of(http, {"messages": [*turns, {"role": "user", "content": "Sure?"}]}) == []
    silent: Any = {"role": "assistant", "content": None, "tool_calls": []}
    assert notes_of(http, {"messages": [turns[0], silent, {"role": "user", "content": "Sure?"}]}) == []


# --- other names, and values that mean nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "option", "value"),
    [
        ({"repeat_penalty": 1.5}, "repetition_penalty", 1.5),
        ({"repeat_penalty": 1.5, "repetition_penalty": 1.5}, "repetition_penalty", 1.5),
        ({"n_predict": 7}, "max_tokens", 7),
        ({"max_tokens": 7, "max_completion_tokens": 7}, "max_tokens", 7),
        ({"max_tokens": 7.0}, "max_tokens", 7),
        ({"max_new_tokens": 7}, "max_tokens", 7),
        ({"random_seed": 7}, "seed", 7),
        ({"stop_sequences": ["x"]}, "stop", ["x"]),
        ({"max_tokens": -1, "max_completion_tokens": 7}, "max_tokens", 7),
        ({"max_tokens": -1}, "max_tokens", -1),
        ({"n_predict": -1}, "max_tokens", -1),
        ({"top_k": -1}, "top_k", -1),
        ({"top_k": 0}, "top_k", 0),
        ({"top-k": -1}, "top_k", -1),
        ({"seed": -1}, "seed", -1),
        ({"top_p": 1}, "top_p", -1.0),
        ({"top_p": 1.0}, "top_p", -1.0),
        ({"temperature": 0}, "temperature", 0),
    ],
    ids=str,
)
def test_options_have_the_names_and_values_of_other_servers(
    server: Server, http: httpx.Client, fields: dict[str, Any], option: str, value: float
) -> None:
    assert notes_of(http, question(**fields)) == []
    assert getattr(server.backend.next_asked().goal.options, option) == value


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    "format", [{"type": "json_object", "schema": SCHEMA}, {"type": "json_schema", "schema": SCHEMA},
               {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": None, "description": None}}]
)  # fmt: skip
def test_a_schema_is_found_where_other_servers_have_it(
    server: Server, http: httpx.Client, format: dict[str, Any]
) -> None:
    server.backend.script = lambda asked: asked.answer('{"a": "b"}', json={"a": "b"})
    assert notes_of(http, question(response_format=format)) == []
    assert json.loads(server.backend.next_asked().goal.response_schema) == SCHEMA


# --- fields that would change the answer ------------------------------------------------------------------------------

REFUSED: list[dict[str, Any]] = [
    {"n": 2}, {"best_of": 3}, {"functions": [{"name": "f"}]},
    {"tool_choice": "required"}, {"tool_choice": {"type": "function"}}, {"logprobs": True}, {"prompt_logprobs": 1},
    {"logit_bias": {"5": 1}}, {"modalities": ["text", "audio"]},
    {"web_search_options": {"search_context_size": "low"}}, {"min_tokens": 5}, {"ignore_eos": True},
    {"guided_json": SCHEMA}, {"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a"]}},
    {"grammar": "root ::= x"}, {"json_schema": SCHEMA}, {"stop_token_ids": [1]}, {"bad_words": ["x"]},
    {"use_beam_search": True}, {"typical_p": 0.5}, {"mirostat": 2}, {"xtc_probability": 0.1}, {"echo": True},
    {"add_generation_prompt": False}, {"continue_final_message": True}, {"chat_template": "{{ x }}"},
    {"images": ["AAAA"]}, {"system": "Be brief."}, {"n_probs": 5},
    {"system_prompt": "Be brief."}, {"cameras": ["front"]}, {"format": "json"}, {"response_schema": SCHEMA},
    {"skip_special_tokens": False}, {"include_stop_str_in_output": True}, {"history": [{"role": "user"}]},
]  # fmt: skip


@pytest.mark.parametrize("fields", REFUSED, ids=str)
def test_a_field_that_would_change_the_answer_is_refused_by_name(http: httpx.Client, fields: dict[str, Any]) -> None:
    (name,) = fields
    refused = http.post(CHAT, json=question(**fields))
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert error["message"].startswith(f"{name}: ")
    assert "validation" not in error["message"]


def test_a_form_may_ask_for_no_more(http: httpx.Client) -> None:
    form = {"image": ("a.png", image_file()), "prompt": (None, "?"), "n": (None, "2")}
    assert http.post(CHAT, files=form).json()["error"]["param"] == "n"


def turn(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What?"} | fields]}


def part(**fields: Any) -> dict[str, Any]:
    return turn(content=[{"type": "text", "text": "What?"}, fields])


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (turn(tool_calls=[{"id": "a"}]), "messages.0.tool_calls.0.function", "it is required"),
        (turn(images=["AAAA"]), "messages.0.images", "image_url"),
        (turn(role="robot"), "messages.0.role", "it has to be 'system', 'developer', 'user', 'assistant' or 'tool'"),
        (turn(content=None), "messages.0.content", "it is required"),
        (turn(content=5), "messages.0.content", "it has to be a string or a list"),
        (turn(content=["text"]), "messages.0.content.0", "an object"),
        (part(type="text", text=5, cache_control={}), "messages.0.content.1.text", "a string"),
        (part(type="text", cache_control={}), "messages.0.content.1.text", "it is required"),
        (part(type="image_url", image_url={}, uuid="a"), "messages.0.content.1.image_url.url", "it is required"),
        (part(type="image_url", image_url=5), "messages.0.content.1.image_url", "it has to be an object or a string"),
        (part(type="video_url", video_url={}), "messages.0.content.1.video_url.url", "it is required"),
        (part(type="input_audio", input_audio={}), "messages.0.content.1.type", "'input_audio' is not taken here"),
        (part(type="text", text={"text": 5, "type": "text"}), "messages.0.content.1.text", "a string"),
        (
            part(type="image_url", image_url={"url": 5, "image_url": 6}),
            "messages.0.content.1.image_url.url",
            "a string",
        ),
        (part(text="x"), "messages.0.content.1.type", "it is required"),
        ({"messages": "What?"}, "messages", "a list"),
        ({"messages": []}, "messages", "at least 1"),
        (question(repeat_penalty=9), "repeat_penalty", "less than or equal to 2"),
        (question(**{"top-p": 9}), "top-p", "less than or equal to 1"),
        (question(max_completion_tokens=0), "max_completion_tokens", "greater than or equal to 1"),
        (question(max_tokens=1.5), "max_tokens", "a whole number"),
        (question(max_tokens=1, max_completion_tokens=2), "max_completion_tokens", "mean the same"),
        (question(repeat_penalty=1.5, repetition_penalty=1.25), "repetition_penalty", "mean the same"),
        (question(stream="yes"), "stream", "true or false"),
        (question(stop=5), "stop", "a string or a list"),
        (question(camera={"name": "front"}), "camera", "a string or a list"),
        (question(response_format={"type": "regex"}), "response_format.type", "'json_schema'"),
        (question(response_format={"type": "json_schema"}), "response_format.json_schema", "it is required"),
        (
            question(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
            "response_format.json_schema.schema",
            "it is required",
        ),
        (question(stream_options={"include_usage": 5}), "stream_options.include_usage", "true or false"),
        (question(temperature=float("1e999")), "temperature", "less than or equal to 2"),
    ],
    ids=str,
)
def test_an_error_names_the_field_as_the_client_wrote_it(
    http: httpx.Client, body: dict[str, Any], param: str, words: str
) -> None:
    refused = post(http, body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert words in error["message"]
    assert not any(word in error["message"].lower() for word in ("input should", "validation", "valid "))


# --- text that is none ------------------------------------------------------------------------------------------------

PATHS: dict[str, Any] = {
    "messages.0.content": lambda text: turn(content=text),
    "messages.0.content.1.text": lambda text: part(type="text", text=text),
    "messages.1.content": lambda text: {"messages": [*question()["messages"], *turn(content=text)["messages"]]},
    "messages.0.role": lambda text: turn(role=text),
    "messages.0.name": lambda text: turn(name=text),
    "messages.0.content.1.image_url": lambda text: part(type="image_url", image_url=text),
    "stop": lambda text: question(stop=text),
    "stop.0": lambda text: question(stop=[text]),
    "task": lambda text: question(task=text),
    "camera": lambda text: question(camera=text),
    "camera.0": lambda text: question(camera=[text]),
    "slots.a": lambda text: question(task="locate", slots={"a": text}),
    "model": lambda text: question(model=text),
    "user": lambda text: question(user=text),
    "response_format.schema.title": lambda text: question(
        response_format={"type": "json_object", "schema": {"title": text}}
    ),
    "response_format.schema.enum.0": lambda text: question(
        response_format={"type": "json_object", "schema": {"enum": [text]}}
    ),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_nul_is_400_and_its_path_is_named(http: httpx.Client, path: str) -> None:
    refused = post(http, PATHS[path]("a\0b"))
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == path
    assert "NUL" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("half", ["\ud83d", "\ude00\ud83d"])
def test_half_a_character_is_no_defect(http: httpx.Client, path: str, half: str) -> None:
    assert post(http, PATHS[path](f"a{half}b")).status_code in (200, 400)


def test_half_a_character_is_shown_as_one_that_cannot_be(server: Server, http: httpx.Client) -> None:
    body = {"system": None, **turn(content="Hello \ud83d"), "stop": ["\udfff"], "camera": "\ud800"}
    body["messages"].insert(0, {"role": "system", "content": "\ud800!"})
    assert notes_of(http, body) == []
    goal = server.backend.next_asked().goal
    assert (goal.prompt, goal.system_prompt) == ("Hello \ufffd", "\ufffd!")
    assert (list(goal.options.stop), list(goal.cameras)) == (["\ufffd"], ["\ufffd"])


def test_a_nul_below_a_name_that_is_no_text_is_400(http: httpx.Client) -> None:
    assert post(http, question(**{"\ud800": "\0"})).json()["error"]["param"] == "\ufffd"
    assert post(http, question(slots={"\ud800": "\0"})).json()["error"]["param"] == "slots.\ufffd"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_may_be_no_text_either(http: httpx.Client, name: str) -> None:
    assert post(http, question(**{name: 1})).status_code == (400 if "\0" in name else 200)
    schema = {"type": "json_object", "schema": {"properties": {name: {}}}}
    assert post(http, question(response_format=schema)).status_code == (400 if "\0" in name else 200)


def test_a_nul_in_a_form_is_400(http: httpx.Client) -> None:
    form = {"image": ("a.png", image_file()), "prompt": (None, "a\0b")}
    assert http.post(CHAT, files=form).json()["error"]["param"] == "prompt"


# --- turns ------------------------------------------------------------------------------------------------------------


def messages(*turns: tuple[str, Any], prompt: str = "", system: str = "", own: int = 0) -> list[tuple[str, list[Any]]]:
    """What the model reads: role and content, images as numbers from 0."""
    history = tuple(Turn(role, tuple(content)) for role, content in turns)  # type: ignore[arg-type]
    number = sum(turn.content.count(None) for turn in history) + own
    images = [np.full((1, 1, 3), index, np.uint8) for index in range(number)]
    asked = AskRequest(prompt, system_prompt=system, history=history)
    return [
        (message.role, [part if isinstance(part, str) else int(part[0, 0, 0]) for part in message.content])
        for message in conversation(asked, images, prompt)
    ]


@pytest.mark.parametrize(
    ("turns", "prompt", "own", "expected"),
    [
        ([("user", ["Make a title"])], "A man at the door", 0, [("user", ["Make a title\n\nA man at the door"])]),
        ([("user", ["a", None])], "b", 0, [("user", ["a", 0, "b"])]),
        ([("user", ["a", None, "b"])], "", 1, [("user", ["a", 0, "b", 1])]),
        ([("user", ["a"])], "b", 1, [("user", ["a", 0, "b"])]),
        ([("user", ["a"])], "", 0, [("user", ["a"])]),
        ([("user", ["a"]), ("user", ["b"])], "c", 0, [("user", ["a\n\nb\n\nc"])]),
        (
            [("user", ["a"]), ("assistant", ["b"]), ("assistant", ["c"])],
            "d",
            0,
            [("user", ["a"]), ("assistant", ["b\n\nc"]), ("user", ["d"])],
        ),
        (
            [("user", ["a"]), ("user", ["b", "c"]), ("assistant", ["d"])],
            "e",
            0,
            [("user", ["a\n\nb", "c"]), ("assistant", ["d"]), ("user", ["e"])],
        ),
    ],
)
def test_turns_of_one_role_are_one_with_an_empty_line_between_their_texts(
    turns: Any, prompt: str, own: int, expected: Any
) -> None:
    assert messages(*turns, prompt=prompt, own=own) == expected


def test_instructions_of_goal_and_history_are_kept_apart() -> None:
    turns = messages(("system", ["b"]), prompt="c", system="a")
    assert turns == [("system", ["a\n\nb"]), ("user", ["c"])]


def test_two_messages_of_the_user_stay_two(server: Server, http: httpx.Client) -> None:
    turns = [{"role": "user", "content": "Make a title"}, {"role": "user", "content": "A man at the door"}]
    assert notes_of(http, {"messages": turns}) == []
    goal = server.backend.next_asked().goal
    assert [(each.role, list(each.content)) for each in goal.history] == [("user", ["Make a title"])]
    assert goal.prompt == "A man at the door"


def test_texts_side_by_side_in_one_message_are_one(server: Server, http: httpx.Client) -> None:
    assert notes_of(http, question("Make a ", "title", image_file(), "A man", " at the door")) == []
    goal = server.backend.next_asked().goal
    assert [list(each.content) for each in goal.history] == [["Make a title", ""]]
    assert goal.prompt == "A man at the door"


# --- answers that were cut off ----------------------------------------------------------------------------------------

CUT = '{"a": "bcd'


def cut_off(asked: Asked) -> None:
    asked.say(CUT)
    answer = Answer(CUT, finish_reason="length", model="tiny", engine="scripted")
    asked.fail(BadResponse("the answer is not JSON", text=CUT, answer=answer))


@pytest.mark.parametrize("fields", [{"response_format": {"type": "json_object"}}, {"task": "locate"}])
def test_json_that_max_tokens_cut_off_is_an_answer_of_that_length(
    server: Server, http: httpx.Client, fields: dict[str, Any]
) -> None:
    server.backend.script = cut_off
    reply = http.post(CHAT, json=question(**fields)).raise_for_status().json()
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CUT, "length")
    assert reply["qwen3vl_ros"]["json"] is None
    assert reply["qwen3vl_ros"]["notes"] == ["the answer is not JSON"]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_of_json_that_was_cut_off_ends_with_that_reason(
    server: Server, http: httpx.Client, usage: bool
) -> None:
    server.backend.script = cut_off
    body = question(response_format={"type": "json_object"}, stream=True, stream_options={"include_usage": usage})
    with http.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200
        chunks = [chunk for chunk in events(response) if isinstance(chunk, dict)]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == CUT
    assert choices[-1]["finish_reason"] == "length"
    assert not any("error" in chunk for chunk in chunks)


def test_json_that_is_wrong_but_whole_is_still_an_error(server: Server, http: httpx.Client) -> None:
    answer = Answer("red", finish_reason="stop")
    server.backend.script = lambda asked: asked.fail(BadResponse("no JSON", text="red", answer=answer))
    assert http.post(CHAT, json=question(response_format={"type": "json_object"})).status_code == 502
