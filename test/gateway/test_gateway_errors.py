"""What goes wrong at the gateway: every error has OpenAI's shape, its status, and a sentence; who leaves is let go."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway_server import PATIENCE, Asked, Server, data_url, events, image_file, question, serving, stays_open
from qwen3vl_ros.client import exceptions
from qwen3vl_ros.gateway.backend import NodeStatus
from qwen3vl_ros.gateway.limits import RateLimit

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving(max_image_bytes=20_000, max_image_pixels=10_000, max_request_bytes=100_000) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.backend.rewrite()
    running.backend.now = NodeStatus("ready", engine="scripted", model="tiny")
    return running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


# --- 400: what makes no sense -----------------------------------------------------------------------------------------


def image(url: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ([], None, "dictionary"),
        ({}, "messages", "required"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "no text"),
        ({"messages": [{"role": "assistant", "content": "Hi."}]}, "messages", "user's"),
        ({"messages": [{"role": "system", "content": "Hi."}]}, "messages", "user's"),
        (question(temperature=3), "temperature", "less than or equal to 2"),
        (question(temperature="0.5"), "temperature", "number"),
        (question(max_tokens=0), "max_tokens", "greater than or equal to 1"),
        (question(max_tokens=1, max_completion_tokens=2), "max_completion_tokens", "mean the same"),
        (question(n=2), "n", "one answer"),
        (question(tools=[{"type": "function"}]), "tools.0.function", "required"),
        (question(logprobs=True), "logprobs", "no probabilities"),
        (question(frequency_penalty=-1), "frequency_penalty", "greater than or equal to 0"),
        (question(**{"top-p": 0.5, "top_p": 0.25}), "top_p", "there twice"),
        (question(response_format={"type": "json_schema", "json_schema": {"name": "a"}}), None, "required"),
        (question(image_file(), "What?", camera="front"), "camera", "choose one"),
        (question(camera=5), "camera", "string"),
        (image({"url": 5}), "messages.0.content.1.image_url.url", "string"),
        (image("data:image/png;base64,"), "messages", "empty"),
        (image("data:image/png,rawbytes"), "messages", "base64"),
        (image("data:image/png;base64"), "messages", "comma"),
        (image("data:image/png;base64,AAAAA"), "messages", "base64"),
        (image(data_url(b"no image at all")), "messages", "no JPEG, PNG or WebP"),
        (image("/root/secret.png"), "messages", "not read"),
        (image("file:///root/secret.png"), "messages", "not read"),
        (image("http://example.com/image.png"), "messages", "not fetched"),
        (image(data_url(image_file())) | {"task": 3}, "task", "string"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(http: httpx.Client, body: Any, param: str | None, words: str) -> None:
    error = error_of(http.post(CHAT, json=body), 400)
    if param is not None:
        assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b'{"messages": NaN}', b"\xff", b"[" * 10_000, b'{"a": ' * 10_000])
def test_a_body_that_is_no_json_is_refused(http: httpx.Client, body: bytes) -> None:
    error = error_of(http.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({"image": ("a.png", b"broken")}, "messages"),
        ({"prompt": (None, "What?")}, "image"),
        ({"image": (None, "text"), "prompt": (None, "What?")}, "image"),
        ({"file": ("a.png", image_file()), "prompt": (None, "What?")}, "file"),
        ({"image": ("a.png", image_file()), "prompt": (None, "What?"), "messages": (None, "[]")}, "messages"),
        ({"image": ("a.png", image_file()), "prompt": (None, "What?"), "max_tokens": (None, "few")}, "max_tokens"),
        ({"image": ("a.png", image_file()), "prompt": (None, "What?"), "camera": (None, "front")}, "camera"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(http: httpx.Client, files: dict[str, Any], param: str) -> None:
    assert error_of(http.post(CHAT, files=files), 400)["param"] == param


def test_a_form_that_is_none_is_refused(http: httpx.Client) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        error_of(http.post(CHAT, content=b"nothing like it", headers={"content-type": kind}), 400)


@pytest.mark.parametrize(("width", "words"), [("wide", "a whole number"), ("5", "greater than or equal to 16")])
def test_a_width_that_makes_no_sense_is_refused_by_name(http: httpx.Client, width: str, words: str) -> None:
    error = error_of(http.get("/api/cameras/front/frame.jpg", params={"width": width}), 400)
    assert error["param"] == "width"
    assert error["message"].startswith(f"width: it has to be {words}")


def test_an_error_does_not_repeat_what_it_is_about(http: httpx.Client) -> None:
    url = data_url(b"SECRET" * 100)
    assert url[30:60] not in http.post(CHAT, json=image(url)).text
    assert url[30:60] not in http.post(CHAT, json=image({"url": url, "more": url})).text


# --- 404, 405, 413, 415 -----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_404(http: httpx.Client) -> None:
    error_of(http.get("/nothing"), 404)
    assert error_of(http.get("/v1/models/gpt-4o"), 404)["code"] == "model_not_found"
    assert "'front'" in error_of(http.get("/api/cameras/rear/frame.jpg"), 404)["message"]


def test_a_method_that_is_not_there_is_405(http: httpx.Client) -> None:
    response = http.get(CHAT)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


def test_an_image_too_large_is_413(http: httpx.Client) -> None:
    large = image_file(100, 100)
    assert len(large) > 20_000
    assert "20000 bytes" in error_of(http.post(CHAT, json=image(data_url(large))), 413)["message"]
    form = {"image": ("a.png", large), "prompt": (None, "What?")}
    error_of(http.post(CHAT, files=form), 413)


def bomb(side: int) -> bytes:
    """A PNG that says it has ``side`` by ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [101, 30_000, 2**31 - 1])
