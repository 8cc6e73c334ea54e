"""The body of ``POST /v1/chat/completions``: OpenAI's, with this package's extensions.

This module has the fields with an effect; :mod:`qwen3vl_ros.gateway.request_fields` handles all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from starlette.requests import Request

from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.request_errors import of_validation
from qwen3vl_ros.gateway.request_fields import normalized, notes_on, plain_text
from qwen3vl_ros.gateway.thinking import BUDGETS, Effort
from qwen3vl_ros.vision.frame_times import DEFAULT_FRAMES, MOST_FRAMES


class _Object(BaseModel):
    """An object in the request; a field that is null is not there, and one without effect may be anything."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None} if type(values) is dict else values


class ImageUrl(_Object):
    """Where an image is: a ``data:`` URL, or http(s) or a path where the gateway allows them."""

    url: str
    detail: str = Field(
        "",
        description="low: at most 256 tokens; high: 1024, a smaller image is enlarged; auto: as many as the time "
        "allows. The highest of a request counts for all of its images; max_image_tokens wins.",
    )


class TextPart(_Object):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(_Object):
    """An image; its URL may be given as a plain string, too."""

    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        """Return the URL in either form."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url

    @property
    def detail(self) -> str:
        """Return how much of it the model is to see, "" where that is not said."""
        return "" if isinstance(self.image_url, str) else self.image_url.detail


class VideoUrl(_Object):
    """Where a video is: a ``data:`` URL."""

    url: str


class VideoPart(_Object):
    """A video; its URL may be given as a plain string, too."""

    type: Literal["video_url"]
    video_url: VideoUrl | str

    @property
    def url(self) -> str:
        """Return the URL in either form."""
        return self.video_url if isinstance(self.video_url, str) else self.video_url.url


Part: TypeAlias = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatTurn(_Object):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @model_validator(mode="before")
    @classmethod
    def _silent_assistant(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("role") == "assistant" and values.get("content") is None:
            return {**values, "content": ""}
        return values

    @property
    def parts(self) -> list[Part]:
        """Return the content as parts, without empty texts."""
        parts = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        return [part for part in parts if not isinstance(part, TextPart) or part.text]


class StreamOptions(_Object):
    """What a stream has beside the text."""

    include_usage: bool = False


class TemplateVariables(_Object):
    """Variables of the model's chat template, as vLLM, SGLang and llama-server take them."""

    enable_thinking: Annotated[bool | None, Field(description="Another way to say thinking.")] = None


class JsonSchema(_Object):
    """OpenAI's wrapping of a JSON Schema. Answers always satisfy it: ``strict`` says nothing."""

    schema_: dict[str, Any] = Field(alias="schema")


