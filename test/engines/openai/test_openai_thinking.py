"""Thinking in the engine ``openai``: which field each kind of server is sent, and what it does with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_openai_server import Exchange, FakeServer
from qwen3vl_ros.engines.base import Cancel, Chunk, Message, Options, Request, Unsupported
from qwen3vl_ros.engines.openai.engine import OpenaiEngine


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def new(owner: str, model: str = "robot") -> FakeServer:
        server = FakeServer()
        listed = json.dumps({"data": [{"id": model, "owned_by": owner}]})
        server.on_list = lambda e: e.reply(200, listed, content_type="application/json")
        server.on_ask = thoughts_and_answer
        servers.append(server)
        return server

    yield new
    for server in servers:
        server.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., OpenaiEngine]]:
    engines: list[OpenaiEngine] = []

    def new(*servers: FakeServer, **config: Any) -> OpenaiEngine:
        engines.append(OpenaiEngine([server.url for server in servers], **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def thoughts_and_answer(exchange: Exchange, n: int = 3) -> None:
    exchange.stream()
    for _ in range(n):
        exchange.event({"choices": [{"delta": {"reasoning_content": "hm "}}]})
    exchange.token("Blue")
    exchange.finish()


def ask(engine: OpenaiEngine, **fields: Any) -> list[Chunk]:
    return list(engine.generate(Request((Message("user", ("?",)),), Options(), **fields), Cancel()))


def body(server: FakeServer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.questions[-1].body)
    return {
        name: found[name] for name in found if "think" in name or "reason" in name or name == "chat_template_kwargs"
    }


@pytest.mark.parametrize(
    ("owner", "budget"),
    [("vllm", "thinking_token_budget"), ("llamacpp", "thinking_budget_tokens"), ("sglang", "")],
)
def test_servers_are_sent_their_own_fields(
    owner: str, budget: str, serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]
) -> None:
    server = serve(owner)
    engine = connect(server)
    supports = engine.describe().supports
    assert {"thinking", "thinking_off"} <= supports
    assert ("reasoning_budget" in supports) == bool(budget)
    ask(engine)
    assert body(server) == {}
    assert "".join(chunk.reasoning for chunk in ask(engine, thinking=True)) == "hm hm hm "
    assert body(server) == {"chat_template_kwargs": {"enable_thinking": True}}
    server.on_ask = lambda e: e.answer("Blue")
    ask(engine, thinking=False)
    assert body(server) == {"chat_template_kwargs": {"enable_thinking": False}}
    if budget:
        ask(engine, max_reasoning_tokens=5)
        assert body(server) == {budget: 5}
    else:
        with pytest.raises(Unsupported, match=r"^max_reasoning_tokens: "):
            ask(engine, max_reasoning_tokens=5)


@pytest.mark.parametrize("fields", [{"thinking": True}, {"thinking": False}, {"max_reasoning_tokens": 9}])
def test_server_that_is_not_known_to_have_a_field_is_not_asked(
    fields: dict[str, Any], serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]
) -> None:
    for owner in ("", "library", "system"):
        server = serve(owner)
        engine = connect(server)
        assert not engine.describe().supports & {"thinking", "thinking_off", "reasoning_budget"}
        with pytest.raises(Unsupported, match=rf"^{next(iter(fields))}: "):
            ask(engine, **fields)
        assert not server.questions
        assert ask(engine)[-1].finish_reason == "stop"


def test_another_server_is_asked_where_the_first_is_not_known_to_have_the_field(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]
) -> None:
    fleet, cloud = serve("vllm"), serve("system")
    engine = connect(fleet, cloud)
    fleet.on_ask = lambda e: e.reply(503, {"error": {"message": "busy"}})
    with pytest.raises(Exception, match="503"):
        ask(engine, thinking=True)
    assert not cloud.questions
    assert ask(engine)[-1].finish_reason == "stop"


@pytest.mark.parametrize("owner", ["vllm", "system"])
@pytest.mark.parametrize(
    ("model", "wanted", "refused"),
    [("Qwen/Qwen3-VL-8B-Instruct", False, True), ("Qwen/Qwen3-VL-8B-Thinking", True, False)],
)
def test_model_whose_name_says_what_it_does_is_told_nothing_and_asked_for_nothing_else(
    owner: str,
    model: str,
    wanted: bool,
    refused: bool,
    serve: Callable[..., FakeServer],
    connect: Callable[..., OpenaiEngine],
) -> None:
    server = serve(owner, model)
    engine = connect(server)
    with pytest.raises(Unsupported, match=rf"^thinking: the model {model} .* unset or o"):
        ask(engine, thinking=refused)
    assert not server.questions
    if not wanted:
        server.on_ask = lambda e: e.answer("Blue")
        assert ask(engine, max_reasoning_tokens=5)[-1].finish_reason == "stop"
    assert ask(engine, thinking=wanted)[-1].finish_reason == "stop"
    assert body(server) == {}


def test_server_that_does_otherwise_is_found_out(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]
) -> None:
    server = serve("vllm")
    engine = connect(server)
    with pytest.raises(Unsupported, match=r"^thinking: .* reasons all the same"):
        ask(engine, thinking=False)
    server.on_ask = lambda e: e.answer("<think>", "Hm", "</think>", "Blue")
    with pytest.raises(Unsupported, match=r"^thinking: .* reasons all the same"):
        ask(engine, thinking=False)
    server.on_ask = lambda e: e.answer("Blue")
    with pytest.raises(Unsupported, match=r"^thinking: .* without any reasoning.*parser"):
        ask(engine, thinking=True)
    server.on_ask = lambda e: thoughts_and_answer(e, 200)
    with pytest.raises(Unsupported, match=r"^max_reasoning_tokens: .* goes on reasoning after 10 tokens"):
        ask(engine, max_reasoning_tokens=10)
    server.on_ask = lambda e: thoughts_and_answer(e, 40)  # a sentence that closes it
    assert ask(engine, max_reasoning_tokens=10)[-1].finish_reason == "stop"


def test_refused_limit_is_named(serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]) -> None:
    server = serve("vllm")
    engine = connect(server)
    refusal = "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-config."
    server.on_ask = lambda e: e.reply(400, {"error": {"message": refusal, "type": "BadRequestError", "code": 400}})
    with pytest.raises(Unsupported, match=r"^max_reasoning_tokens: .*--reasoning-config"):
        ask(engine, max_reasoning_tokens=10)


def test_server_that_was_out_of_reach_at_the_start_is_asked_what_it_is(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenaiEngine]
) -> None:
    first, late = serve("vllm", "robot"), serve("llamacpp", "robot")
    listing = late.on_list
    late.on_list = lambda e: e.reply(503, {"error": {"message": "loading"}})
    engine = connect(first, late, model="robot")
    late.on_list = listing
    first.close()
    ask(engine, max_reasoning_tokens=10)
    assert body(late) == {"thinking_budget_tokens": 10}
