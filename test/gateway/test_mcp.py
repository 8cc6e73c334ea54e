"""The tools for agents: over HTTP with the SDK's client, in front of a backend whose answers the tests write."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed here")

import anyio
import anyio.to_thread
import httpx
import httpx2
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from std_msgs.msg import Header

from gateway_server import PATIENCE, Asked, ScriptedBackend, Server, serving, stays_open
from qwen3vl_ros.cli import main as cli
from qwen3vl_ros.client.answer import Box, Position, Region
from qwen3vl_ros.client.exceptions import NoFrame
from qwen3vl_ros.gateway.backend import CameraStatus
from qwen3vl_ros.gateway.mcp.answers import MOST_TOKENS, Pages, clipped, count_tokens
from qwen3vl_ros.gateway.mcp.arguments import TOOLS

TOKEN = "a-token-of-the-tests"
STAMP = Time(sec=12, nanosec=500_000_000)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    shared.backend.rewrite()
    shared.backend.seen = (CameraStatus("front", "/front/image", 30.0, 0.02),)
    shared.backend.now = dataclasses.replace(shared.backend.now, state="ready", message="")
    return shared


def with_client(server: Server, use: Callable[[Client], Any], *, token: str = "", mode: str = "auto") -> Any:
    async def connect() -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as client,
        ):
            return await use(client)

    return anyio.run(connect)


def call(server: Server, tool: str, **arguments: Any) -> Any:
    """The answer of a tool that has to succeed."""
    result = with_client(server, lambda client: client.call_tool(tool, arguments))
    assert not result.is_error, result.content
    return json.loads(result.content[-1].text)


def refusal(server: Server, tool: str, **arguments: Any) -> str:
    result = with_client(server, lambda client: client.call_tool(tool, arguments))
    assert result.is_error
    return str(result.content[0].text)


def region(label: str = "red cup", score: float | None = 0.9, **fields: Any) -> Region:
    position = Position(0.1, -0.2, 1.23456, "camera_optical_frame", STAMP)
    return Region(label, box=Box(10, 20, 30, 40), score=score, **({"position": position} | fields))


def answers(*regions: Region, text: str = "[]", **fields: Any) -> Callable[[Asked], None]:
    headers = (Header(stamp=STAMP, frame_id="camera_optical_frame"),)
    return lambda asked: asked.answer(text, regions=regions, image_headers=headers, **fields)


# --- what an agent gets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_every_tool_is_listed_with_what_it_takes(server: Server, mode: str) -> None:
    tools = with_client(server, lambda client: client.list_tools(), mode=mode).tools
    assert [tool.name for tool in tools] == list(TOOLS)
    assert all(tool.description and tool.input_schema["additionalProperties"] is False for tool in tools)
    assert [tool.name for tool in tools if not tool.annotations.read_only_hint] == ["watch"]


def test_a_look_asks_the_node_about_that_camera(server: Server) -> None:
    server.backend.script = answers(text="It is open.", notes=("a note",))
    answer = call(server, "look", question="Is the door open?", camera="front", detail="high")
    assert answer == {"answer": "It is open.", "stamp": 12.5, "note": "a note"}
    goal = server.backend.next_asked().goal
    assert (goal.prompt, list(goal.cameras), goal.max_image_tokens) == ("Is the door open?", ["front"], 1024)


def test_places_come_best_first(server: Server) -> None:
    server.backend.script = answers(region(score=0.4), region(score=0.8, position=None))
    assert call(server, "locate", thing="red cup") == {
        "things": [
            {"label": "red cup", "box": [10, 20, 30, 40], "score": 0.8},
            {
                "label": "red cup",
                "box": [10, 20, 30, 40],
                "score": 0.4,
                "position": [0.1, -0.2, 1.235],
                "frame": "camera_optical_frame",
            },
        ],
        "stamp": 12.5,
    }


def test_a_thing_is_found_in_the_frame_that_was_asked_for(server: Server) -> None:
    position = Position(1.0, 2.0, 3.0, "map", STAMP)
    server.backend.script = answers(region(position=position))
    found = call(server, "find", thing="red cup", frame="map")
    assert (found["found"], found["position"], found["frame"], found["stamp"]) == (True, [1.0, 2.0, 3.0], "map", 12.5)
    goal = server.backend.next_asked().goal
    assert (goal.task, goal.prompt, goal.target_frame, list(goal.cameras)) == ("locate", "red cup", "map", ["front"])


@pytest.mark.parametrize(
    ("regions", "frame", "why"),
    [
        ((), "", "not seen"),
        ((region(score=0.1),), "", "best score is 0.10"),
        ((region(position=None, position_error="NO_DEPTH: nothing there."),), "", "NO_DEPTH: nothing there."),
        ((region(position=None),), "", "no depth image"),
        ((region(),), "map", "in 'camera_optical_frame', not in 'map'"),
    ],
)
def test_what_is_not_found_has_a_reason(server: Server, regions: Any, frame: str, why: str) -> None:
    server.backend.script = answers(*regions)
    answer = call(server, "find", thing="red cup", frame=frame)
    assert answer["found"] is False and why in answer["why"]


def test_a_thing_is_looked_for_through_every_camera(server: Server) -> None:
    server.backend.seen = tuple(CameraStatus(name, f"/{name}/image") for name in ("left", "right", "back"))

    def script(asked: Asked) -> None:
        name = asked.goal.cameras[0]
        if name == "left":
            asked.fail(NoFrame("No frame on /left/image."))
        else:
            answers(*([region()] if name == "back" else []))(asked)

    server.backend.script = script
    assert call(server, "find", thing="red cup")["camera"] == "back"
    server.backend.seen = server.backend.seen[:2]
    assert call(server, "find", thing="red cup")["why"] == "left: No frame on /left/image. right: it is not seen there."


def test_the_sentence_of_the_node_is_what_an_agent_reads(server: Server) -> None:
    server.backend.script = lambda asked: asked.fail(NoFrame("No frame on /front/image for 3 s."))
    assert refusal(server, "look", question="?") == "No frame on /front/image for 3 s."
    assert "'front', 'dark'" in refusal(server, "get_image", camera="rear")
    assert "no frame on /dark/image" in refusal(server, "get_image", camera="dark")


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("look", {}, "question: it is required"),
        ("look", {"question": "?", "colour": "red"}, "colour: there is no such argument"),
        ("look", {"question": "?", "detail": "most"}, "'low' or 'high'"),
        ("watch", {"question": "?", "every": 0}, "every"),
        ("watch", {"question": "?", "stop": "x"}, "not both"),
        ("watch", {"stop": "nothing"}, "no watch 'nothing'"),
        ("tasks", {"name": "fly"}, "there are locate"),
        ("more", {"id": "none"}, "nothing is kept"),
        ("dance", {}, "no tool 'dance'"),
    ],
)
def test_a_wrong_call_is_answered_with_what_would_be_right(
    server: Server, tool: str, arguments: Any, words: str
) -> None:
    assert words in refusal(server, tool, **arguments)


def test_a_watch_is_added_listed_and_ended(server: Server) -> None:
    name = call(server, "watch", question="Is the door open?", every=2, minutes=10)["watch"]
    added = server.backend.kept.added[name]
    assert (added.prompt, added.min_period.sec, added.max_duration.sec) == ("Is the door open?", 2, 600)
    assert call(server, "watch")["watches"] == [{"watch": name, "question": "Is the door open?", "true_now": False}]
    assert call(server, "watch", stop=name) == {"stopped": name}
    assert call(server, "watch")["watches"] == []


def test_only_events_that_an_agent_does_not_know_are_told(server: Server) -> None:
    answer = call(server, "recent_events")
    assert (answer["last"], answer["events"][0]["message"]) == (7, "The door is open.")
    assert call(server, "recent_events", since=6)["events"] == answer["events"]
    assert call(server, "recent_events", since=7)["events"] == []
    assert call(server, "recent_events", since=900)["events"] == answer["events"]  # of before the server began anew


def test_an_image_leaves_the_robot_only_when_it_is_asked_for(server: Server) -> None:
    server.backend.script = answers(region())
    for tool, arguments in (("look", {"question": "?"}), ("locate", {"thing": "x"}), ("find", {"thing": "x"})):
        result = with_client(server, lambda client, t=tool, a=arguments: client.call_tool(t, a))
        assert [part.type for part in result.content] == ["text"]
    result = with_client(server, lambda client: client.call_tool("get_image", {"width": 100}))
    assert [part.type for part in result.content] == ["image", "text"] and result.content[0].mime_type == "image/jpeg"


def test_an_unready_robot_says_why(server: Server) -> None:
    server.backend.now = dataclasses.replace(server.backend.now, state="loading", message="30 %")
    assert call(server, "status") == {
        "ready": False,
        "why": "the node is loading its model: 30 %",
        "model": "tiny",
        "cameras": ["front"],
    }


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_no_answer_costs_more_than_300_tokens_and_none_of_it_is_lost(server: Server) -> None:
    text = " ".join(f"Word {number}, 词{number}." for number in range(400))
    server.backend.script = answers(text=text, notes=("A long note. " * 200,))

    async def read(client: Client) -> list[str]:
        result = await client.call_tool("look", {"question": "?"})
        pages = [result.content[0].text]
        while cut := json.loads(pages[-1]).get("cut"):
            result = await client.call_tool("more", {"id": cut.split()[4]})
            pages.append(result.content[0].text)
        return pages

    pages = with_client(server, read)
    assert len(pages) > 3 and all(count_tokens(page) <= MOST_TOKENS for page in pages)
    assert "".join(json.loads(page)["answer"] for page in pages) == text


def test_long_lists_labels_and_errors_are_short_too(server: Server) -> None:
    server.backend.script = answers(*[region("very red cup " * 100)] * 50)
    for tool in ("locate", "find"):
        result = with_client(server, lambda client, tool=tool: client.call_tool(tool, {"thing": "cup"}))
        assert count_tokens(result.content[0].text) <= MOST_TOKENS
    server.backend.script = lambda asked: asked.fail(NoFrame("No frame. " * 1000))
    assert count_tokens(refusal(server, "look", question="?")) <= MOST_TOKENS
    assert count_tokens(refusal(server, "x" * 5000)) <= MOST_TOKENS
    assert count_tokens(refusal(server, "tasks", name="词" * 5000)) <= MOST_TOKENS
    assert count_tokens(refusal(server, "look", question="?", **{"x" * 5000: 1})) <= MOST_TOKENS


@given(st.text(max_size=3000), st.integers(5, 300))
def test_a_clipped_text_is_short_enough(text: str, most: int) -> None:
    short = clipped(text, most)
    assert count_tokens(short) <= most and (short == text or text.startswith(short.removesuffix("...")))


@given(st.text(max_size=6000))
def test_the_pages_of_a_text_are_the_text(text: str) -> None:
    pages = Pages()
    page, parts = pages.first({"answer": text}, "answer"), []
    while True:
        assert count_tokens(page) <= MOST_TOKENS
        fields = json.loads(page)
        parts.append(fields["answer"])
        if "cut" not in fields:
            break
        page = pages.rest(fields["cut"].split()[4])
    assert "".join(parts) == text


# --- who may call -----------------------------------------------------------------------------------------------------


def test_the_gateways_token_is_needed_here_too() -> None:
    with serving(token=TOKEN) as server:
        assert with_client(server, lambda client: client.list_tools(), token=TOKEN).tools
        with pytest.raises(BaseException):  # noqa: B017, PT011 whatever the SDK makes of a 401
            with_client(server, lambda client: client.list_tools())
        with pytest.raises(BaseException):  # noqa: B017, PT011
            with_client(server, lambda client: client.list_tools(), token="another-token-of-the-tests")
        with server.client() as http:
            refused = http.post("/mcp", json={})
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "missing_api_key"


def test_pages_of_other_sites_and_other_names_of_the_host_are_refused(server: Server) -> None:
    with server.client() as http:
        for headers, code in (
            ({"Host": "evil.example"}, "unknown_host"),
            ({"Origin": "https://x.y"}, "foreign_origin"),
        ):
            refused = http.post("/mcp", json={}, headers=headers)
            assert refused.status_code == 403 and refused.json()["error"]["code"] == code


def test_only_post_is_served_and_large_messages_are_not(server: Server) -> None:
    with server.client() as http:
        assert http.get("/mcp").status_code == http.delete("/mcp").status_code == 405
        assert http.post("/mcp", content=b" " * 4_000_001).status_code == 413


def test_agents_share_the_limits_of_the_gateway() -> None:
    with serving(rate_limit=2) as server:
        for _ in range(2):
            call(server, "look", question="?")
        assert "more than 2 questions a minute" in refusal(server, "look", question="?")
        call(server, "status")
        body = {"messages": [{"role": "user", "content": "?"}]}
        with server.client() as http:
            assert http.post("/v1/chat/completions", json=body).status_code == 429


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_agent_that_gives_up_cancels_its_question(server: Server, mode: str) -> None:
    server.backend.script = stays_open

    async def give_up(client: Client) -> Asked:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "look", {"question": "?"})
            asked = await anyio.to_thread.run_sync(server.backend.next_asked)
            group.cancel_scope.cancel()
        return asked

    asked = with_client(server, give_up, mode=mode)
    assert asked.cancelled.wait(PATIENCE)


def test_without_the_sdk_path_and_command_say_what_to_install(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mcp_types" else found(name))
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        missing = http.post("/mcp", json={})
    assert missing.status_code == 501 and "pip install" in missing.json()["error"]["message"]
    assert cli.main(["mcp"]) == 1
    assert "pip install" in capsys.readouterr().err


def test_questions_of_agents_are_in_the_metrics() -> None:
    with serving(ScriptedBackend()) as server:
        call(server, "look", question="?")
        with server.client() as http:
            metrics = http.get("/metrics").text
    assert 'qwen3vl_tokens_total{kind="prompt"} 80.0' in metrics and 'path="/mcp"' in metrics
