"""Posts the events of watches to a web server: signed, in their order, again where that fails, never for ever."""

from __future__ import annotations

import base64
import collections
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from qwen3vl_ros import defect
from qwen3vl_ros.client.watch import WatchEvent, event_of_message

SIGNATURE = "X-Hub-Signature-256"
"""Header with "sha256=" and the hexadecimal HMAC-SHA256 of the body, as GitHub signs its webhooks
(https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries)."""

DELIVERY = "X-Watch-Delivery"
"""Header that is the same each time that an event is posted, and another one for every other event."""

MOST_WAITING = 100
"""Events that wait; one more, and the oldest is dropped."""

_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each further attempt."""

_TIMEOUT = 10.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which another attempt may succeed."""


class WebhookError(ValueError):
    """Nothing can be posted: the address is none, or there is no secret; the text is a sentence."""


class Webhook:
    """Posts events on a thread of its own, until it is closed. Redirects are not followed.

    Args:
        address: Of the server.
        secret: Key of the signatures.
        log: Takes a sentence where an event could not be posted.
        waits: Seconds before each further attempt.

    Raises:
        WebhookError: The address is none of a web server.
    """

    def __init__(
        self, address: str, secret: bytes, log: Callable[[str], None], waits: tuple[float, ...] = _WAITS
    ) -> None:
        self._address = address
        self._secret = secret
        self._log = log
        self._waits = waits
        self._host = _host_of(address)  # what is logged: an address may have a password or a token in it
        self._events: collections.deque[Any] = collections.deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="watch-webhook", daemon=True)
        self._thread.start()

    def put(self, message: Any) -> None:
        """Post a WatchEvent.msg soon. Returns at once."""
        with self._changed:
            if len(self._events) >= MOST_WAITING:
                self._events.popleft()
                self._dropped += 1
            self._events.append(message)
            self._changed.notify()

    def close(self, timeout: float = 0.5) -> None:
        """End the thread, within ``timeout`` seconds unless the server keeps it waiting; what waits is dropped."""
        self._closing.set()
        with self._changed:
            self._events.clear()
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
            while not self._closing.is_set():
                with self._changed:
                    self._changed.wait_for(lambda: self._events or self._closing.is_set())
                    if self._closing.is_set():
                        return
                    message, dropped, self._dropped = self._events.popleft(), self._dropped, 0
                if dropped:
                    self._log(
                        f"{dropped} events of watches were not posted to {self._host}, which is too slow for them"
                    )
                try:
                    self._deliver(client, event_of_message(message))
                except Exception as error:  # noqa: BLE001 the next event must go out
                    self._log(defect(f"{type(error).__name__}: {error}"))

    def _deliver(self, client: httpx.Client, event: WatchEvent) -> None:
        body = body_of(event)
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature(self._secret, body),
            DELIVERY: f"{event.watch_id}-{event.sequence}-{event.stamp.sec}.{event.stamp.nanosec:09}",
        }
        why = ""
        for wait in (0.0, *self._waits):
            if self._closing.wait(wait):
                return
            try:
                response = client.post(self._address, content=body, headers=headers)
            except httpx.HTTPError as error:
                why = type(error).__name__
                continue
            if response.is_success:
                return
            why = f"it answered with status {response.status_code}"
            if response.status_code not in _AGAIN:
                break
        self._log(f"event {event.sequence} of watch {event.watch_id} could not be posted to {self._host}: {why}")


def signature(secret: bytes, body: bytes) -> str:
    """Return the value of the header :data:`SIGNATURE`."""
    return f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"


def body_of(event: WatchEvent) -> bytes:
    """Return what is posted: the event as JSON, its images as base64 of JPEG files."""
    images = {name: getattr(event, name) for name in ("before", "after", "annotated")}
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items() if image}
    return json.dumps({**event.as_json(), "images": encoded}, ensure_ascii=False).encode("utf-8", "replace")


def _host_of(address: str) -> str:
    """Return the host in an address; raises :class:`WebhookError`, which does not quote it."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        url = httpx.URL()  # its sentence may quote a password
    if url.scheme not in ("http", "https") or not url.host:
        raise WebhookError("watch_webhook: it is no address of a web server, such as https://example.org/events")
    return url.host


def read_secret(path: str) -> bytes:
    """Return the secret in a file; raises :class:`WebhookError`."""
    if not path:
        raise WebhookError("watch_webhook_secret: it is empty; watch_webhook needs a file with a secret to sign with")
    try:
        secret = Path(path).expanduser().read_bytes().strip()
    except (OSError, RuntimeError) as error:
        raise WebhookError(f"watch_webhook_secret: {path} cannot be read: {error}") from error
    if not secret:
        raise WebhookError(f"watch_webhook_secret: {path} is empty")
    return secret
