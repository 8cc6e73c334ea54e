"""The gateway's path /mcp: streamable HTTP. The SDK is imported with the first request: that takes a second."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio.to_thread
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from qwen3vl_ros.gateway.backend import Backend
from qwen3vl_ros.gateway.bodies import Bodies
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError
from qwen3vl_ros.gateway.limits import Limits
from qwen3vl_ros.gateway.metrics import Metrics
from qwen3vl_ros.gateway.settings import Settings

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

MISSING: Final = (
    "version 2 of the MCP SDK is not installed beside this package: `pip install 'mcp>=2,<3'`, then start it again"
)
_LARGEST: Final = 4_000_000
"""Bytes of a message: agents send text."""


def sdk_is_there() -> bool:
    """Return whether the SDK is installed, in a version that has this interface: the first one has no mcp_types."""
    return importlib.util.find_spec("mcp_types") is not None


class McpEndpoint:
    """An ASGI application that serves MCP without sessions: every request is complete by itself.

    Authentication, checks of the host and the largest request are the middleware's in front of it; questions count in
    ``limits`` as those over other paths do. ``route``: where it is; only POST, since there are no sessions to listen to
    or to delete.
    """

    def __init__(self, backend: Backend, settings: Settings, metrics: Metrics, limits: Limits) -> None:
        self.route = Route("/mcp", endpoint=self, methods=["POST"])
        self._backend = backend
        self._settings = settings
        self._metrics = metrics
        self._limits = limits
        self._bodies = Bodies(settings.body_timeout, (settings.concurrency + 1) * _LARGEST)
        self._started: asyncio.Future[StreamableHTTPSessionManager] | None = None
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """End what was started, with the gateway."""
        try:
            yield
        finally:
            self._stop.set()
            if self._running is not None:
                await self._running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises ApiError."""
        if not sdk_is_there():
            raise ApiError(501, "mcp_not_installed", MISSING)
        scope["route"] = self.route  # for the metrics
        request = Request(scope, receive)
        try:
            async with self._bodies.read(request) as whole:
                body: list[Message] = [{"type": "http.request", "body": await whole.body()}]

                async def replay() -> Message:
                    return body.pop() if body else await receive()

                manager = await self._manager()
                await manager.handle_request(scope, replay, send)
        except ClientDisconnect:
            raise ApiError(CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection") from None

    async def _manager(self) -> StreamableHTTPSessionManager:
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._serve(self._started))
        return await asyncio.shield(self._started)

    async def _serve(self, started: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """Keep the SDK's manager open until the end: it has to be left by the task that entered it."""
        try:
            manager = await anyio.to_thread.run_sync(self._load)
            async with manager.run():
                started.set_result(manager)
                await self._stop.wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    def _load(self) -> StreamableHTTPSessionManager:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from qwen3vl_ros.gateway.mcp.server import create_server
        from qwen3vl_ros.gateway.mcp.tools import RobotTools

        tools = RobotTools(self._backend, self._settings.timeout, self._limits, self._metrics)
        return StreamableHTTPSessionManager(
            create_server(tools), stateless=True, max_request_body_size=min(_LARGEST, self._settings.max_request_bytes)
        )
