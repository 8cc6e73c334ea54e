"""The ``openai`` engine against a server that sends, byte for byte, what real ones do, good and bad."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from fake_openai_server import ONE_MODEL, PATIENCE, Exchange, FakeServer
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    Clip,
    EngineError,
    EngineNotReady,
    Image,
    ImageInput,
    Message,
    ModelNotFound,
    Options,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
)
from qwen3vl_ros.engines.openai import engine as openai_engine
from qwen3vl_ros.engines.openai.engine import OpenaiEngine
from qwen3vl_ros.engines.openai.errors import retry_after
from qwen3vl_ros.engines.openai.stream import Patience

KEY = "sk-very-secret-0123456789"
A_TOKEN = {"choices": [{"delta": {"content": "a"}}]}
IMAGE: Image = np.zeros((32, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no proxy of whoever runs the tests; waits are short."""
    for name in (
        "OPENAI_API_KEY",
        "SSL_CERT_FILE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openai_engine, "_BACKOFF", 0.02)


@pytest.fixture
def new_server() -> Iterator[Callable[..., FakeServer]]:
    servers = []

    def new(*args: Any) -> FakeServer:
        servers.append(FakeServer(*args))
        return servers[-1]

    yield new
    for server in servers:
        server.close()


@pytest.fixture
def server(new_server: Callable[..., FakeServer]) -> FakeServer:
    return new_server()


@pytest.fixture
def new_engine() -> Iterator[Callable[..., OpenaiEngine]]:
    engines = []

    def new(*servers: FakeServer | str, **config: Any) -> OpenaiEngine:
        urls = tuple(one if isinstance(one, str) else one.url for one in servers)
        engines.append(OpenaiEngine(urls, **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> OpenaiEngine:
    return new_engine(server)


def request(*content: str | Image | Clip, system: str = "", schema: Any = None, **options: Any) -> Request:
    messages = [Message("system", (system,))] if system else []
    return Request((*messages, Message("user", content or ("?",))), Options(**options), schema)


def stream(engine: OpenaiEngine, asked: Request | None = None, cancel: Cancel | None = None) -> list[Chunk]:
    return list(engine.generate(asked or request(), cancel or Cancel()))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def refusing_url() -> str:
    """An address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def error(message: str, **other: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **other}}


def usage(prompt: int, completion: int, **details: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}


# What is sent


def test_the_body_is_exactly_what_the_api_defines(server: FakeServer, engine: OpenaiEngine) -> None:
    stream(
        engine,
        request("Größe?", system="Be brief.", temperature=0.5, top_p=0.9, seed=7, max_tokens=64, stop=("\n", "")),
    )
    assert server.questions[0].path == "/v1/chat/completions"
    assert server.questions[0].headers["content-type"] == "application/json"
    assert (
        server.questions[0].body
        == (
            '{"model":"model-a","messages":[{"role":"system","content":"Be brief."},'
            '{"role":"user","content":"Größe?"}],'
            '"stream":true,"stream_options":{"include_usage":true},'
            '"temperature":0.5,"top_p":0.9,"seed":7,"max_tokens":64,"stop":["\\n"]}'
        ).encode()
    )


def test_options_that_are_not_set_are_not_sent(server: FakeServer, engine: OpenaiEngine) -> None:
    stream(engine)
    assert set(server.questions[0].json) == {"model", "messages", "stream", "stream_options"}


def test_the_extensions_of_vllm_and_llama_cpp_are_sent_under_both_names(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    stream(engine, request(top_k=20, min_p=0.1, repetition_penalty=1.05))
    body = server.questions[0].json
    assert (body["top_k"], body["min_p"], body["repetition_penalty"], body["repeat_penalty"]) == (20, 0.1, 1.05, 1.05)


def test_images_are_sent_as_jpeg_in_the_order_of_the_question(server: FakeServer, engine: OpenaiEngine) -> None:
    red = np.full((32, 64, 3), (255, 0, 0), np.uint8)
    blue = np.full((64, 32, 3), (0, 0, 255), np.uint8)
    stream(engine, request(red, "Same as", blue, "?"))
    parts = server.questions[0].json["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text", "image_url", "text"]
    assert [part["text"] for part in parts if "text" in part] == ["Same as", "?"]
    for part, sent in zip((parts[0], parts[2]), (red, blue), strict=True):
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        seen = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))))
        assert seen.shape == sent.shape
        assert np.abs(seen.astype(int) - sent).max() < 8


CLIP = Clip(tuple(np.full((32, 64, 3), shade, np.uint8) for shade in (0, 100, 200)), (0.0, 0.5, 1.75))


def shades(urls: list[str]) -> list[int]:
    """The mean grey of each JPEG."""
    data = (base64.b64decode(url.rpartition(",")[2]) for url in urls)
    return [round(float(np.asarray(PIL.Image.open(io.BytesIO(jpeg))).mean()), -2) for jpeg in data]


def test_a_clip_is_sent_as_frames_after_their_times(server: FakeServer, engine: OpenaiEngine) -> None:
    assert "video" in engine.describe().supports
    stream(engine, request("Watch.", CLIP, "When?"))
    (message,) = server.questions[0].json["messages"]
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    assert texts == ["Watch.", "<0.0 seconds>", "<0.5 seconds>", "<1.8 seconds>", "When?"]
    assert [part["type"] for part in message["content"]][1:3] == ["text", "image_url"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert shades(urls) == [0, 100, 200]
    assert "media_io_kwargs" not in server.questions[0].json


def test_vllm_gets_a_clip_as_a_video_with_its_times(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    """Its form: the JPEG files after one head, and the times as numbers of frames, 1000 of them a second."""
    listed = {"data": [{"id": "Qwen3-VL", "owned_by": "vllm"}]}
    server.on_list = lambda exchange: exchange.reply(200, listed)
    engine = new_engine(server)
    stream(engine, request("Watch.", CLIP, "When?"))
    body = server.questions[0].json
    (message,) = body["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "video_url", "text"]
    head, *frames = message["content"][1]["video_url"]["url"].split(",")
    assert head == "data:video/jpeg;base64"
    assert shades(frames) == [0, 100, 200]
    times = body["media_io_kwargs"]["video"]
    assert [number / times["fps"] for number in times["frames_indices"]] == [0.0, 0.5, 1.75]
    assert times["total_num_frames"] > times["frames_indices"][-1]
    assert (times["num_frames"], times["do_sample_frames"]) == (-1, False)
    stream(engine, request(CLIP, CLIP, "Alike?"))  # it takes the times of one video
    assert "video_url" not in str(server.questions[1].json)


def test_a_lower_jpeg_quality_sends_fewer_bytes_and_usage_counts_them(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    sizes = []
    for quality in (30, 95):
        last = stream(new_engine(server, jpeg_quality=quality), request(noise, "?"))[-1]
        assert last.usage is not None and last.usage.bytes_sent == len(server.questions[-1].body)
        sizes.append(last.usage.bytes_sent)
    assert sizes[0] < sizes[1] / 2


def test_a_schema_goes_out_as_response_format(server: FakeServer, engine: OpenaiEngine) -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    stream(engine, request(schema=schema))
    assert server.questions[0].json["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


CHOICES = (("yes", "是"), ("no",))


def chances(*tops: dict[str, float]) -> dict[str, Any]:
    """The ``logprobs`` of an event: for each token, the probabilities of the likeliest; the first is the token."""
    content = []
    for top in tops:
        entries = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
        content.append(entries[0] | {"top_logprobs": entries})
    return {"content": content, "refusal": None}


def told(exchange: Exchange, *events: tuple[dict[str, str], Any]) -> None:
    """A whole stream of (delta, logprobs)."""
    exchange.stream()
    for delta, logprobs in events:
        exchange.event({"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]})
    exchange.finish()


def choose(engine: OpenaiEngine) -> tuple[float, ...] | None:
    return stream(engine, replace(request(), choices=CHOICES))[-1].probabilities


def test_probabilities_are_asked_for_where_there_are_choices_alone(server: FakeServer, engine: OpenaiEngine) -> None:
    choose(engine)
    assert (server.questions[-1].json["logprobs"], server.questions[-1].json["top_logprobs"]) == (True, 20)
    stream(engine)
    assert "logprobs" not in server.questions[-1].json


@pytest.mark.parametrize(
    "events",
    [
        [({"content": "Yes"}, chances({"Yes": 0.6, " yes": 0.1, "No": 0.25}))],
        [
            ({"content": "\n\n"}, chances({"\n\n": 0.9, "No": 0.1})),
            ({"content": "Yes"}, chances({"Yes": 0.7, "no": 0.25})),
        ],
        [({"content": " Yes."}, chances({" ": 0.9}, {"Yes": 0.7, "no": 0.25}, {".": 0.9, "No": 0.1}))],
        [
            ({"reasoning_content": "No"}, chances({"No": 1.0})),
            ({"content": "yes"}, chances({"yes": 0.7, "No": 0.2, "NO": 0.05})),
        ],
        [
            ({"content": "<think>"}, chances({"<think>": 1.0})),
            ({"content": "no"}, chances({"no": 1.0})),
            ({"content": "</think>"}, chances({"</think>": 1.0})),
            ({"content": "yes"}, chances({"yes": 0.7, "No": 0.25})),
        ],
    ],
)
def test_probabilities_are_those_of_the_first_word_of_the_answer(
    server: FakeServer, engine: OpenaiEngine, events: list[Any]
) -> None:
    server.on_ask = lambda exchange: told(exchange, *events)
    assert choose(engine) == pytest.approx((0.7, 0.25))


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": None}, {"content": []}, {"content": [7]}, {"content": [{"token": "yes", "logprob": "-1"}]}],
)
def test_a_server_that_tells_no_probabilities_makes_none(
    server: FakeServer, engine: OpenaiEngine, logprobs: Any
) -> None:
    server.on_ask = lambda exchange: told(exchange, ({"content": "Yes"}, logprobs))
    assert choose(engine) in (None, (0.0, 0.0))


def test_a_server_that_refuses_to_tell_probabilities_is_asked_without(server: FakeServer, engine: OpenaiEngine) -> None:
    def grumble(exchange: Exchange) -> None:
        if "logprobs" in exchange.json:
            exchange.reply(400, error("You are not allowed to request logprobs from this model", param="logprobs"))
        else:
            exchange.answer("Yes")

    server.on_ask = grumble
    assert choose(engine) is None
    assert choose(engine) is None
    assert ["logprobs" in exchange.json for exchange in server.questions] == [True, False, False]


def test_tokens_of_the_answer_come_with_their_alternatives_where_they_are_wanted(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    events: list[Any] = [
        ({"reasoning_content": "No"}, chances({"No": 1.0})),
        ({"content": "[{"}, chances({"[{": 0.6, "[]": 0.3})),
        ({"content": "}]"}, chances({"}]": 0.9, "}, ": 0.1})),
    ]
    server.on_ask = lambda exchange: told(exchange, *events)
    tokens = stream(engine, replace(request(), token_probabilities=True))[-1].tokens
    assert [token.text for token in tokens] == [b"[{", b"}]"]
    assert tokens[0].probability == pytest.approx(0.6)
    assert dict(tokens[0].others) == {b"[]": pytest.approx(0.3)}
    assert (server.questions[-1].json["logprobs"], server.questions[-1].json["top_logprobs"]) == (True, 20)
    assert stream(engine)[-1].tokens == ()


def test_tokens_are_unknown_where_the_server_leaves_some_out(server: FakeServer, engine: OpenaiEngine) -> None:
    events: list[Any] = [({"content": "[{"}, chances({"[{": 0.6, "[]": 0.3})), ({"content": "}]"}, None)]
    server.on_ask = lambda exchange: told(exchange, *events)
    assert stream(engine, replace(request(), token_probabilities=True))[-1].tokens == ()


def test_a_token_that_is_a_part_of_a_character_is_known_by_its_bytes(server: FakeServer, engine: OpenaiEngine) -> None:
    def entry(text: str, data: bytes, probability: float) -> dict[str, Any]:
        return {"token": text, "bytes": list(data), "logprob": math.log(probability)}

    first, second, other = (entry("\ufffd", data, 0.4) for data in (b"\xe6\x9d", b"\xaf", b"\xb9"))
    content = [first | {"top_logprobs": [first]}, second | {"top_logprobs": [second, other]}]
    server.on_ask = lambda exchange: told(exchange, ({"content": "杯"}, {"content": content}))
    tokens = stream(engine, replace(request(), token_probabilities=True))[-1].tokens
    assert b"".join(token.text for token in tokens) == "杯".encode()
    assert dict(tokens[1].others) == {b"\xb9": pytest.approx(0.4)}


def test_an_address_in_the_question_is_only_text(
    server: FakeServer, new_server: Callable[..., FakeServer], engine: OpenaiEngine
) -> None:
    other = new_server()
    asked = f"![x]({other.url}/models) <image>{other.url}</image> file:///etc/passwd"
    stream(engine, request(IMAGE, asked))
    assert other.n_connections == 0
    assert server.questions[0].json["messages"][0]["content"][1] == {"type": "text", "text": asked}


@pytest.mark.parametrize(
    ("asked", "kind", "word"),
    [
        (Request(()), BadRequest, "no messages"),
        (request(max_tokens=0), BadRequest, "max_tokens"),
        (request(temperature=float("nan")), BadRequest, "temperature"),
        (request(schema={"type": "nothing"}), BadRequest, "response_schema"),
        (request(schema={"const": float("inf")}), BadRequest, "response_schema"),
        (request(np.zeros((32, 32), np.uint8), "?"), BadImage, "RGB"),
        (request(np.zeros((1, 70_000, 3), np.uint8), "?"), BadImage, "70000x1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    server: FakeServer, engine: OpenaiEngine, asked: Request, kind: type[EngineError], word: str
) -> None:
    with pytest.raises(kind, match=word):
        stream(engine, asked)
    assert not server.questions


# What comes back


def test_every_token_is_passed_on_before_the_next_one_is_sent(server: FakeServer, engine: OpenaiEngine) -> None:
    taken = threading.Semaphore(0)

    def one_by_one(exchange: Exchange) -> None:
        exchange.stream()
        for token in ("a", "b", "c"):
            exchange.token(token)
            assert taken.acquire(timeout=PATIENCE)
        exchange.finish()

    server.on_ask = one_by_one
    seen = []
    for chunk in engine.generate(request(), Cancel()):
        if chunk.text:
            seen.append((chunk.stage, chunk.text, chunk.completion_tokens))
            taken.release()
    assert seen == [(Stage.DECODE, "a", 1), (Stage.DECODE, "b", 2), (Stage.DECODE, "c", 3)]


def test_the_stream_begins_with_prefill_and_ends_with_finish_reason_and_the_servers_counts(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    server.on_ask = lambda e: e.answer("two tokens", usage=usage(70, 3, cached_tokens=64, image_tokens=49))
    first, *_, last = stream(engine)
    assert (first.stage, first.text) == (Stage.PREFILL, "")
    assert (last.finish_reason, last.completion_tokens) == ("stop", 3)
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.image_tokens, last.usage.cached_tokens) == (70, 49, 64)
    assert last.usage.completion_tokens == 3
    assert last.usage.first_token_time is not None and last.usage.total_time is not None
    assert 0 < last.usage.first_token_time <= last.usage.total_time


def test_without_the_servers_counts_pieces_are_counted(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = lambda e: e.answer("a", "b", "", "c")
    last = stream(engine)[-1]
    assert last.usage is not None
    assert (last.completion_tokens, last.usage.completion_tokens, last.usage.prompt_tokens) == (3, 3, 0)


def test_an_answer_is_the_same_however_its_bytes_are_cut(server: FakeServer, engine: OpenaiEngine) -> None:
    body = (
        b": ping\r\n\r\n"
        + "".join(
            f"data: {json.dumps(value, ensure_ascii=False)}\r\n\r\n"
            for value in (
                {"choices": [{"delta": {"role": "assistant", "content": None}}]},
                {"choices": [{"delta": {"content": "grün 🤖"}}]},
                {"choices": [{"delta": {"content": " ja"}, "finish_reason": "length"}]},
            )
        ).encode()
        + b"data: [DONE]\r\n\r\n"
    )

    def byte_by_byte(exchange: Exchange) -> None:
        exchange.stream()
        for index in range(len(body)):
            exchange.raw(body[index : index + 1])
        exchange.end()

    server.on_ask = byte_by_byte
    chunks = stream(engine)
    assert text_of(chunks) == "grün 🤖 ja"
    assert chunks[-1].finish_reason == "length"


def test_a_character_in_two_halves_is_made_whole(server: FakeServer, engine: OpenaiEngine) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.stream()
        for field in ("reasoning", "content"):
            for half in (r"\ud83e", r"\udd16!"):
                exchange.raw(f'data: {{"choices":[{{"delta":{{"{field}":"{half}"}}}}]}}\n\n'.encode())
        exchange.finish()

    server.on_ask = answer
    chunks = stream(engine)
    assert ("".join(chunk.reasoning for chunk in chunks), text_of(chunks)) == ("🤖!", "🤖!")


def test_a_refusal_of_the_model_is_its_answer(server: FakeServer, engine: OpenaiEngine) -> None:
    refusal = {"choices": [{"delta": {"refusal": "I cannot say."}, "finish_reason": "stop"}]}
    server.on_ask = lambda e: e.events(refusal)
    assert text_of(stream(engine)) == "I cannot say."


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_in_its_own_field_is_no_part_of_the_answer(
    server: FakeServer, engine: OpenaiEngine, field: str
) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.stream()
        exchange.event({"choices": [{"delta": {field: "It is "}}]})
        exchange.event({"choices": [{"delta": {field: "blue."}}]})
        exchange.token("Blue")
        exchange.finish()

    server.on_ask = answer
    chunks = stream(engine)
    assert "".join(chunk.reasoning for chunk in chunks) == "It is blue."
    assert text_of(chunks) == "Blue"
    assert chunks[-1].completion_tokens == 3


def test_reasoning_between_think_tags_is_no_part_of_the_answer(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = lambda e: e.answer("<th", "ink>It is", " blue.</think>\n\n", "Blue")
    chunks = stream(engine)
    assert ("".join(chunk.reasoning for chunk in chunks), text_of(chunks)) == ("It is blue.", "Blue")


def test_a_stop_string_that_the_server_ignores_ends_the_answer(server: FakeServer, engine: OpenaiEngine) -> None:
    gone = threading.Event()

    def endless(exchange: Exchange) -> None:
        exchange.stream()
        for token in ("one", " E", "ND two"):
            exchange.token(token)
        if exchange.wait_for_disconnect():
            gone.set()

    server.on_ask = endless
    chunks = stream(engine, request(stop=("END",)))
    assert (text_of(chunks), chunks[-1].finish_reason) == ("one ", "stop")
    assert gone.wait(PATIENCE)


def test_an_answer_that_is_not_streamed_is_used(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = lambda e: e.reply(
        200,
        {
            "choices": [{"message": {"role": "assistant", "content": "blue", "reasoning_content": "Hm."}}],
            "usage": usage(5, 2),
        },
    )
    chunks = stream(engine)
    assert (text_of(chunks), chunks[-1].completion_tokens, chunks[-1].finish_reason) == ("blue", 2, "stop")
    assert "".join(chunk.reasoning for chunk in chunks) == "Hm."


BLUE = b'{"choices": [{"delta": {"content": "blue"}, "finish_reason": "stop"}]}'
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain", "application/octet-stream"])
@pytest.mark.parametrize(
    "body",
    [
        BLUE,
        MARK + BLUE,
        b"\n \n" + BLUE,
        b"data: " + BLUE + b"\n\ndata: [DONE]\n\n",
        MARK + b"data: " + BLUE + b"\n\n",
        b": ping\r\rdata: " + BLUE + b"\r\r",
    ],
)
def test_an_answer_is_told_by_its_first_bytes_whatever_its_label_and_cuts(
    server: FakeServer, engine: OpenaiEngine, body: bytes, label: str
) -> None:
    def piecemeal(exchange: Exchange) -> None:
        exchange.send(f"HTTP/1.1 200 OK\r\nContent-Type: {label}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for place in range(len(body)):
            exchange.raw(body[place : place + 1])
        exchange.end()

    for answer in (lambda e: e.reply(200, body, content_type=label), piecemeal):
        server.on_ask = answer
        chunks = stream(engine)
        assert (text_of(chunks), chunks[-1].finish_reason) == ("blue", "stop")


def test_an_answer_without_a_label_is_read(server: FakeServer, engine: OpenaiEngine) -> None:
    def bare(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BLUE) + BLUE)

    server.on_ask = bare
    assert text_of(stream(engine)) == "blue"


def test_content_in_parts_is_joined_and_its_thinking_is_reasoning(server: FakeServer, engine: OpenaiEngine) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": "blue."},
    ]
    server.on_ask = lambda e: e.reply(200, {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]})
    chunks = stream(engine)
    assert ("".join(chunk.reasoning for chunk in chunks), text_of(chunks)) == ("Hm.", "It is blue.")


CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "zoom", "arguments": "{"}}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([{"delta": {"tool_calls": [CALL]}}, {"finish_reason": "tool_calls"}], "call of the tool 'zoom' and no text"),
        ([{"delta": {"function_call": {"name": "zoom"}}}, {"finish_reason": "stop"}], "call of the tool 'zoom'"),
        ([{"delta": {"reasoning": "It is blue."}}, {"finish_reason": "stop"}], "reasoning and no answer"),
        ([{"delta": {"reasoning_content": "Blue."}}, {"delta": {"content": "\n"}, "finish_reason": "stop"}], "parser"),
        ([{"delta": {"content": "<think>It is blue.</think>"}, "finish_reason": "stop"}], "reasoning and no answer"),
    ],
)
def test_what_has_no_text_is_no_success(
    server: FakeServer, engine: OpenaiEngine, events: list[dict[str, Any]], words: str
) -> None:
    server.on_ask = lambda e: e.events(*({"choices": [event]} for event in events))
    with pytest.raises(EngineError, match=words) as caught:
        stream(engine)
    assert str(caught.value).startswith(server.url)
    assert len(server.questions) == 1


def test_text_beside_a_tools_call_is_the_answer(server: FakeServer, engine: OpenaiEngine) -> None:
    both = [{"delta": {"content": "Blue."}}, {"delta": {"tool_calls": [CALL]}}, {"finish_reason": "tool_calls"}]
    server.on_ask = lambda e: e.events(*({"choices": [event]} for event in both))
    assert text_of(stream(engine)) == "Blue."


def test_reasoning_that_is_cut_off_says_so_by_its_finish_reason(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = lambda e: e.events({"choices": [{"delta": {"reasoning": "It"}, "finish_reason": "length"}]})
    assert stream(engine)[-1].finish_reason == "length"


@pytest.mark.parametrize("end", ["no [DONE]", "no [DONE] and no end", "[DONE] without a finish reason", "reset"])
def test_a_complete_answer_counts_however_the_connection_ends(
    server: FakeServer, engine: OpenaiEngine, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3vl_ros.engines.openai.stream._USAGE_TIME", 0.1)

    arrived = threading.Event()

    def answer(exchange: Exchange) -> None:
        exchange.stream()
        if end == "reset":
            # In one piece: what is on its way when a connection breaks is lost.
            events = {"choices": [{"delta": {"content": "blue"}}]}, {"choices": [{"finish_reason": "stop"}]}
            exchange.raw(b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in events))
            assert arrived.wait(PATIENCE)
            exchange.reset()
            return
        exchange.token("blue")
        if end == "[DONE] without a finish reason":
            exchange.event(b"[DONE]")
            exchange.end()
            return
        exchange.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        if end == "no [DONE]":
            exchange.end()
        else:
            exchange.wait_for_disconnect()

    server.on_ask = answer
    chunks = []
    for chunk in engine.generate(request(), Cancel()):
        chunks.append(chunk)
        if chunk.text:
            arrived.set()
    assert (text_of(chunks), chunks[-1].finish_reason) == ("blue", "stop")


def test_one_connection_serves_question_after_question(server: FakeServer, engine: OpenaiEngine) -> None:
    for _ in range(3):
        stream(engine)
    assert len(server.questions) == 3
    assert server.n_connections == 1


def test_an_answer_that_ends_with_an_error_leaves_no_connection_open(server: FakeServer, engine: OpenaiEngine) -> None:
    gone = threading.Event()

    def fail(exchange: Exchange) -> None:
        exchange.stream()
        exchange.event(A_TOKEN)
        exchange.event(error("out of memory"))
        if exchange.wait_for_disconnect():
            gone.set()

    server.on_ask = fail
    with pytest.raises(EngineError, match="out of memory"):
        stream(engine)
    assert gone.wait(PATIENCE / 2)


# Cancelling


def cancelled_when(cancel: Cancel, event: threading.Event) -> threading.Thread:
    """A thread that cancels as soon as ``event`` is set."""

    def wait() -> None:
        if event.wait(PATIENCE):
            cancel.set()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("after", ["the request", "the head", "a ping", "a token"])
def test_a_cancel_closes_the_connection_and_the_next_question_is_answered(
    server: FakeServer, engine: OpenaiEngine, after: str
) -> None:
    ready, gone = threading.Event(), threading.Event()

    def hang(exchange: Exchange) -> None:
        if after != "the request":
            exchange.stream()
        if after == "a ping":
            exchange.raw(b": ping\n\n")
        if after == "a token":
            exchange.token("so far")
        else:
            ready.set()
        if exchange.wait_for_disconnect():
            gone.set()

    server.on_ask = hang
    cancel = Cancel()
    thread = cancelled_when(cancel, ready)
    chunks = []
    for chunk in engine.generate(request(), cancel):
        chunks.append(chunk)
        if chunk.text:
            ready.set()
    thread.join()
    assert chunks[-1].finish_reason == "cancelled"
    assert chunks[-1].usage is not None
    assert text_of(chunks) == ("so far" if after == "a token" else "")
    assert gone.wait(PATIENCE)
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "yes"


def test_a_question_that_is_cancelled_before_it_is_asked_is_not_sent(server: FakeServer, engine: OpenaiEngine) -> None:
    cancel = Cancel()
    cancel.set()
    assert stream(engine, cancel=cancel)[-1].finish_reason == "cancelled"
    assert not server.questions


def test_a_cancel_ends_a_connection_attempt(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    with full_listener() as url:
        engine = new_engine(server, connect_timeout=600.0, first_token_timeout=3600.0)
        engine._servers[0].address = engine._servers[0].address.__class__(url, {}, ())
        cancel = Cancel()
        thread = threading.Timer(0.2, cancel.set)
        thread.start()
        assert stream(engine, cancel=cancel)[-1].finish_reason == "cancelled"
        thread.join()


def test_a_cancel_ends_the_wait_before_a_retry(server: FakeServer, engine: OpenaiEngine) -> None:
    answered = threading.Event()

    def busy(exchange: Exchange) -> None:
        exchange.reply(429, error("slow down"), retry_after="3600")
        answered.set()

    server.on_ask = busy
    cancel = Cancel()
    thread = cancelled_when(cancel, answered)
    begin = time.monotonic()
    assert stream(engine, cancel=cancel)[-1].finish_reason == "cancelled"
    thread.join()
    assert time.monotonic() - begin < openai_engine._RETRY_AFTER_MAX
    assert len(server.questions) == 1


def test_an_answer_that_nobody_wants_any_more_is_ended(server: FakeServer, engine: OpenaiEngine) -> None:
    gone = threading.Event()

    def hang(exchange: Exchange) -> None:
        exchange.stream()
        exchange.token("a")
        if exchange.wait_for_disconnect():
            gone.set()

    server.on_ask = hang
    answer = engine.generate(request(), Cancel())
    while not next(answer).text:
        pass
    answer.close()  # type: ignore[attr-defined]
    assert gone.wait(PATIENCE)
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "yes"


# Time


@contextlib.contextmanager
def full_listener() -> Iterator[str]:
    """The address of a server that is too busy to accept: connecting hangs."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def trickle(data: bytes, first: str = "") -> Callable[[Exchange], None]:
    """Answers with the token ``first``, then ``data`` again and again, every 10 ms, as long as somebody listens."""

    def answer(exchange: Exchange) -> None:
        exchange.stream()
        exchange.token(first)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not exchange.wait_for_disconnect(0.01):
            exchange.raw(data)

    return answer


@pytest.mark.parametrize("data", [b": ping\n\n", b"d", b'data: {"choices":[{"delta":{"content":""}}]}\n\n'])
def test_a_server_that_sends_bytes_but_no_token_is_late(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], data: bytes
) -> None:
    engine = new_engine(server, first_token_timeout=0.3)
    server.on_ask = trickle(data)
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"no token within 0.3 s \(openai.first_token_timeout\)"):
        stream(engine)
    assert time.monotonic() - begin < PATIENCE / 2
    assert len(server.questions) == 1  # the same again would only double the server's work
    engine._servers[0].patience = Patience(PATIENCE, PATIENCE)
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "yes"


def test_a_server_that_says_nothing_at_all_is_late(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(server, first_token_timeout=0.3)
    server.on_ask = lambda e: e.hang()
    with pytest.raises(EngineError, match=r"no token within 0.3 s"):
        stream(engine)


def test_a_gap_between_tokens_ends_the_answer_with_an_error(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(server, token_timeout=0.3)
    server.on_ask = trickle(b': ping\n\ndata: {"choices":[{"delta":{}}]}\n\n', first="so far")
    chunks: list[Chunk] = []
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"no token for 0.3 s \(openai.token_timeout\)"):
        stream_into(chunks, engine)
    assert time.monotonic() - begin < PATIENCE / 2
    assert text_of(chunks) == "so far"


def stream_into(chunks: list[Chunk], engine: OpenaiEngine) -> None:
    """Ask; what came before an error is in ``chunks``."""
    for chunk in engine.generate(request(), Cancel()):
        chunks.append(chunk)  # noqa: PERF402


def test_connecting_takes_no_longer_than_it_may(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    with full_listener() as url, pytest.raises(EngineNotReady, match=r"within 0.2 s \(openai.connect_timeout\)"):
        new_engine(url, connect_timeout=0.2)


# Trying again


def failing(times: int, failure: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """``failure`` so many times, then an answer."""
    left = [times]

    def answer(exchange: Exchange) -> None:
        left[0] -= 1
        if left[0] >= 0:
            failure(exchange)
        else:
            exchange.answer("yes")

    return answer


def reset_after_the_head(exchange: Exchange) -> None:
    exchange.stream()
    exchange.reset()


FAILURES: dict[str, Callable[[Exchange], None]] = {
    "429": lambda e: e.reply(429, error("slow down")),
    "500": lambda e: e.reply(500, "oops"),
    "503": lambda e: e.reply(503, error("Loading model")),
    "reset before the head": lambda e: e.reset(),
    "closed before the head": lambda e: e.close(),
    "reset after the head": reset_after_the_head,
    "an error event before the first token": lambda e: e.events(error("out of memory", code=500)),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_before_the_first_token_a_failure_is_tried_again(
    server: FakeServer, engine: OpenaiEngine, failure: str
) -> None:
    server.on_ask = failing(2, FAILURES[failure])
    chunks = stream(engine)
    assert text_of(chunks) == "yes"
    assert len(server.questions) == 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.bytes_sent == 3 * len(server.questions[0].body)


def test_no_more_is_tried_than_retries_allow(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(server, retries=1)
    server.on_ask = failing(2, FAILURES["503"])
    with pytest.raises(EngineNotReady, match=r"is not ready \(503\): Loading model"):
        stream(engine)
    assert len(server.questions) == 2


def test_after_the_first_token_nothing_is_tried_again(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    other = new_server()
    engine = new_engine(server, other)

    arrived = threading.Event()

    def die(exchange: Exchange) -> None:
        exchange.stream()
        exchange.token("so far")
        assert arrived.wait(PATIENCE)
        exchange.reset()

    server.on_ask = die
    answer = engine.generate(request(), Cancel())
    while (text := next(answer).text) == "":
        pass
    assert text == "so far"
    arrived.set()
    with pytest.raises(EngineError, match="broke off in the middle of the answer"):
        list(answer)
    assert (len(server.questions), len(other.questions)) == (1, 0)


def test_retry_after_is_waited_for(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = failing(1, lambda e: e.reply(503, error("busy"), retry_after="1"))
    begin = time.monotonic()
    assert text_of(stream(engine)) == "yes"
    assert time.monotonic() - begin >= 1.0


def test_retry_after_comes_in_seconds_or_as_a_date_by_the_servers_clock() -> None:
    now = 1_000_000_000.0  # a robot's clock may be years off
    date = formatdate(now, usegmt=True)
    assert retry_after(httpx.Headers({"retry-after": "7"})) == 7.0
    assert retry_after(httpx.Headers({"retry-after": formatdate(now + 90, usegmt=True), "date": date})) == 90.0
    assert retry_after(httpx.Headers({"retry-after": formatdate(now - 90, usegmt=True), "date": date})) == 0.0
    assert retry_after(httpx.Headers({"retry-after": "soon"})) == 0.0
    assert retry_after(httpx.Headers()) == 0.0
    in_a_minute = retry_after(httpx.Headers({"retry-after": formatdate(time.time() + 60, usegmt=True)}))
    assert 0.0 < in_a_minute <= 60.0


def test_waits_grow_and_differ_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "_BACKOFF", 0.5)
    waits = [[openai_engine._backoff(attempt) for _ in range(50)] for attempt in range(12)]
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n in range(5) for wait in waits[n])
    assert all(4.0 <= wait <= 8.0 for wait in waits[11])
    assert len({wait for some in waits for wait in some}) == 600


# Several servers


def test_a_dead_server_is_skipped_at_once_and_tried_again_later(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    other = new_server(lambda e: e.answer("from the other"))
    engine = new_engine(server, other, retry_dead_after=3600.0)
    server.on_ask = FAILURES["reset before the head"]
    assert text_of(stream(engine)) == "from the other"
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "from the other"
    assert len(server.questions) == 1  # dead servers are not asked while another one answers
    engine._servers[0].dead_until = 0.0  # an hour later
    assert text_of(stream(engine)) == "yes"


def test_a_server_that_is_late_loses_the_question_to_the_next_one(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(server, new_server(lambda e: e.answer("from the other")), first_token_timeout=1.0)
    engine._servers[1].patience = Patience(PATIENCE, PATIENCE)
    server.on_ask = trickle(b": ping\n\n")
    assert text_of(stream(engine)) == "from the other"


def test_a_question_that_is_wrong_is_wrong_for_every_server(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    other = new_server()
    engine = new_engine(server, other)
    server.on_ask = lambda e: e.reply(400, error("Bad thing."))
    with pytest.raises(BadRequest):
        stream(engine)
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "yes"
    assert not other.questions


def test_the_only_server_left_is_asked_although_it_was_dead(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    other = new_server()
    engine = new_engine(server, other)
    server.on_ask = FAILURES["500"]
    stream(engine)
    server.on_ask = lambda e: e.answer("back again")
    other.on_ask = FAILURES["500"]
    assert text_of(stream(engine)) == "back again"


def test_one_server_is_enough_to_begin_and_blank_addresses_do_not_count(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine("", refusing_url(), "  ", server)
    assert engine.describe().model == "model-a"
    assert text_of(stream(engine)) == "yes"


def test_a_server_that_appears_later_says_then_which_model_it_has(
    server: FakeServer, new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    other = new_server()
    other.on_list = lambda e: e.reply(503, "starting")
    engine = new_engine(other, server)
    other.on_list = lambda e: e.reply(200, {"data": [{"id": "model-b"}]})
    engine._servers[0].dead_until = 0.0
    stream(engine)
    assert [exchange.json["model"] for exchange in other.questions] == ["model-b"]


def test_when_no_server_answers_every_address_is_named_with_its_reason(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    server.on_list = lambda e: e.reply(503, error("Loading model"))
    refusing = refusing_url()
    with pytest.raises(EngineNotReady) as caught:
        new_engine(refusing, server)
    assert f"{refusing} refuses the connection" in str(caught.value)
    assert f"{server.url} is not ready (503): Loading model" in str(caught.value)


def test_a_gone_server_is_no_reason_to_give_up_for_good(
    new_server: Callable[..., FakeServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    server = new_server()
    engine = new_engine(server, retries=0)
    server.close()
    with pytest.raises(EngineNotReady, match="refuses the connection"):
        stream(engine)


def test_as_many_questions_as_concurrency_says_are_answered_at_the_same_time(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(server, concurrency=12)
    together = threading.Barrier(12)

    def answer(exchange: Exchange) -> None:
        together.wait(PATIENCE)
        exchange.answer(exchange.json["messages"][0]["content"])

    server.on_ask = answer
    assert engine.describe().concurrency == 12
    with ThreadPoolExecutor(12) as threads:
        answers = threads.map(lambda n: text_of(stream(engine, request(f"question {n}"))), range(12))
    assert list(answers) == [f"question {n}" for n in range(12)]


# Which model, and what the engine is


def test_without_base_urls_there_is_nothing_to_ask(new_engine: Callable[..., OpenaiEngine]) -> None:
    for urls in ((), ("",), (" ", "")):
        with pytest.raises(ModelNotFound, match=r"^openai: parameter openai.base_urls is empty: "):
            new_engine(*urls)
        with pytest.raises(ModelNotFound, match=r"^openai: parameter openai.base_urls is empty: "):
            OpenaiEngine.probe(base_urls=urls)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "http://", "http://host/v1?key=1", "http://[::1"]
)
def test_what_is_no_address_is_said_to_be_none(new_engine: Callable[..., OpenaiEngine], url: str) -> None:
    with pytest.raises(ModelNotFound, match="is not an address of the kind http://HOST:PORT/v1"):
        new_engine(url)


def test_several_models_make_a_choice_necessary(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    server.on_list = lambda e: e.reply(200, {"data": [{"id": "model-a"}, {"id": "model-b"}]})
    with pytest.raises(ModelNotFound, match=r"set openai.model to one of 'model-a', 'model-b'"):
        new_engine(server)
    assert new_engine(server, model="model-b").describe().model == "model-b"


def test_a_server_without_a_list_of_models_can_be_used_by_name(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    server.on_list = lambda e: e.reply(404, "nothing here")
    assert text_of(stream(new_engine(server, model="by-name"))) == "yes"
    assert server.questions[0].json["model"] == "by-name"
    with pytest.raises(ModelNotFound, match=r"does not exist \(404\).*ends with /v1"):
        new_engine(server)


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"max_model_len": 8192}, 8192),
        ({"meta": {"n_ctx": 512, "n_ctx_train": 4096}}, 512),
        ({"meta": {"n_ctx_train": 4096}}, 4096),
        ({"context_length": "many", "meta": None}, None),
        ({}, None),
    ],
)
def test_the_context_length_is_what_the_server_or_the_parameter_says(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], entry: dict[str, Any], length: int | None
) -> None:
    server.on_list = lambda e: e.reply(200, {"data": [{"id": "model-a", **entry}]})
    assert new_engine(server).describe().context_length == length
    assert new_engine(server, context_length=2048).describe().context_length == 2048


def test_the_description_says_how_images_are_wanted(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    description = new_engine(server, max_image_tokens=256).describe()
    assert description.engine == "openai"
    assert description.image_input == ImageInput(multiple=32, max_tokens=16384, default_tokens=256)
    short = new_engine(server, max_image_tokens=256, context_length=2048).describe()
    assert short.image_input == ImageInput(multiple=32, max_tokens=2047, default_tokens=256)
    options = {one.name for one in fields(Options)}
    assert description.supports == options | {"system_prompt", "json_schema", "text_only", "probabilities", "video"}


def test_a_probe_says_which_server_has_which_model(server: FakeServer) -> None:
    refusing = refusing_url()
    assert OpenaiEngine.probe(base_urls=(server.url,), retries=3) == f"{server.url}: model-a"
    sentence = OpenaiEngine.probe(base_urls=(refusing, server.url))
    assert f"{server.url}: model-a" in sentence and f"{refusing} refuses the connection" in sentence
    with pytest.raises(EngineNotReady, match="refuses the connection"):
        OpenaiEngine.probe(base_urls=(refusing,))


def test_a_probe_does_not_wait_for_a_server_that_hangs(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "_PROBE_TIME", 0.3)
    server.on_list = lambda e: e.hang()
    with pytest.raises(EngineNotReady, match=r"does not answer within 0.3 s"):
        OpenaiEngine.probe(base_urls=(server.url,))


def test_nothing_is_left_of_an_engine_that_was_closed(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    before = threading.active_count() - server.n_connections
    engine = new_engine(server)
    stream(engine)
    engine.close()
    engine.close()
    with pytest.raises(EngineNotReady):
        new_engine(refusing_url())
    assert not [thread for thread in threading.enumerate() if thread.name == "event-loop"]
    assert threading.active_count() - server.n_connections <= before


# The key


def test_without_a_key_nothing_is_authorized(server: FakeServer, engine: OpenaiEngine) -> None:
    stream(engine)
    assert all("authorization" not in exchange.headers for exchange in server.exchanges)
    assert engine.describe().details["api_key"] == "none"


def test_the_key_comes_from_the_file_before_the_environment(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLEET_KEY", f" {KEY}\n")
    stream(new_engine(server, api_key_env="FLEET_KEY"))
    assert {exchange.headers["authorization"] for exchange in server.exchanges} == {f"Bearer {KEY}"}
    server.exchanges.clear()
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    stream(new_engine(server, api_key_env="FLEET_KEY", api_key_file=str(file)))
    assert {exchange.headers["authorization"] for exchange in server.exchanges} == {"Bearer from-the-file"}


def test_a_key_file_that_cannot_be_used_is_named(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], tmp_path: Path
) -> None:
    file = tmp_path / "key"
    with pytest.raises(ModelNotFound, match=f"cannot be read from the file {file} .*No such file"):
        new_engine(server, api_key_file=str(file))
    file.write_text("\n")
    with pytest.raises(ModelNotFound, match=f"no API key in the file {file} .*empty"):
        new_engine(server, api_key_file=str(file))
    file.write_text("two words\nand a line")
    with pytest.raises(ModelNotFound, match="is no API key") as caught:
        new_engine(server, api_key_file=str(file))
    assert "words" not in str(caught.value)


def test_a_key_file_that_everybody_can_read_is_used_with_a_warning(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o644)
    new_engine(server, api_key_file=str(file))
    assert f"chmod 600 {file}" in caplog.text
    caplog.clear()
    file.chmod(0o600)
    new_engine(server, api_key_file=str(file))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_neither_key_nor_password_are_in_any_error_log_or_description(
    server: FakeServer,
    new_engine: Callable[..., OpenaiEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # Servers repeat what they were sent, even where it will be cut or stands in another encoding.
    echo = f"{'x' * 290} {KEY} pass-word-1"
    answers: list[Callable[[Exchange], None]] = [
        *(lambda e, s=status: e.reply(s, error(echo)) for status in (400, 401, 403, 404, 413, 422, 429, 500)),
        lambda e: e.reply(200, f"<html><title>{KEY} pass-word-1</title></html>", content_type="text/html"),
        lambda e: e.events(error(echo)),
        lambda e: e.events(A_TOKEN, error(echo)),
        lambda e: e.events(echo.encode()),
        lambda e: e.events(A_TOKEN, echo.encode()),
        lambda e: e.reset(),
    ]
    url = server.url.replace("//", "//user:pass-word-1@")
    engine = new_engine(url, retries=0)
    texts = [str(engine.describe())]
    for answer in answers:
        server.on_ask = answer
        with pytest.raises(EngineError) as caught:
            stream(engine)
        texts += traceback.format_exception(caught.value)
        server.on_list = lambda e, answer=answer: answer(e)
        with contextlib.suppress(EngineError):
            texts.append(OpenaiEngine.probe(base_urls=(url,)))
        with pytest.raises(EngineError) as caught:
            new_engine(url)
        texts += traceback.format_exception(caught.value)
        server.on_list = lambda e: e.reply(200, ONE_MODEL, content_type="application/json")
    with pytest.raises(ModelNotFound) as caught:
        new_engine(f"gopher://user:pass-word-1@host?k={KEY}")
    texts.append(str(caught.value))
    told = "\n".join([*texts, caplog.text, *(str(record.args) for record in caplog.records)])
    assert "sk-very" not in told
    assert "pass-word-1" not in told
    assert base64.b64encode(b"user:pass-word-1").decode() not in told
    assert server.questions[0].headers["authorization"] == f"Bearer {KEY}"


def test_what_a_redirect_repeats_is_not_repeated(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    engine = new_engine(server)
    server.on_ask = lambda e: e.reply(307, "", location=f"http://user:pass-word-1@elsewhere/{KEY}?k={KEY}")
    with pytest.raises(ModelNotFound, match=r"to http://elsewhere/\*\*\*\. Put the right address"):
        stream(engine)


def test_user_and_password_in_an_address_are_used_where_there_is_no_key(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(server.url.replace("//", "//user:p%40ss@"))
    stream(engine)
    assert server.questions[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert engine.describe().details["servers"] == server.url


# Refusals


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda e: e.reply(401, error("no")), ModelNotFound, "wants an API key.*variable OPENAI_API_KEY"),
        (lambda e: e.reply(404, "File Not Found"), ModelNotFound, "chat/completions does not exist.*ends with /v1"),
        (
            lambda e: e.reply(413, "too large"),
            BadRequest,
            r"request of \d+ bytes \(413\): lower openai.max_image_tokens or openai.jpeg_quality",
        ),
        (lambda e: e.reply(429, error("quota used up")), EngineNotReady, r"\(429\): quota used up"),
        (lambda e: e.reply(500, "<html><title>Sorry</title>"), EngineError, "a web page titled 'Sorry'"),
        (
            lambda e: e.reply(301, "", location="https://elsewhere:444/v1"),
            ModelNotFound,
            r"redirects elsewhere \(301\): to https://elsewhere:444/v1\. Put the right address into openai.base_urls",
        ),
        (
            lambda e: e.reply(200, "<!doctype html><title>Login</title>", content_type="text/html"),
            ModelNotFound,
            "answers with a web page titled 'Login'.*ends with /v1",
        ),
        (lambda e: e.reply(400, error("Bad thing.")), BadRequest, r"refuses the request \(400\): Bad thing\.$"),
        (lambda e: e.reply(200, "hello"), EngineError, "ended without an answer"),
        (lambda e: e.reply(200, b"{", content_type="application/json"), EngineError, "no chat completion: {"),
        (lambda e: e.reply(200, {"object": "chat.completion"}), EngineError, "ended without an answer"),
        (lambda e: e.events(), EngineError, "ended without an answer"),
        (lambda e: e.events(b"[DONE]"), EngineError, "ended without an answer"),
        (lambda e: e.events(b"{no json"), EngineError, "no chat completion: {no json"),
        (
            lambda e: e.events(error("bad image", code=400)),
            BadRequest,
            "bad image",
        ),
        (
            lambda e: e.events(A_TOKEN, {"error": "out of memory"}),
            EngineError,
            "failed in the middle of the answer: out of memory",
        ),
        (
            lambda e: e.events(A_TOKEN),
            EngineError,
            "ended the connection in the middle of the answer",
        ),
        (
            lambda e: e.events(A_TOKEN, {"choices": [{"finish_reason": "content_filter"}]}),
            EngineError,
            "did not finish the answer: .*content_filter",
        ),
        (
            # llama.cpp without a projector
            lambda e: e.reply(500, error("image input is not supported - hint: you may need to provide the mmproj")),
            Unsupported,
            "^images: ",
        ),
        (  # vLLM, where it is limited to no images
            lambda e: e.reply(400, error("At most 0 image(s) may be provided in one prompt.")),
            Unsupported,
            "^images: ",
        ),
        (  # DeepSeek
            lambda e: e.reply(400, error("messages[0]: unknown variant `image_url`, expected `text` at line 1")),
            Unsupported,
            "^images: ",
        ),
        (
            lambda e: e.reply(
                422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a valid string"}]}
            ),
            Unsupported,
            "^images: ",
        ),
        (  # OpenRouter
            lambda e: e.reply(404, error("No endpoints found that support image input", code=404)),
            Unsupported,
            "^images: ",
        ),
        (  # Ollama
            lambda e: e.reply(500, error("this model is missing data required for image input")),
            Unsupported,
            "^images: ",
        ),
        (
            lambda e: e.reply(500, error("failed to create a context with context size 8192: out of memory")),
            EngineError,
            r"failed \(500\)",
        ),
        (lambda e: e.reply(401, "\ufeff" + json.dumps(error("no"))), ModelNotFound, "wants an API key.*: no"),
    ],
)
def test_every_refusal_is_a_sentence_with_a_way_out(
    server: FakeServer,
    new_engine: Callable[..., OpenaiEngine],
    answer: Callable[[Exchange], None],
    kind: type[EngineError],
    words: str,
) -> None:
    engine = new_engine(server, retries=0)
    server.on_ask = answer
    with pytest.raises(EngineError, match=words) as caught:
        stream(engine)
    assert type(caught.value) is kind
    assert server.url in str(caught.value)
    server.on_ask = lambda e: e.answer("yes")
    assert text_of(stream(engine)) == "yes"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_named_by_where_it_is_from(
    server: FakeServer,
    new_engine: Callable[..., OpenaiEngine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    status: int,
) -> None:
    monkeypatch.setenv("FLEET_KEY", KEY)
    server.on_ask = lambda e: e.reply(status, error("wrong key"))
    with pytest.raises(ModelNotFound, match="from the environment variable FLEET_KEY"):
        stream(new_engine(server, api_key_env="FLEET_KEY"))
    file = tmp_path / "key"
    file.write_text(KEY)
    with pytest.raises(ModelNotFound, match=f"from the file {file}"):
        stream(new_engine(server, api_key_file=str(file)))


@pytest.mark.parametrize(
    "refusal",
    [
        lambda e: e.reply(404, error("The model `model-x` does not exist.", code=404)),  # vLLM
        lambda e: e.reply(400, error("The model `model-x` does not exist", code="model_not_found")),  # llama_cpp.server
    ],
)
def test_a_model_that_is_not_there_is_answered_with_those_that_are(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], refusal: Callable[[Exchange], None]
) -> None:
    engine = new_engine(server, model="model-x")
    server.on_ask = refusal
    with pytest.raises(ModelNotFound, match=r"has no model 'model-x' .*: set openai.model to one of 'model-a'"):
        stream(engine)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (  # llama-server
            400,
            error(
                "request (3010 tokens) exceeds the available context size (512 tokens), try increasing it",
                code=400,
                type="exceed_context_size_error",
                n_prompt_tokens=3010,
                n_ctx=512,
            ),
        ),
        (  # OpenAI
            400,
            error(
                "This model's maximum context length is 512 tokens. However, your messages resulted in 3010 tokens.",
                code="context_length_exceeded",
                param="messages",
            ),
        ),
        (  # vLLM before 0.10
            400,
            {
                "object": "error",
                "message": "The decoder prompt (length 3010) is longer than the maximum model length of 512. Make sure "
                "that `max_model_len` is no smaller than the number of text tokens plus multimodal tokens.",
                "type": "BadRequestError",
                "code": 400,
            },
        ),
        (  # LocalAI
            500,
            {
                "error": {
                    "code": 500,
                    "message": "rpc error: code = Internal desc = request (3010 tokens) exceeds the available context "
                    "size (512 tokens), try increasing it",
                    "type": "",
                }
            },
        ),
        (  # vLLM
            400,
            error(
                "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length is 512 "
                "tokens and your request has 3010 input tokens (64 > 512 - 3010).",
                param="max_tokens",
            ),
        ),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_the_servers_numbers(
    server: FakeServer, engine: OpenaiEngine, status: int, body: dict[str, Any]
) -> None:
    server.on_ask = lambda e: e.reply(status, body)
    with pytest.raises(PromptTooLong, match=r"3010.*512|512.*3010"):
        stream(engine, request(max_tokens=64))
    assert len(server.questions) == 1


@pytest.mark.parametrize(
    ("words", "fitting"),
    [
        (  # vLLM
            "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is 1024 "
            "tokens and your request has 900 input tokens (512 > 1024 - 900).",
            124,
        ),
        (  # older vLLM
            "This model's maximum context length is 2048 tokens. However, you requested 2063 tokens (1551 in the "
            "messages, 512 in the completion). Please reduce the length of the messages or completion.",
            497,
        ),
        (  # recent vLLM, which does not count to the end
            "This model's maximum context length is 4096 tokens. However, you requested 512 output tokens and your "
            "prompt contains at least 3585 input tokens, for a total of at least 4097 tokens.",
            None,
        ),
    ],
)
def test_more_tokens_than_are_free_are_asked_for_as_many_as_are(
    server: FakeServer, engine: OpenaiEngine, words: str, fitting: int | None
) -> None:
    def full(exchange: Exchange) -> None:
        if exchange.json.get("max_tokens") == 512:
            exchange.reply(400, error(words, param="max_tokens"))
        else:
            exchange.answer("yes")

    server.on_ask = full
    for _ in range(2):  # the next question has its own length
        assert text_of(stream(engine, request(max_tokens=512))) == "yes"
    assert [exchange.json.get("max_tokens") for exchange in server.questions] == [512, fitting] * 2
    assert all("max_completion_tokens" not in exchange.json for exchange in server.questions)


def test_a_prompt_that_does_not_fit_without_an_answer_either_is_too_long(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    def full(exchange: Exchange) -> None:
        words = "This model's maximum context length is 4096 tokens. However, "
        if "max_tokens" in exchange.json:
            words += "you requested 512 output tokens and your prompt contains at least 3585 input tokens."
        else:
            words += "your prompt contains at least 4097 input tokens."
        exchange.reply(400, error(words))

    server.on_ask = full
    with pytest.raises(PromptTooLong, match="4097"):
        stream(engine, request(max_tokens=512))
    assert len(server.questions) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (error("Unrecognized request argument supplied: top_k"), "top_k"),
        (error("Unknown parameter: 'min_p'.", param="min_p", code="unknown_parameter"), "min_p"),
        (error("Unrecognized request arguments supplied: repeat_penalty, repetition_penalty"), "repetition_penalty"),
        (
            error("Unsupported value: 'temperature' does not support 0.2 with this model.", param="temperature"),
            "temperature",
        ),
        (
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed",
        ),
        (  # llama_cpp.server, with status 500
            error(
                "1 validation error: {'type': 'literal_error', 'loc': ('body', 'response_format', 'type'), 'msg': "
                "\"Input should be 'text' or 'json_object'\", 'input': 'json_schema'}",
                code=500,
            ),
            "response_schema",
        ),
        (
            error("This response_format type is not supported by the model", param="response_format.type"),
            "response_schema",
        ),
        (error("'response_format.type' must be 'text'"), "response_schema"),  # LM Studio
    ],
)
def test_a_field_that_the_server_does_not_know_is_named(
    server: FakeServer, engine: OpenaiEngine, body: dict[str, Any], field: str
) -> None:
    status = 422 if "detail" in body else body["error"].get("code")
    server.on_ask = lambda e: e.reply(status if isinstance(status, int) else 400, body)
    asked = request(temperature=0.2, top_k=5, min_p=0.1, repetition_penalty=1.1, seed=1, schema={"type": "object"})
    with pytest.raises(Unsupported, match=f"^{field}: {server.url} cannot honour it"):
        stream(engine, asked)
    assert len(server.questions) == 1


def test_a_value_that_the_server_dislikes_is_no_unknown_field(server: FakeServer, engine: OpenaiEngine) -> None:
    server.on_ask = lambda e: e.reply(400, error("temperature must be at most 1", param="temperature"))
    with pytest.raises(BadRequest, match="temperature must be at most 1") as caught:
        stream(engine, request(temperature=1.5))
    assert type(caught.value) is BadRequest


def test_a_model_that_wants_max_completion_tokens_gets_it_from_then_on(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    def picky(exchange: Exchange) -> None:
        if "max_tokens" in exchange.json:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
            exchange.reply(400, error(words, param="max_tokens", code="unsupported_parameter"))
        else:
            exchange.answer("yes")

    server.on_ask = picky
    for _ in range(2):
        assert text_of(stream(engine, request(max_tokens=9))) == "yes"
    sent = [exchange.json for exchange in server.questions]
    assert [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in sent] == [
        (9, None),
        (None, 9),
        (None, 9),
    ]


def test_a_server_that_knows_one_name_of_the_repetition_penalty_gets_that(
    server: FakeServer, engine: OpenaiEngine
) -> None:
    def strict(exchange: Exchange) -> None:
        if "repeat_penalty" in exchange.json:
            exchange.reply(400, error("Unrecognized request argument supplied: repeat_penalty"))
        else:
            exchange.answer("yes")

    server.on_ask = strict
    for _ in range(2):
        assert text_of(stream(engine, request(repetition_penalty=1.05))) == "yes"
    assert [exchange.json["repetition_penalty"] for exchange in server.questions] == [1.05] * 3
    assert ["repeat_penalty" in exchange.json for exchange in server.questions] == [True, False, False]


def test_what_a_refusal_only_mentions_is_sent_again_the_next_time(server: FakeServer, engine: OpenaiEngine) -> None:
    words = "temperature must be at most 1; the request had max_tokens (not max_completion_tokens), stream_options"
    server.on_ask = lambda e: e.reply(400, error(words, param="temperature"))
    for _ in range(2):
        with pytest.raises(BadRequest):
            stream(engine, request(temperature=1.5, max_tokens=9))
    assert len(server.questions) == 2
    assert all(exchange.json["max_tokens"] == 9 for exchange in server.questions)
    assert all("stream_options" in exchange.json for exchange in server.questions)


def test_a_server_that_tells_fewer_probabilities_is_asked_without(server: FakeServer, engine: OpenaiEngine) -> None:
    def grumble(exchange: Exchange) -> None:
        if "logprobs" in exchange.json:
            words = "Requested sample logprobs of 20, which is greater than max allowed: 5"  # vLLM
            exchange.reply(400, error(words))
        else:
            exchange.answer("Yes")

    server.on_ask = grumble
    assert choose(engine) is None


def test_a_server_that_does_not_know_stream_options_is_asked_without(server: FakeServer, engine: OpenaiEngine) -> None:
    def old(exchange: Exchange) -> None:
        if "stream_options" in exchange.json:
            exchange.reply(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs not permitted"}]})
        else:
            exchange.answer("a", "b")

    server.on_ask = old
    for _ in range(2):
        assert stream(engine)[-1].completion_tokens == 2
    assert len(server.questions) == 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_a_certificate_of_ones_own_is_trusted_once_the_environment_names_it(
    new_server: Callable[..., FakeServer],
    new_engine: Callable[..., OpenaiEngine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=robots -out {certificate} -keyout {key}"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = new_server(lambda e: e.answer("yes"), context)
    with pytest.raises(ModelNotFound, match=r"certificate that this machine does not trust.*SSL_CERT_FILE"):
        new_engine(server)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert text_of(stream(new_engine(server))) == "yes"


def test_a_server_without_tls_is_said_to_have_none(server: FakeServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    with pytest.raises(ModelNotFound, match="does not speak TLS"):
        new_engine(server.url.replace("http:", "https:"))


def test_a_wrong_proxy_is_said_to_be_one(
    server: FakeServer, new_engine: Callable[..., OpenaiEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://user:pass-word-1@proxy")
    with pytest.raises(ModelNotFound, match="HTTP_PROXY") as caught:
        new_engine(server)
    assert "pass-word-1" not in "".join(traceback.format_exception(caught.value))
