"""The gateway's paths below /api/watches: what the page lists, adds, mutes and removes, and the events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.requests import ClientDisconnect, Request

from qwen3vl_ros.client import exceptions
from qwen3vl_ros.client.watch_message import NAMES, build_watch
from qwen3vl_ros.gateway.bodies import Bodies
from qwen3vl_ros.gateway.chat_request import check_json
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError
from qwen3vl_ros.gateway.openapi import errors
from qwen3vl_ros.gateway.settings import Settings

ImageName: TypeAlias = Literal["before", "after", "annotated"]

FIELDS: Final = tuple(name for name in NAMES if name != "reference")
"""What a request may say of a watch: not the reference, which is a file of the machine that reads it."""

_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"prompt": {"type": "string"}, "watch_id": {"type": "string"}},
                "description": f"Fields of a watch (docs/watches.md): {', '.join(FIELDS)}.",
            }
        }
    },
}
_JPEG: Final = {
    "description": "The image of an event.",
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
}
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class WatchReport:
    """How a watch is doing; ``what`` is for people, the rest as in WatchState.msg."""

    watch_id: str
    what: str
    cameras: Sequence[str]
    active: bool
    muted: bool
    asked: int
    unchanged: int
    events: int
    failed: int
    late: float
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class EventReport:
    """An event. ``number``: of all that the gateway has heard of; ``images``: those that there are of it."""

    number: int
    watch_id: str
    kind: str
    active: bool
    message: str
    stamp: float
    text: str | None
    probability: float | None
    images: Sequence[ImageName]


@dataclass(frozen=True, slots=True)
class WatchesReport:
    """All watches, and the last events, the newest first."""

    watches: Sequence[WatchReport]
    events: Sequence[EventReport]


@dataclass(frozen=True, slots=True)
class AddedWatch:
    """The identifier of a watch that was added."""

    watch_id: str


class WatchBackend(Protocol):
    """Keeps watches. Methods may block for a while, and raise :class:`VlmError` where the node does not answer."""

    def report(self) -> WatchesReport:
        """Return the watches and the last events."""

    def add(self, watch: Any) -> str:
        """Add a Watch.msg and return its identifier; raises BadRequest."""

    def remove(self, watch_id: str) -> bool:
        """End a watch; return whether there was one."""

    def mute(self, watch_id: str, muted: bool) -> bool:
        """Mute a watch, or have it send events again; return whether there is one."""

    def image(self, number: int, name: str) -> bytes:
        """Return the JPEG of an event; b"" where there is none any more."""


def serve_watches(app: FastAPI, watches: Callable[[], WatchBackend], settings: Settings) -> None:
    """Add the paths to ``app``; ``watches`` is called with each request."""
    bodies = Bodies(settings.body_timeout, settings.max_request_bytes)
    blocking = anyio.CapacityLimiter(4)

    async def call(function: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=blocking)
        except exceptions.BadRequest as error:
            raise ApiError(400, "invalid_value", str(error)) from None
        except exceptions.VlmError as error:
            raise ApiError(503, "node_not_ready", str(error), retry_after=5) from None

    @app.get("/api/watches", responses=errors(503))
    async def list_watches() -> WatchesReport:
        """The watches of the node, and their last events."""
        return await call(watches().report)

    @app.post("/api/watches", openapi_extra={"requestBody": _BODY}, responses=errors(400, 408, 415, 499, 503))
    async def add_watch(request: Request) -> AddedWatch:
        """Have the node watch something."""
        try:
            async with bodies.read(request) as whole:
                check_json(request)
                fields = _fields_in(await whole.body())
        except ClientDisconnect:
            raise ApiError(CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection") from None
        return AddedWatch(await call(lambda: watches().add(build_watch(**fields))))

    @app.delete("/api/watches/{watch_id}", responses=errors(404, 503))
    async def remove_watch(watch_id: str) -> AddedWatch:
        """End a watch."""
        if not watch_id.strip() or not await call(watches().remove, watch_id):
            raise _unknown(watch_id)
        return AddedWatch(watch_id)

    @app.post("/api/watches/{watch_id}/mute", responses=errors(400, 404, 503))
    async def mute_watch(watch_id: str, muted: bool) -> AddedWatch:
        """Let a watch go on without events, or with them again."""
        if not watch_id.strip() or not await call(watches().mute, watch_id, muted):
            raise _unknown(watch_id)
        return AddedWatch(watch_id)

    @app.get(
        "/api/watch_events/{number}/{name}.jpg", response_class=Response, responses={200: _JPEG, **errors(400, 404)}
    )
    async def event_image(number: int, name: ImageName) -> Response:
        """An image of an event."""
        image = await call(watches().image, number, name)
        if not image:
            raise ApiError(404, "image_not_found", f"there is no image {name!r} of event {number} any more")
        return Response(image, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _fields_in(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "invalid_value", 'the body is an object, such as {"prompt": "Is the door open?"}')
    for name in fields:
        if name not in FIELDS:
            raise ApiError(400, "unknown_field", f"{name[:100]!r} is no field of a watch that a request may have")
    return fields


def _unknown(watch_id: str) -> ApiError:
    return ApiError(404, "watch_not_found", f"there is no watch {watch_id[:100]!r}")
