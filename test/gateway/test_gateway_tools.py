"""Tools in chat requests: what the node is asked, what clients get, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway_server import Asked, Server, image_file, question, serving
from qwen3vl_ros.gateway.tool_calls import calls_text, results_text, tools_text

CHAT = "/v1/chat/completions"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Moves the robot.",
            "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
    }
    for name in ("move", "turn")
]
CALLS = [("move", '{"x": 1}'), ("turn", '{"x": -0.5}')]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def says(text: str) -> Any:
    def script(asked: Asked) -> None:
        for letter in text:
            asked.say(letter)
        asked.answer()

    return script


def test_openais_client_gets_calls_whole_and_streamed_and_sends_their_results(server: Server) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    server.backend.script = says(calls_text("I go.", CALLS))
    messages: list[Any] = [{"role": "system", "content": "Be careful."}, {"role": "user", "content": "Go on."}]
    choice = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I go.")
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == CALLS
    assert len({call.id for call in choice.message.tool_calls}) == 2
    asked = server.backend.next_asked().goal
    assert (asked.prompt, asked.system_prompt) == ("Go on.", f"Be careful.\n\n{tools_text(TOOLS)}")

    streamed: dict[int, dict[str, str]] = {}
    content, reasons = "", []
    for chunk in client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
        for call in delta.tool_calls or []:
            known = streamed.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
            known["id"] += call.id or ""
            known["name"] += call.function.name or ""
            known["arguments"] += call.function.arguments or ""
    assert (content, reasons[-1]) == ("I go.", "tool_calls") and set(reasons[:-1]) == {None}
    assert [(call["name"], call["arguments"]) for call in streamed.values()] == CALLS
    assert all(call["id"].startswith("call_") for call in streamed.values())
    server.backend.next_asked()

    server.backend.script = says("Done.")
    messages.append(choice.message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in choice.message.tool_calls]
    choice = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS).choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", "Done.", None)
    asked = server.backend.next_asked().goal
    assert asked.prompt == results_text(["ok", "ok"])
    assert [(turn.role, list(turn.content)) for turn in asked.history] == [
        ("user", ["Go on."]),
        ("assistant", [calls_text("I go.", CALLS)]),
    ]


def test_a_call_alone_has_no_content(server: Server, http: httpx.Client) -> None:
    server.backend.script = says(calls_text("", CALLS[:1]))
    message = http.post(CHAT, json=question(tools=TOOLS)).raise_for_status().json()["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1


def test_what_is_no_call_stays_text_with_a_note(server: Server, http: httpx.Client) -> None:
    server.backend.script = says(calls_text("", [("fly", "{}")]))
    body = http.post(CHAT, json=question(tools=TOOLS)).raise_for_status().json()
    assert body["choices"][0]["message"]["content"] == calls_text("", [("fly", "{}")])
    assert body["choices"][0]["finish_reason"] == "stop" and "is none" in body["qwen3vl_ros"]["notes"][0]


def test_a_model_is_not_told_of_tools_that_it_may_not_call(server: Server, http: httpx.Client) -> None:
    server.backend.script = says(calls_text("", CALLS))
    message = http.post(CHAT, json=question(tools=TOOLS, tool_choice="none")).json()["choices"][0]["message"]
    assert message["content"] == calls_text("", CALLS) and "tool_calls" not in message
    assert server.backend.next_asked().goal.system_prompt == ""


def test_images_of_earlier_turns_stay_where_calls_follow(server: Server, http: httpx.Client) -> None:
    server.backend.script = says("Done.")
    first = question(image_file(), "Is the way free?")["messages"]
    called = {"id": "a", "type": "function", "function": {"name": "move", "arguments": '{"x": 1}'}}
    turns = [
        *first,
        {"role": "assistant", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
    ]
    http.post(CHAT, json={"messages": turns, "tools": TOOLS}).raise_for_status()
    goal = server.backend.next_asked().goal
    assert len(goal.compressed_images) == 1 and list(goal.history[0].content) == ["", "Is the way free?"]


@pytest.mark.parametrize(
    ("known", "status", "words"),
    [("none", 400, "has no tools"), (None, 503, "not told yet")],
)
def test_a_model_without_tools_is_no_use_and_the_error_says_so(
    server: Server, http: httpx.Client, known: str | None, status: int, words: str
) -> None:
    server.backend.now = dataclasses.replace(server.backend.now, tools=known)
    refused = http.post(CHAT, json=question(tools=TOOLS))
    assert refused.status_code == status and words in refused.json()["error"]["message"]
    http.post(CHAT, json=question(tools=TOOLS, tool_choice="none")).raise_for_status()
    result = {"role": "tool", "tool_call_id": "a", "content": "ok"}
    assert http.post(CHAT, json={"messages": [*question()["messages"], result]}).status_code == status


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"task": "locate"}, "task", "choose one"),
        ({"response_format": {"type": "json_object"}}, "response_format", "choose one"),
        ({"tool_choice": "required"}, "tool_choice", "use auto or none"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type", "'function'"),
        ({"functions": [{"name": "f"}], "tools": []}, "functions", "in tools"),
    ],
)
def test_what_does_not_go_together_is_refused(http: httpx.Client, fields: Any, param: str, words: str) -> None:
    error = http.post(CHAT, json=question(**({"tools": TOOLS} | fields))).json()["error"]
    assert error["param"] == param and words in error["message"]


def test_arguments_of_an_earlier_call_have_to_be_json(http: httpx.Client) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "move", "arguments": "{"}}
    turns = [{"role": "assistant", "tool_calls": [call]}, *question()["messages"]]
    error = http.post(CHAT, json={"messages": turns, "tools": TOOLS}).json()["error"]
    assert error["param"] == "messages.0.tool_calls.0.function.arguments" and "JSON object" in error["message"]


def test_strict_arguments_are_not_promised(server: Server, http: httpx.Client) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    notes = http.post(CHAT, json=question(tools=strict)).raise_for_status().json()["qwen3vl_ros"]["notes"]
    assert any("strict" in note for note in notes)
    assert json.dumps(TOOLS[0]) in server.backend.next_asked().goal.system_prompt
