"""What a web server gets of the events of watches: a real server, on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qwen3vl_ros.msg import Answer, WatchEvent
from sensor_msgs.msg import CompressedImage

from lamp import Lamp, Room
from qwen3vl_ros.vlm.watch_webhook import DELIVERY, MOST_WAITING, SIGNATURE, Webhook, WebhookError, read_secret
from webhook_server import PATIENCE, Server

pytest_plugins = ["lamp_fixtures"]
SECRET = b"a secret of the tests"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Log:
    def __init__(self) -> None:
        self._sentences: queue.Queue[str] = queue.Queue()

    def __call__(self, sentence: str) -> None:
        self._sentences.put(sentence)

    def next(self) -> str:
        return self._sentences.get(timeout=PATIENCE)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def webhook(server: Server, log: Log) -> Iterator[Webhook]:
    webhook = Webhook(server.address, SECRET, log, waits=(0.01, 0.01))
    yield webhook
    webhook.close()


def event(sequence: int = 0, **fields: Any) -> WatchEvent:
    return WatchEvent(watch_id="door", sequence=sequence, kind=WatchEvent.ON, active=True, message="Offen ✓", **fields)


def test_an_event_is_posted_as_json_with_the_signature_of_its_body(server: Server, webhook: Webhook) -> None:
    answer = Answer(goal_id="ab" * 16, text="Yes", probability=0.875)
    webhook.put(event(after=CompressedImage(format="jpeg", data=b"\xff\xd8abc"), answer=answer))
    path, headers, body = server.next()
    assert (path, headers["Content-Type"]) == ("/events", "application/json")
    assert headers[SIGNATURE] == f"sha256={hmac.new(SECRET, body, hashlib.sha256).hexdigest()}"
    posted = json.loads(body)
    assert (posted["watch_id"], posted["kind"], posted["message"]) == ("door", "on", "Offen ✓")
    assert (posted["text"], posted["probability"]) == ("Yes", 0.875)
    assert base64.b64decode(posted["images"]["after"]) == b"\xff\xd8abc"
    assert SECRET not in body


def test_what_fails_is_posted_again_with_the_same_name_and_in_its_order(server: Server, webhook: Webhook) -> None:
    server.statuses = [503, 429]
    webhook.put(event(0))
    webhook.put(event(1))
    posts = [server.next() for _ in range(4)]
    assert [json.loads(body)["sequence"] for _, _, body in posts] == [0, 0, 0, 1]
    assert len({headers[DELIVERY] for _, headers, _ in posts}) == 2


@pytest.mark.parametrize("status", [302, 307, 400, 401])
def test_a_redirect_is_not_followed_and_a_refusal_not_repeated(
    server: Server, webhook: Webhook, log: Log, status: int
) -> None:
    server.statuses = [status]
    webhook.put(event(0))
    webhook.put(event(1))
    assert [server.next()[0] for _ in range(2)] == ["/events"] * 2
    said = log.next()
    assert f"event 0 of watch door could not be posted to 127.0.0.1: it answered with status {status}" in said
    assert "hidden" not in said
    assert server.posts.empty()


def test_a_server_that_is_not_there_is_given_up_for_an_event_and_tried_for_the_next(log: Log) -> None:
    server = Server()
    server.close()
    webhook = Webhook(server.address, SECRET, log, waits=(0.01,))
    for number in range(2):
        webhook.put(event(number))
        assert f"event {number} of watch door could not be posted to 127.0.0.1: ConnectError" in log.next()
    webhook.close()


def test_of_more_events_than_may_wait_the_newest_are_posted(server: Server, webhook: Webhook, log: Log) -> None:
    server.go_on.clear()
    webhook.put(event(0))
    server.next()  # it is under way
    for number in range(1, MOST_WAITING + 11):
        webhook.put(event(number))
    server.go_on.set()
    assert json.loads(server.next()[2])["sequence"] == 11
    assert "10 events of watches were not posted" in log.next()


def test_closing_does_not_wait_for_a_further_attempt(server: Server, log: Log) -> None:
    webhook = Webhook(server.address, SECRET, log, waits=(3600.0,))
    server.statuses = [503]
    webhook.put(event())
    server.next()
    webhook.close(timeout=PATIENCE)
    assert "watch-webhook" not in [thread.name for thread in threading.enumerate()]


def test_a_secret_is_read_from_a_file_and_nothing_goes_unsigned(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("abc\n")
    assert read_secret(str(file)) == b"abc"
    file.write_text("\n")
    for path in (str(file), "", str(tmp_path / "missing")):
        with pytest.raises(WebhookError, match="watch_webhook_secret"):
            read_secret(path)


@pytest.mark.parametrize("address", ["example.org/hidden", "ftp://example.org/hidden", "http://me:hidden", "https://"])
def test_an_address_of_no_web_server_is_refused_without_being_quoted(address: str, log: Log) -> None:
    with pytest.raises(WebhookError, match="it is no address of a web server") as refused:
        Webhook(address, SECRET, log)
    assert "hidden" not in str(refused.value)


def test_the_parameters_of_the_node_name_the_server_and_the_secret(
    lamp: Lamp, room: Room, server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    node = lamp.start(watch_webhook=server.address, watch_webhook_secret=str(file))
    lamp.add("Is the lamp on?", watch_id="lamp", evidence=True)
    lamp.wait_for(lambda state: state.asked > 0)
    stamp = room.switch(light=True)
    _, headers, body = server.next()
    assert headers[SIGNATURE] == f"sha256={hmac.new(SECRET, body, hashlib.sha256).hexdigest()}"
    posted = json.loads(body)
    assert (posted["watch_id"], posted["kind"], posted["text"]) == ("lamp", "on", "Yes")
    assert posted["stamp"] >= stamp.sec + stamp.nanosec * 1e-9 - 0.1
    assert base64.b64decode(posted["images"]["after"]).startswith(b"\xff\xd8")
    assert lamp.ros.lifecycle("deactivate") and lamp.ros.lifecycle("cleanup")
    assert lamp.ros.set_parameter("watch_webhook", "http://me:hidden").successful
    assert lamp.ros.lifecycle("configure") and lamp.ros.lifecycle("activate")  # nothing else fails with it
    node.stop()
    assert "events of watches are not posted: watch_webhook: it is no address of a web server" in node.output
    assert "hidden" not in node.output
