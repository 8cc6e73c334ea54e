"""Bodies that are sent slowly, that are too large or encoded, and responses without one."""

from __future__ import annotations

import gzip
import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import pytest

from gateway_server import PATIENCE, Server, question, serving

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(max_request_bytes=100_000) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def upload(server: Server, size: int = 1000, kind: str = "application/json") -> socket.socket:
    """A connection on which the gateway has begun to read the body of a question: it said 100 Continue."""
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 100")
    return connection


def rest_of(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(4096):
        received += piece
    return received


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_bodies_that_are_sent_slowly_keep_nobody_from_asking(kind: str) -> None:
    with serving(concurrency=1) as server, server.client() as http, ExitStack() as open_ones:
        for _ in range(5):
            open_ones.enter_context(closing(upload(server, kind=kind))).sendall(b"{")
        assert http.post(CHAT, json=question()).status_code == 200


def test_a_body_that_does_not_come_in_time_is_408_and_ends_the_connection() -> None:
    with serving(body_timeout=0.2) as server, closing(upload(server)) as connection:
        connection.sendall(b"{")
        head, _, body = rest_of(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == "request_timeout"
    assert "body_timeout" in error["message"]


def test_a_body_that_comes_in_pieces_is_read(server: Server) -> None:
    content = json.dumps(question()).encode()
    with closing(upload(server, len(content))) as connection:
        for letter in content:
            connection.sendall(bytes([letter]))
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_all_bodies_together_are_bounded() -> None:
    with serving(concurrency=1, max_request_bytes=100_000) as server, server.client() as http:
        with ExitStack() as open_ones:
            uploads = [open_ones.enter_context(closing(upload(server, 100_000))) for _ in range(3)]
            for connection in uploads:
                connection.sendall(b" " * 90_000)
            refused = select.select(uploads, [], [], PATIENCE)[0][0]
            head, _, body = rest_of(refused).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after" in head.lower()
            assert "large requests" in json.loads(body)["error"]["message"]
        assert http.post(CHAT, json=question()).status_code == 200  # what was held is free again


def test_a_refusal_reaches_a_client_that_goes_on_sending() -> None:
    """A connection that is closed while the client still sends is reset, and the response is lost."""
    with serving(rate_limit=1) as server, server.client() as http:
        assert http.post(CHAT, json=question()).status_code == 200
        with closing(socket.create_connection(("127.0.0.1", server.port), PATIENCE)) as connection:
            connection.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Content-Length: 3000000\r\n\r\n{".encode()
            )
            assert select.select([connection], [], [], PATIENCE)[0]  # the response has come
            connection.sendall(b" " * 2_999_999)
            head = rest_of(connection).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 429")
    assert b"connection: close" in head.lower()


def test_a_refusal_keeps_the_connection_of_a_client_that_has_sent_all() -> None:
    with serving(rate_limit=1) as server, server.client() as http:
        statuses = []
        for _ in range(3):
            response = http.post(CHAT, json=question())
            statuses.append((response.status_code, response.headers.get("connection")))
    assert statuses == [(200, None), (429, None), (429, None)]


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    for size in (100_001, 10**30):
        with closing(socket.create_connection(("127.0.0.1", server.port), PATIENCE)) as connection:
            connection.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            answer = rest_of(connection)
        assert b"100 Continue" not in answer
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))  # 400: the server, for a length that is none


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_an_encoded_body_is_415(http: httpx.Client, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    refused = http.post(CHAT, content=gzip.compress(json.dumps(question()).encode()), headers=headers)
    assert refused.status_code == 415
    assert "Content-Encoding" in refused.json()["error"]["message"]
    headers["Content-Encoding"] = "identity"
    assert http.post(CHAT, content=json.dumps(question()), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/", "/v1/models/tiny", "/api/status", "/api/tasks",
     "/api/cameras/front/frame.jpg", "/openapi.json", "/", "/static/index.html"],
)  # fmt: skip
def test_head_is_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # which count the requests
        assert head.headers["content-length"] == get.headers["content-length"]


def test_head_of_what_is_not_there_is_no_success(http: httpx.Client) -> None:
    assert http.head("/nothing").status_code == 404
    assert http.head(CHAT).status_code == 405
    assert http.head("/api/cameras/dark/frame.jpg").status_code == 503
    assert http.get("/health").json() == {"status": "healthy"}
