"""Corrections over HTTP: what is written, what is refused, and how a page knows that it may offer them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from gateway_server import Server, question, serving

ONES = "1" * 32


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.backend.now = replace(running.backend.now, records=True)
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def test_a_correction_reaches_the_node(server: Server, http: httpx.Client) -> None:
    text = 'a green box,\nnot "red" \N{PACKAGE}'
    response = http.post("/api/corrections", json={"goal_id": ONES, "text": text})
    assert (response.status_code, response.json()) == (200, {"corrected": True})
    assert server.backend.corrections == [(ONES, text)]


def test_an_answer_has_the_identifier_and_the_status_says_whether_it_is_recorded(
    server: Server, http: httpx.Client
) -> None:
    server.backend.script = lambda asked: asked.answer("red", goal_id=ONES)
    extension = http.post("/v1/chat/completions", json=question()).json()["qwen3vl_ros"]
    assert extension["goal_id"] == ONES
    assert http.get("/api/status").json()["records"] is True
    server.backend.now = replace(server.backend.now, records=False)
    assert http.get("/api/status").json()["records"] is False


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"goal_id": "2" * 32, "text": "x"}, "there is no answer"),
        ({"goal_id": ONES}, "text"),
        ({"goal_id": ONES, "text": ""}, "text"),
        ({"goal_id": ONES, "text": "a\0b"}, "NUL"),
        ({"goal_id": "1" * 65, "text": "x"}, "goal_id"),
        ({"goal_id": 3, "text": "x"}, "goal_id"),
        ([], "object"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_sentence(http: httpx.Client, body: object, words: str) -> None:
    response = http.post("/api/corrections", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_a_node_that_records_nothing_is_said(server: Server, http: httpx.Client) -> None:
    server.backend.now = replace(server.backend.now, records=False)
    response = http.post("/api/corrections", json={"goal_id": ONES, "text": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "correction_refused")
    assert "record.directory" in response.json()["error"]["message"]


def test_corrections_want_the_token_too() -> None:
    with serving(token="secret") as server, server.client() as http:
        assert http.post("/api/corrections", json={"goal_id": ONES, "text": "x"}).status_code == 401
        assert server.backend.corrections == []