class TextFormat(_Object):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(_Object):
    """Any JSON object, or, as llama.cpp has it, one that satisfies a schema."""

    type: Literal["json_object"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class JsonSchemaFormat(_Object):
    """JSON that satisfies a schema; ``schema`` may stand in the place of ``json_schema``."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, values: Any) -> Any:
        if isinstance(values, dict) and "schema" in values and "json_schema" not in values:
            return {**values, "json_schema": {"schema": values["schema"]}}
        return values


class ChatRequest(_Object):
    """OpenAI's request, and ``camera``, ``task``, ``slots`` and the like as in AskImage.action."""

    model: str = Field("", description="Any name: one model answers, and the reply has its name.")
    messages: list[ChatTurn] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    presence_penalty: float | None = Field(None, ge=0, le=2)
    frequency_penalty: float | None = Field(None, ge=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63)
    max_tokens: int | None = Field(
        None, ge=1, le=10_000_000, description="max_completion_tokens is another name of it. -1: the node's own."
    )
    stop: str | list[str] = []
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] = (
        TextFormat(type="text")
    )
    camera: str | list[str] = Field(
        [], description="Names of cameras to look through, instead of images in the question."
    )
    task: str = Field("", description="Name of a ready-made task, which the question fills.")
    slots: dict[str, Any] | None = Field(None, description="Other slots of the task.")
    thinking: bool | None = Field(None, description="Whether a model that can do either thinks before it answers.")
    chat_template_kwargs: TemplateVariables = TemplateVariables()
    reasoning_effort: Effort | None = Field(
        None,
        description="none: as thinking false; the others: as thinking true, and max_reasoning_tokens of "
        + ", ".join(f"{budget} ({effort})" for effort, budget in BUDGETS.items())
        + " where there are none.",
    )
    max_reasoning_tokens: int | None = Field(
        None, ge=1, le=10_000_000, description="Tokens that the model may think for; then it has to answer."
    )
    max_image_tokens: Annotated[int, Field(ge=1, lt=2**32 - 1)] | Literal["auto"] | None = Field(
        None,
        description="Tokens that an image may take at most: fewer are faster and see less. auto: as many as the time "
        "allows.",
    )
    clip_frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = Field(
        None, description=f"Frames taken of a video, evenly over its length; {DEFAULT_FRAMES} where that is not said."
    )
    new_pixels: bool = Field(
        False, description="Whether the model reads this moment's pixels of a camera, although nothing has changed."
    )
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="Regions whose score is lower are left out; null leaves it to the task."
    )
    target_frame: str = Field(
        "", description="tf frame of positions; empty: the node's own, else the camera's optical frame."
    )
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the notes for the client about its request, a sentence each."""
        return self._notes

    @property
    def cameras(self) -> list[str]:
        """Return the names of the cameras."""
        return [name for name in ([self.camera] if isinstance(self.camera, str) else self.camera) if name]

    @property
    def response_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema of ``response_format``; None without one."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return self.response_format.json_schema.schema_
        if isinstance(self.response_format, JsonObjectFormat):
            return self.response_format.schema_ or {"type": "object"}
        return None


_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(ChatRequest.model_fields),
    "stream_options": frozenset(StreamOptions.model_fields),
    "chat_template_kwargs": frozenset(TemplateVariables.model_fields),
    "messages[]": frozenset(ChatTurn.model_fields),
    "messages[].content[]": frozenset().union(*(part.model_fields for part in (TextPart, ImagePart, VideoPart))),
    "messages[].content[].video_url": frozenset(VideoUrl.model_fields),
    # Of detail, request_fields knows which values have an effect.
    "messages[].content[].image_url": frozenset(ImageUrl.model_fields) - {"detail"},
}
"""Names of the fields that have an effect, by the path of their object."""


async def read_json(request: Request) -> ChatRequest:
    """Return the request in a JSON body. Raises :class:`ApiError` 400 that names the field, and 415."""
    check_json(request, ", or a multipart/form-data form")
    return await anyio.to_thread.run_sync(_parse, await request.body())  # in a thread, since images make it large


def check_json(request: Request, alternative: str = "") -> None:
    """Check that the body is of JSON's type, before it is read as such.

    Args:
        request: With the header.
        alternative: What the error's sentence offers beside JSON.

    Raises:
        ApiError: 415 for another type.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            f"the body is {content_type[:60] or 'of no type'}: send application/json{alternative}",
        )


def _parse(body: bytes) -> ChatRequest:
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    return read(values, strict=True)


def read(values: Any, *, strict: bool) -> ChatRequest:
    """Return the request in a parsed body.

    Args:
        values: The body.
        strict: Whether to refuse "5" as a number; a form has text only.

    Raises:
        ApiError: 400 that names the field.
    """
    if not isinstance(values, dict):
        raise ApiError(400, "invalid_value", 'the body has to be a JSON object (a dictionary): {"messages": [...]}')
    try:
        values, written = normalized(plain_text(values))
        request = ChatRequest.model_validate(values, strict=strict)
    except ValidationError as error:
        raise of_validation(error, values, written) from None
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from None
    request._notes = notes_on(values, _KNOWN)
    return request


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def options_of(request: ChatRequest) -> Mapping[str, Any]:
    """Return the sampling options that the request sets, by the names of :class:`qwen3vl_ros.client.goal.Arguments`."""
    names = (
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("seed", "max_tokens"),
    )
    options = {name: value for name in names if (value := getattr(request, name)) is not None}
    if request.stop:
        options["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    return options
