"""Watches over HTTP: what may be said of one, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway_server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


def test_a_watch_is_added_listed_muted_and_ended(server: Server, http: httpx.Client) -> None:
    watch = {"prompt": "Is the door open?", "watch_id": "door", "cameras": ["front"], "cooldown": 5, "evidence": True}
    assert http.post("/api/watches", json=watch).raise_for_status().json() == {"watch_id": "door"}
    added = server.backend.kept.added["door"]
    assert (added.prompt, added.cameras, added.cooldown.sec, added.evidence) == (
        "Is the door open?",
        ["front"],
        5,
        True,
    )
    assert http.post("/api/watches/door/mute?muted=true").is_success
    report = http.get("/api/watches").raise_for_status().json()
    assert [(one["watch_id"], one["muted"]) for one in report["watches"]] == [("door", True)]
    assert http.post("/api/watches/door/mute?muted=false").is_success
    assert http.get("/api/watches").json()["watches"][0]["muted"] is False
    assert http.delete("/api/watches/door").is_success
    assert http.get("/api/watches").json()["watches"] == []


def test_events_come_with_their_images(http: httpx.Client) -> None:
    (event,) = http.get("/api/watches").json()["events"]
    assert (event["kind"], event["message"], event["images"]) == ("on", "The door is open.", ["after"])
    image = http.get(f"/api/watch_events/{event['number']}/after.jpg")
    assert image.headers["content-type"] == "image/jpeg" and image.content.startswith(b"\xff\xd8")
    assert "any more" in refusal(http.get("/api/watch_events/7/before.jpg"), 404)
    refusal(http.get("/api/watch_events/7/secret.jpg"), 400)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": "Is it?", "reference": "/etc/passwd"}, "reference"),
        ({"prompt": "Is it?", "colour": 3}, "colour"),
        ({"prompt": "Is it?", "kinds": ["never"]}, "kinds"),
        ({"prompt": 7}, "prompt"),
        ([], "object"),
        ("[" * 100_000, "JSON"),
        ("no", "JSON"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(http: httpx.Client, body: Any, named: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    response = http.post("/api/watches", content=content, headers={"Content-Type": "application/json"})
    assert named in refusal(response, 400)


def test_what_the_node_refuses_is_said_and_an_unknown_watch_is_not_found(http: httpx.Client) -> None:
    http.post("/api/watches", json={"prompt": "a", "watch_id": "a"})
    assert "'a' is another watch" in refusal(http.post("/api/watches", json={"prompt": "b", "watch_id": "a"}), 400)
    for response in (
        http.delete("/api/watches/nobody"),
        http.post("/api/watches/nobody/mute?muted=true"),
        http.delete("/api/watches/%20"),
    ):
        assert "there is no watch" in refusal(response, 404)


def test_a_node_that_is_away_is_a_problem_of_now(server: Server, http: httpx.Client) -> None:
    server.backend.kept.away = True
    response = http.get("/api/watches")
    assert "list_watches" in refusal(response, 503) and response.headers["Retry-After"] == "5"
