"""Real clients: the openai package, requests, curl, and schemathesis with whatever it makes up."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings

from examples import examples
from gateway_server import PATIENCE, Server, data_url, image_file, serving
from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.exceptions import BadResponse, Busy

TOKEN = "a-token-of-the-tests"
MESSAGES: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What colour is the box?"},
            {"type": "image_url", "image_url": {"url": data_url(image_file()), "detail": "auto"}},
        ],
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving(token=TOKEN) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.backend.rewrite()
    return running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=PATIENCE, max_retries=0) as made:
        yield made


def test_openai_asks(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="qwen3-vl", messages=MESSAGES, temperature=0, max_tokens=9)
    assert reply.choices[0].message.content == "red"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 82
    assert reply.model_extra is not None
    assert reply.model_extra["qwen3vl_ros"]["engine"] == "scripted"


def test_openai_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="qwen3-vl", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "red"
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


def test_openai_streams_with_its_own_events(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="qwen3-vl", messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == "red"
    assert "content.done" in kinds


def test_openai_sends_an_answer_back_for_a_follow_up(server: Server, client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="tiny", messages=MESSAGES).choices[0].message
    follow_up: Any = [*MESSAGES, first, {"role": "user", "content": "Sure?"}]
    assert client.chat.completions.create(model="tiny", messages=follow_up).choices[0].message.content == "red"
    server.backend.next_asked()
    goal = server.backend.next_asked().goal
    assert [turn.role for turn in goal.history] == ["user", "assistant"]


class Box(pydantic.BaseModel):
    colour: str
    sides: int


def test_openai_tells_an_answer_that_was_cut_off_from_an_error(server: Server, client: openai.OpenAI) -> None:
    requests_sent = []

    def cut_off(asked: Any) -> None:
        requests_sent.append(asked)
        asked.fail(BadResponse("it is not JSON", answer=Answer('{"colour', finish_reason="length")))

    server.backend.script = cut_off
    with pytest.raises(openai.LengthFinishReasonError):
        client.with_options(max_retries=2).chat.completions.parse(
            model="tiny", messages=MESSAGES, response_format=Box, max_tokens=3
        )
    assert len(requests_sent) == 1


def test_openai_parses_structured_output(server: Server, client: openai.OpenAI) -> None:
    server.backend.script = lambda asked: asked.answer(
        '```json\n{"colour": "red", "sides": 6}\n```', json={"colour": "red", "sides": 6}
    )
    reply = client.chat.completions.parse(model="qwen3-vl", messages=MESSAGES, response_format=Box)
    assert reply.choices[0].message.parsed == Box(colour="red", sides=6)
    assert '"colour"' in server.backend.next_asked().goal.response_schema


def test_openai_asks_without_waiting(server: Server) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=PATIENCE) as made:
            whole = made.chat.completions.create(model="qwen3-vl", messages=MESSAGES)
            stream = await made.chat.completions.create(model="qwen3-vl", messages=MESSAGES, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return ["".join(pieces), (await whole).choices[0].message.content or ""]

    assert asyncio.run(ask()) == ["red", "red"]


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "qwen3-vl"]
    assert client.models.retrieve("tiny").owned_by == "scripted"


def test_openai_raises_its_own_errors(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another-token-of-20").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-4o")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=MESSAGES, n=2)
    assert bad.value.param == "n"
    server.backend.script = lambda asked: asked.fail(Busy("the queue is full"))
    with pytest.raises(openai.InternalServerError, match="the queue is full"):
        client.chat.completions.create(model="tiny", messages=MESSAGES)


def test_openai_tries_again_when_it_is_told_to(server: Server, client: openai.OpenAI) -> None:
    def busy_once(asked: Any) -> None:
        server.backend.rewrite()
        asked.fail(Busy("the queue is full"))

    server.backend.script = busy_once
    reply = client.with_options(max_retries=1).chat.completions.create(model="tiny", messages=MESSAGES)
    assert reply.choices[0].message.content == "red"


def test_openai_sees_an_error_within_a_stream(server: Server, client: openai.OpenAI) -> None:
    def fail_late(asked: Any) -> None:
        asked.say("re", queue_position=1)

    server.backend.script = fail_late
    stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    server.backend.next_asked().fail(Busy("somebody else was first"))
    with pytest.raises(openai.APIError, match="somebody else was first"):
        list(stream)


def test_requests_uploads_a_form(server: Server) -> None:
    reply = requests.post(
        f"{server.url}/v1/chat/completions",
        files={"image": ("box.jpg", image_file(form="JPEG"), "image/jpeg")},
        data={"prompt": "What colour is the box?"},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=PATIENCE,
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "red"
    assert reply.json()["usage"]["total_time_ms"] > 0


def test_requests_learns_that_its_image_is_too_large() -> None:
    """It sends all of it before it looks for an answer, and must find one."""
    with serving() as server:
        large = b"\xff\xd8\xff" + b"x" * 10_000_000
        for size, files in ((1, large), (4, large * 4)):
            reply = requests.post(
                f"{server.url}/v1/chat/completions",
                files={"image": ("box.jpg", files)},
                data={"prompt": "?"},
                timeout=PATIENCE,
            )
            assert reply.status_code == 413, size


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (apt install curl)")
def test_curl_asks_and_uploads(server: Server, tmp_path: Path) -> None:
    (tmp_path / "box.png").write_bytes(image_file())
    address = f"{server.url}/v1/chat/completions"
    bearer = f"Authorization: Bearer {TOKEN}"
    common = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", "--noproxy", "*", address]
    form = ["-F", f"image=@{tmp_path}/box.png", "-F", "prompt=What colour is the box?"]
    body = '{"messages": [{"role": "user", "content": "Who?"}], "stream": true}'
    stream = ["--no-buffer", "-H", "Content-Type: application/json", "-d", body]
    for arguments, expected in ((form, '"content":"red"'), (stream, "data: [DONE]")):
        done = subprocess.run([*common, "-H", bearer, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout


BOARD = """
import json, urllib.request
payload = {
    "model": "AXERA-TECH/Qwen3-VL-2B-Instruct-GPTQ-Int4",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": [
            {"type": "text", "text": "Describe the image."},
            {"type": "image_url", "image_url": "images/demo.jpg"},
        ]},
    ],
}
request = urllib.request.Request(
    "http://%s/v1/chat/completions", json.dumps(payload).encode(), {"Content-Type": "application/json"}
)
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
"""
"""A client of the NPU board's own server: it names a model of the board's, and an image by a path of the server."""


def test_a_client_of_the_boards_server_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "demo.jpg").write_bytes(image_file(form="JPEG"))
    with serving(media_path=str(tmp_path)) as server:
        client = [sys.executable, "-c", BOARD % f"127.0.0.1:{server.port}"]
        done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert done.stdout == "red\n"
        goal = server.backend.next_asked().goal
    assert bytes(goal.compressed_images[0].data) == image_file(form="JPEG")


@pytest.fixture(scope="module")
def document(running: Server) -> Any:
    return schemathesis.openapi.from_url(
        f"{running.url}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}, wait_for_schema=PATIENCE
    )


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(examples(40), suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_nothing_that_the_document_allows_or_forbids_is_a_server_error(case: Any) -> None:
    """With the checks of schemathesis that concern what is answered: no 5xx, documented statuses, types and bodies."""
    checks = schemathesis.checks
    response = case.call(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE)
    case.validate_response(
        response,
        checks=[
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )
