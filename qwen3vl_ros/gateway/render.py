"""``POST /api/render``: an answer's Markdown as HTML, for the page."""

from __future__ import annotations

import json
from typing import Final

import anyio
import anyio.to_thread
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from qwen3vl_ros.gateway.bodies import Bodies
from qwen3vl_ros.gateway.chat_request import check_json
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError
from qwen3vl_ros.gateway.markdown import LONGEST, to_html
from qwen3vl_ros.gateway.request_errors import of_validation
from qwen3vl_ros.gateway.settings import Settings

RENDER_BODY: Final = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/MarkdownText"}}},
}
"""The body, for the OpenAPI document."""


class MarkdownText(BaseModel):
    """What is rendered."""

    text: str = Field(max_length=LONGEST)


class RenderedText(BaseModel):
    """HTML without scripts, styles and images."""

    html: str


class Renderer:
    """Renders one text at a time: it takes processor time, which the model needs."""

    def __init__(self, settings: Settings) -> None:
        self._bodies = Bodies(settings.body_timeout, settings.max_request_bytes)
        self._limiter = anyio.CapacityLimiter(1)

    async def render(self, request: Request) -> RenderedText:
        """Return the HTML of the Markdown in a request. Raises :class:`ApiError`."""
        try:
            async with self._bodies.read(request) as whole:
                check_json(request)
                text = _text_in(await whole.body())
                return RenderedText(html=await anyio.to_thread.run_sync(to_html, text, limiter=self._limiter))
        except ClientDisconnect:
            raise ApiError(CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection") from None


def _text_in(body: bytes) -> str:
    try:
        return MarkdownText.model_validate_json(body, strict=True).text
    except ValidationError as error:
        invalid = error.errors()[0]["type"] == "json_invalid"
        raise of_validation(error, None if invalid else json.loads(body), {}) from None
