"""``POST /api/corrections``: what would have been right, into the recording of the node."""

from __future__ import annotations

import json
from typing import Final

import anyio
import anyio.to_thread
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from qwen3vl_ros.engines.plain_text import NulError, input_text
from qwen3vl_ros.gateway.backend import Backend, CorrectionRefused, Unavailable
from qwen3vl_ros.gateway.bodies import Bodies
from qwen3vl_ros.gateway.chat_request import check_json
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError
from qwen3vl_ros.gateway.request_errors import of_validation
from qwen3vl_ros.gateway.settings import Settings

CORRECTION_BODY: Final = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Correction"}}},
}
"""The body, for the OpenAPI document."""


class Correction(BaseModel):
    """The right answer to a question."""

    goal_id: str = Field(max_length=64, description="That of the answer: its qwen3vl_ros.goal_id.")
    text: str = Field(min_length=1, max_length=100_000)


class Corrected(BaseModel):
    """The correction is written."""

    corrected: bool


class Corrections:
    """Takes one correction at a time."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._bodies = Bodies(settings.body_timeout, settings.max_request_bytes)
        self._limiter = anyio.CapacityLimiter(1)

    async def take(self, request: Request) -> Corrected:
        """Write the correction in a request. Raises :class:`ApiError`."""
        try:
            async with self._bodies.read(request) as whole:
                check_json(request)
                correction = _correction_in(await whole.body())
        except ClientDisconnect:
            raise ApiError(CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection") from None
        try:
            await anyio.to_thread.run_sync(
                self._backend.correct, correction.goal_id, correction.text, limiter=self._limiter
            )
        except CorrectionRefused as error:
            raise ApiError(400, "correction_refused", str(error)) from None
        except Unavailable as error:
            raise ApiError(503, "node_not_ready", str(error), retry_after=5) from None
        return Corrected(corrected=True)


def _correction_in(body: bytes) -> Correction:
    try:
        given = Correction.model_validate_json(body, strict=True)
        return Correction(goal_id=input_text("goal_id", given.goal_id), text=input_text("text", given.text))
    except NulError as error:
        raise ApiError(400, "invalid_value", str(error), param=error.path) from None
    except ValidationError as error:
        invalid = error.errors()[0]["type"] == "json_invalid"
        raise of_validation(error, None if invalid else json.loads(body), {}) from None