def test_an_image_of_too_many_pixels_is_413_before_it_is_decoded(http: httpx.Client, side: int) -> None:
    error = error_of(http.post(CHAT, json=image(data_url(bomb(side)))), 413)
    assert "10000 are accepted" in error["message"]


@pytest.mark.parametrize("size", [100_001, 350_000])
def test_a_request_too_large_is_413_although_the_client_sends_it_all(http: httpx.Client, size: int) -> None:
    error_of(http.post(CHAT, content=b" " * size, headers={"content-type": "application/json"}), 413)


def test_a_request_of_unknown_size_is_413_when_it_has_become_too_large(http: httpx.Client) -> None:
    pieces = iter([b" " * 10_000] * 12)
    error_of(http.post(CHAT, content=pieces, headers={"content-type": "application/json"}), 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_a_body_of_another_type_is_415(http: httpx.Client, kind: str) -> None:
    error_of(http.post(CHAT, content=b"{}", headers={"content-type": kind}), 415)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_an_image_of_another_format_is_415(http: httpx.Client, form: str) -> None:
    error_of(http.post(CHAT, json=image(data_url(image_file(8, 8, form), form.lower()))), 415)


def test_a_data_url_that_is_no_image_is_415(http: httpx.Client) -> None:
    error_of(http.post(CHAT, json=image("data:application/pdf;base64,AAAA")), 415)


# --- 429, 503: not now ------------------------------------------------------------------------------------------------


def test_more_questions_a_minute_than_allowed_are_429() -> None:
    with serving(rate_limit=2) as server, server.client() as http:
        assert [http.post(CHAT, json=question()).status_code for _ in range(2)] == [200, 200]
        refused = http.post(CHAT, json=question())
        assert error_of(refused, 429)["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/api/status").status_code == 200  # looking is no question


def test_the_rate_limit_lets_a_client_ask_again_when_it_says() -> None:
    clock = [0.0]
    limit = RateLimit(2, lambda: clock[0])
    limit.count("a")
    limit.count("a")
    with pytest.raises(Exception, match=r"wait 30\.0 s"):
        limit.count("a")
    limit.count("b")  # another one
    clock[0] = 30.0
    limit.count("a")


def test_one_question_more_than_allowed_at_a_time_is_503() -> None:
    with serving(concurrency=2) as server, server.client() as http:
        server.backend.script = stays_open
        with (
            http.stream("POST", CHAT, json=question(stream=True)),
            http.stream("POST", CHAT, json=question(stream=True)),
        ):
            refused = http.post(CHAT, json=question())
            assert error_of(refused, 503)["code"] == "busy"
            assert int(refused.headers["retry-after"]) >= 1
        first, second = server.backend.next_asked(), server.backend.next_asked()
        assert first.cancelled.wait(PATIENCE)
        assert second.cancelled.wait(PATIENCE)
        server.backend.rewrite()
        assert http.post(CHAT, json=question()).status_code == 200  # their places are free again


@pytest.mark.parametrize("state", ["absent", "unconfigured", "loading", "inactive"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_takes_no_questions_is_503_with_its_reasons(
    server: Server, http: httpx.Client, state: Any, stream: bool
) -> None:
    server.backend.now = NodeStatus(state, "it has its reasons")
    server.backend.script = lambda asked: asked.fail(exceptions.ServerInactive("it takes none"))
    refused = http.post(CHAT, json=question(stream=stream))
    message = error_of(refused, 503)["message"]
    assert "it takes none" in message
    assert "it has its reasons" in message
    assert int(refused.headers["retry-after"]) >= 1
    assert "it has its reasons" in error_of(http.get("/ready"), 503)["message"]
    assert http.get("/health").status_code == 200
    assert http.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize(
    "known",
    [NodeStatus("absent"), NodeStatus("unconfigured"), NodeStatus("loading"), NodeStatus("inactive"),
     NodeStatus("busy", queue_length=8, queue_capacity=8), NodeStatus("ready", queue_length=8, queue_capacity=8)],
    ids=str,
)  # fmt: skip
def test_what_is_known_of_the_node_refuses_nothing(server: Server, http: httpx.Client, known: NodeStatus) -> None:
    """It may be of a node that is gone, or the node may make it wait, as while its engine restarts."""
    server.backend.now = known
    reply = http.post(CHAT, json=question("And now?"))
    assert reply.status_code == 200, reply.text
    assert server.backend.next_asked().prompt == "And now?"


def test_a_camera_without_a_frame_is_503(http: httpx.Client) -> None:
    response = http.get("/api/cameras/dark/frame.jpg")
    assert "is the camera running?" in error_of(response, 503)["message"]
    assert response.headers["retry-after"]


# --- what a question ends with ----------------------------------------------------------------------------------------

ENDINGS = [
    (exceptions.BadRequest, 400), (exceptions.Unsupported, 400), (exceptions.BadImage, 400),
    (exceptions.PromptTooLong, 400), (exceptions.NoFrame, 503), (exceptions.GoalTimeout, 504),
    (exceptions.Busy, 503), (exceptions.Preempted, 503), (exceptions.Cancelled, 499),
    (exceptions.EngineNotReady, 503), (exceptions.EngineCrashed, 503), (exceptions.EngineError, 502),
    (exceptions.BadResponse, 502), (exceptions.Shutdown, 503), (exceptions.InternalError, 500),
    (exceptions.ServerUnavailable, 503), (exceptions.ServerInactive, 503), (exceptions.ServerLost, 503),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "status"), ENDINGS)
def test_every_ending_of_a_question_has_its_status(
    server: Server, http: httpx.Client, kind: type[exceptions.VlmError], status: int, stream: bool
) -> None:
    server.backend.script = lambda asked: asked.fail(kind("the reason"))
    response = http.post(CHAT, json=question(stream=stream))
    assert error_of(response, status)["message"] == "the reason."
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_prompt_too_long_has_openais_code(server: Server, http: httpx.Client) -> None:
    server.backend.script = lambda asked: asked.fail(exceptions.PromptTooLong("999 tokens"))
    assert error_of(http.post(CHAT, json=question()), 400)["code"] == "context_length_exceeded"


def test_a_stream_that_fails_on_the_way_says_so_in_an_event(server: Server, http: httpx.Client) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        coming = events(response)
        asked.say("re")
        asked.fail(exceptions.EngineCrashed("the process died"))
        *_, failure, done = coming
    assert response.status_code == 200
    assert failure["error"]["code"] == "engine_crashed"
    assert failure["error"]["message"] == "the process died."
    assert done == "[DONE]"


def test_a_text_that_is_not_what_was_streamed_is_an_error(server: Server, http: httpx.Client) -> None:
    server.backend.script = stays_open
    with http.stream("POST", CHAT, json=question(stream=True)) as response:
        asked = server.backend.next_asked()
        coming = events(response)
        asked.say("red")
        assert next(c for c in coming if c["choices"][0]["delta"].get("content"))
        asked.answer("blue")
        *_, failure, _ = coming
    assert failure["error"]["code"] == "unknown"


def test_a_defect_of_ours_is_500_in_openais_shape(server: Server, http: httpx.Client) -> None:
    def defect(asked: Asked) -> None:
        raise RuntimeError("secret detail")

    server.backend.script = defect
    error = error_of(http.post(CHAT, json=question()), 500)
    assert "secret detail" not in error["message"]
    server.backend.rewrite()
    assert http.post(CHAT, json=question()).status_code == 200


# --- who goes away ----------------------------------------------------------------------------------------------------


def send(server: Server, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_its_question_before_anything_came(server: Server, stream: bool) -> None:
    server.backend.script = stays_open
    connection = send(server, question(stream=stream))
    asked = server.backend.next_asked()
    connection.close()
    assert asked.cancelled.wait(PATIENCE)


def test_a_client_that_goes_away_while_it_is_queued_cancels_its_question(server: Server) -> None:
    server.backend.script = stays_open
    connection = send(server, question(stream=True))
    asked = server.backend.next_asked()
    asked.say(stage=0, queue_position=3)
    assert connection.recv(1)
    connection.close()
    assert asked.cancelled.wait(PATIENCE)


def test_a_client_that_goes_away_while_text_comes_cancels_its_question(server: Server) -> None:
    server.backend.script = stays_open
    connection = send(server, question(stream=True))
    asked = server.backend.next_asked()
    asked.say("red")
    assert connection.recv(1)
    connection.close()
    assert asked.cancelled.wait(PATIENCE)


def test_a_client_that_goes_away_while_it_sends_is_forgotten(server: Server, http: httpx.Client) -> None:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n{".encode()
    )
    connection.close()
    assert http.post(CHAT, json=question()).status_code == 200


def test_a_server_that_ends_ends_its_questions() -> None:
    with serving() as server:
        server.backend.script = stays_open
        connection = send(server, question(stream=True))
        asked = server.backend.next_asked()
    assert asked.cancelled.wait(PATIENCE)
    connection.close()


def test_a_hundred_open_questions_need_no_threads_of_their_own(server: Server) -> None:
    server.backend.script = stays_open
    before = threading.active_count()
    connections = [send(server, question(stream=True)) for _ in range(90)]
    open_ones = [server.backend.next_asked() for _ in connections]
    # At most those of the pool that sends questions; each of them would be a thread if they waited in one.
    assert threading.active_count() - before < 60
    for asked in open_ones:
        asked.answer("red")
    for connection in connections:
        received = io.BytesIO()
        while not received.getvalue().endswith(b"0\r\n\r\n"):
            received.write(connection.recv(4096))
        assert b'"red"' in received.getvalue()
        connection.close()
