"""Reads request bodies completely, within limits of size and time, and removes the bodies of responses to HEAD."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3vl_ros.gateway.errors import ApiError

_DISCARDED: Final = 4
"""A request that is too large is read to its end, up to this multiple of the limit: most clients read the response only
after they have sent everything."""

_AT_HAND: Final = 0.2
"""Seconds that an early response waits for the rest of the body, after which the connection can be kept."""

_LINGER: Final = 2.0
"""Seconds for which a client may continue to send the body after its response."""

_MOST_DIGITS: Final = 18
"""Most digits of a Content-Length that is parsed as a number."""


class BodyLimit:
    """ASGI middleware: answers a request of more than ``size`` bytes with 413, with or without a Content-Length.

    A response that is sent before the end of the body closes the connection, which cannot be reused. The rest of the
    body is read for a while, because closing the connection of a client that is still sending resets it, and the
    response is lost.
    """

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        """``seconds``: for how long the rest of a too large body is read before the response."""
        self._app = app
        self._size = size
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "").lstrip("0")
        # Such a client sends the body only after "100 Continue", which the first read triggers.
        waits = headers.get("expect", "").lower() == "100-continue"
        read, whole = 0, not declared and "transfer-encoding" not in headers

        async def limited() -> Message:
            nonlocal read, whole, waits
            waits = False
            message = await receive()
            read += len(message.get("body", b""))
            whole = not message.get("more_body")
            if read > self._size:
                whole = whole or await self._discard(receive, self._seconds)
                raise self._error()
            return message

        async def closing(message: Message) -> None:
            nonlocal whole
            if message["type"] == "http.response.start" and not whole:
                whole = not waits and await self._discard(receive, _AT_HAND)
                if not whole:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif not whole and not waits and not message.get("more_body"):
                await send({**message, "more_body": True})
                await self._discard(receive, _LINGER)
                message = {"type": "http.response.body"}
            await send(message)

        if declared.isdigit() and (len(declared) > _MOST_DIGITS or int(declared) > self._size):
            whole = not waits and await self._discard(receive, self._seconds)
            await self._error().response()(scope, receive, closing)
            return
        await self._app(scope, limited, closing)

    async def _discard(self, receive: Receive, seconds: float) -> bool:
        """Read and discard the rest of a body, within limits; return whether it was read to its end."""
        discarded = 0
        with anyio.move_on_after(seconds):
            while discarded <= _DISCARDED * self._size:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body"):
                    return True
        return False

    def _error(self) -> ApiError:
        return ApiError(413, "request_too_large", f"the request is larger than {self._size} bytes")


class Bodies:
    """Reads complete bodies of questions, each within ``seconds``, and at most ``size`` bytes of all together."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Request]:
        """Yield ``request`` with its body read; the body counts towards ``size`` until the block ends.

        Raises:
            ApiError: 408 if the client takes too long, 503 if the bodies of other requests leave no room.
            ClientDisconnect: The client has disconnected.
        """
        held = 0

        async def counted() -> Message:
            nonlocal held
            message = await request.receive()
            came = len(message.get("body", b""))
            held += came
            self._held += came
            if self._held > self._size:
                raise ApiError(
                    503, "busy", "too many large requests are being received: try again later", retry_after=2
                )
            return message

        whole = Request(request.scope, counted)
        try:
            with anyio.move_on_after(self._seconds) as limit:
                await whole.body()
            if limit.cancelled_caught:
                raise ApiError(
                    408,
                    "request_timeout",
                    f"the request did not arrive within {self._seconds:g} s: send smaller images, or raise the "
                    "gateway's parameter body_timeout",
                )
            yield whole
        finally:
            self._held -= held


class Head:
    """ASGI middleware: answers HEAD like GET, without the body (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, without_body)
        finally:
            scope["route"] = inner.get("route")  # for the metrics
