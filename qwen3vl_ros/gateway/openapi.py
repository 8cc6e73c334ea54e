"""The parts of the OpenAPI document that FastAPI cannot derive, and the plain objects of some responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from qwen3vl_ros.engines.base import ModelCard
from qwen3vl_ros.gateway.backend import CameraStatus, NodeStatus
from qwen3vl_ros.gateway.chat_request import ChatRequest
from qwen3vl_ros.gateway.corrections import Correction
from qwen3vl_ros.gateway.render import MarkdownText


class ErrorDetail(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """What every error answers with."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class StatusReport:
    """Node, engine, queue and cameras. ``node``: whether it is there; ``message``: why it is not ready.

    ``records``: whether the node records its answers.
    """

    node: bool
    state: str
    message: str
    engine: str
    model: str
    model_card: ModelCard
    queue_length: int
    queue_capacity: int
    records: bool
    cameras: Sequence[CameraStatus]
    token_required: bool
    max_video_bytes: int


class Model(BaseModel):
    """OpenAI's description of a model."""

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int | None = Field(None, description="Tokens that prompt and answer may have together.")
    meta: dict[str, int] | None = Field(None, description="The same as n_ctx, where clients of llama-server look.")


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: str
    data: list[Model]


def status_report(status: NodeStatus, cameras: Sequence[CameraStatus], **of_gateway: Any) -> StatusReport:
    """Return the body of ``/api/status``; ``of_gateway``: the fields that the gateway itself knows."""
    names = [field.name for field in fields(status) if field.name not in ("tasks", "context_length", "tools")]
    known = {name: getattr(status, name) for name in names}
    return StatusReport(node=status.state != "absent", cameras=cameras, **of_gateway, **known)


_ERRORS: Final = {
    400: "The request makes no sense; the message names the field.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site, or by a name that this gateway does not know.",
    404: "There is no such thing.",
    408: "The request did not arrive in time.",
    413: "The request, or an image in it, is too large.",
    415: "A body or image of this type is not taken.",
    429: "Too many questions a minute from this address.",
    499: "The question was cancelled.",
    500: "A defect of this package.",
    502: "The engine failed.",
    503: "Not now: the node is not ready, too many questions are being answered, or the camera gives no frame.",
    504: "The question's time ran out.",
}


def errors(*numbers: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these errors, and of those that every path may respond with."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {
        number: {"description": _ERRORS[number], "content": content} for number in sorted({401, 403, 413, *numbers})
    }


_FORM: Final = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "JPEG, PNG or WebP."},
        "prompt": {"type": "string", "description": "Without one, the image is described."},
    },
}
_USAGE: Final = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens", "total_time_ms"],
    "properties": {
        "prompt_tokens": {"type": "integer"},
        "completion_tokens": {"type": "integer"},
        "total_tokens": {"type": "integer"},
        "total_time_ms": {"type": "number"},
    },
}
_REGION: Final = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "image": {"type": "integer", "description": "Index of the image, from 0."},
        "score": {"type": ["number", "null"], "description": "How sure the model is of it, 0 to 1; null if unknown."},
        "spread": {
            "type": "array",
            "items": {"type": "number"},
            "description": "Standard deviations of left, top, right and bottom, or of x and y, in those pixels.",
        },
        "box": {
            "type": ["array", "null"],
            "items": {"type": "integer"},
            "description": "[x, y, width, height] in pixels of the original image.",
        },
        "point": {"type": ["array", "null"], "items": {"type": "number"}, "description": "[x, y] in those pixels."},
        "polygon": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "position": {
            "type": ["array", "null"],
            "items": {"type": "number"},
            "description": "[x, y, z] in metres in frame_id.",
        },
        "frame_id": {"type": ["string", "null"]},
        "problem": {"type": "string", "description": "Why there is no position; empty where nobody can know one."},
    },
}
_MOMENT: Final = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "description": "What happens then, empty if the answer does not say."},
        "stamp": {"type": "object", "description": "When it is, or begins, in the clock of the images' stamps."},
        "end_stamp": {"type": "object", "description": "When it ends; `stamp` where it is one time."},
        "image": {"type": "integer", "description": "Index of the nearest frame, from 0."},
    },
}
_COMPLETION: Final = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage", "qwen3vl_ros"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "object"}},
        "usage": _USAGE,
        "qwen3vl_ros": {
            "type": "object",
            "properties": {
                "goal_id": {"type": "string", "description": "Identifier of the answer, for a correction."},
                "regions": {"type": "array", "items": _REGION},
                "moments": {"type": "array", "items": _MOMENT, "description": "Times in an answer about a clip."},
                "json": {"description": "The checked JSON, null without."},
                "image_headers": {"type": "array", "items": {"type": "object"}},
                "pixel_stamps": {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": "Of the frames whose pixels the model read, one for each header.",
                },
                "image_change": {
                    "type": ["number", "null"],
                    "description": "Against the camera's frame that was read before, grey levels of 255.",
                },
                "engine": {"type": "string"},
                "probability": {"type": ["number", "null"], "description": "Of yes, for the task yes_no."},
                "notes": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}


CHAT_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}},
        "multipart/form-data": {"schema": _FORM},
    },
}
"""The two forms of a question's body."""

CHAT_ANSWER: Final = {
    "description": "The answer; with `stream`, its pieces as server-sent events, the last one `[DONE]`.",
    "content": {"application/json": {"schema": _COMPLETION}, "text/event-stream": {"schema": {}}},
}
"""An answer, whole or as a stream."""

FRAME: Final = {
    "description": "The frame. X-Frame-Stamp: seconds.nanoseconds of the camera's clock; X-Frame-Age: seconds since "
    "then; X-Frame-Size: WIDTHxHEIGHT as it came.",
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
}
"""An image of a camera."""


def describe(app: FastAPI, *, token_required: bool) -> None:
    """Add to the app's OpenAPI document what FastAPI cannot derive: the manually read body, and the token."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for model in (ChatRequest, Correction, ErrorBody, MarkdownText):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                document["components"]["schemas"] |= {**schema.pop("$defs", {}), model.__name__: schema}
            if token_required:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
