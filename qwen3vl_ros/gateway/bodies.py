"""Bodies: of requests, read whole before anything else, bounded in size and time; none in responses to HEAD."""

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
"""A request that is too large is read to its end, up to so many times the limit: most clients look for the answer only
after they have sent everything."""

_AT_HAND: Final = 0.2
"""Seconds for the rest of a body to come before a response that has not waited for it: then the connection can stay."""

_LINGER: Final = 2.0
"""Seconds for which a client that has got its response may go on sending the body."""

_MOST_DIGITS: Final = 18
"""Digits of a length that is looked at as a number."""


class BodyLimit:
    """ASGI middleware: a request of more than ``size`` bytes gets 413, whether or not it says so beforehand.

    A response that is sent before the body has come closes the connection: nothing else can come on it. What the client
    sends meanwhile is read for a while: a connection that is closed on a client which still sends is reset, and the
    response with it.
    """

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        """``seconds``: how long the rest of a body that is too large is read before the response."""
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
        # Such a client sends the body only when it is told to, by our reading it.
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
        """Read the rest of a body, as far as that makes sense; returns whether it came to its end."""
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
    """Reads the bodies of questions whole, each within ``seconds``, and no more than ``size`` bytes of all together."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Request]:
        """Yield ``request`` with its body read, which counts as held until the block ends.

        Raises:
            ApiError: 408 where the client takes too long, 503 where the others' bodies leave no room.
            ClientDisconnect: The client has gone.
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
    """ASGI middleware: HEAD is answered as GET is, without the body (RFC 9110, 9.3.2)."""

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
