"""The body of ``POST /v1/chat/completions``: OpenAI's, with this package's extensions, read strictly.

A field that would change the answer and cannot be honoured is refused by name. Only those that say nothing about the
answer (who asks, how to bill) are taken and have no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request

from qwen3vl_ros.web.errors import ApiError

_HYPHENATED = ("top-p", "top-k", "min-p", "max-tokens", "repetition-penalty")
"""How clients of the MaixCAM's service write some parameters."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Strict):
    """Where a picture is: a ``data:`` URL, or http(s) where the gateway allows its host."""

    url: str
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Without effect: the engine decides.")


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    """A picture; its URL may be given as a plain string, too."""

    type: Literal["image_url"]
    image_url: ImageUrl | str

    @property
    def url(self) -> str:
        """The URL in either form."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatTurn(_Strict):
    """One turn of the conversation. Fields of an earlier answer that clients send back are taken, without effect."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = Field(None, description="Without effect.")
    reasoning_content: str | None = Field(None, description="Of an earlier answer; without effect.")
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content as parts, without empty texts."""
        parts = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        return [part for part in parts if isinstance(part, ImagePart) or part.text]


class StreamOptions(_Strict):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="Without effect.")


class JsonSchema(_Strict):
    """OpenAI's wrapping of a JSON Schema."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="Without effect: answers always satisfy the schema.")


class TextFormat(_Strict):
    """No constraint."""

    type: Literal["text"]


class JsonObjectFormat(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(_Strict):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatRequest(_Strict):
    """OpenAI's request, and ``camera``, ``task`` and ``slots`` as in AskImage.action."""

    model: str = Field("", description="One that /v1/models lists. Empty: whichever answers.")
    messages: list[ChatTurn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63)
    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    stop: str | list[str] | None = None
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | None, Field(discriminator="type")] = (
        None
    )
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    modalities: list[Literal["text"]] | None = None
    camera: str | list[str] | None = Field(
        None, description="Names of cameras to look through, instead of pictures in the question."
    )
    task: str = Field("", description="Name of a ready-made task, which the question fills.")
    slots: dict[str, Any] | None = Field(None, description="Other slots of the task.")
    user: str | None = Field(None, description="Without effect, like those below.")
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_hyphens(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in _HYPHENATED:
            if name in values:
                plain = name.replace("-", "_")
                if plain in values:
                    raise ValueError(f"{plain} is there twice, once as {name}")
                values = {(plain if key == name else key): value for key, value in values.items()}
        return values

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras."""
        return [self.camera] if isinstance(self.camera, str) else list(self.camera or ())

    @property
    def response_schema(self) -> dict[str, Any] | None:
        """What ``response_format`` demands, as a JSON Schema."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return self.response_format.json_schema.schema_
        return {"type": "object"} if isinstance(self.response_format, JsonObjectFormat) else None


async def read_json(request: Request) -> ChatRequest:
    """The request in a JSON body. Raises :class:`ApiError` 400 that names the field, and 415."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            f"the body is {content_type[:60] or 'of no type'}: send application/json, or a multipart/form-data form",
        )
    return await anyio.to_thread.run_sync(_parse, await request.body())  # pictures make it large


def _parse(body: bytes) -> ChatRequest:
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    return read(values, strict=True)


def read(values: Any, *, strict: bool) -> ChatRequest:
    """The request in a parsed body; ``strict``: "5" is no number. Raises :class:`ApiError` 400 that names the field."""
    try:
        request = ChatRequest.model_validate(values, strict=strict)
    except ValidationError as error:
        raise _of_validation(error, values) from None
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is nested too deeply") from None
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise ApiError(
            400, "invalid_value", "max_tokens and max_completion_tokens mean the same: give one", param="max_tokens"
        )
    return request


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _of_validation(error: ValidationError, values: Any) -> ApiError:
    found = max(
        error.errors(include_url=False, include_input=False, include_context=False), key=lambda e: len(e["loc"])
    )
    place = _place(found["loc"], values)
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        message = "this server does not know it, so it cannot honour it"
    code = "unknown_parameter" if found["type"] == "extra_forbidden" else "invalid_value"
    return ApiError(400, code, f"{place}: {message}" if place else message, param=place or None)


def _place(steps: Sequence[int | str], values: Any) -> str:
    """The place of a mistake as the client wrote it: pydantic's has the names of the tried alternatives, too."""
    place = []
    for number, step in enumerate(steps):
        inside = step in values if isinstance(values, dict) else isinstance(step, int) and isinstance(values, list)
        if inside:
            values = values[step]
        if inside or (number == len(steps) - 1 and isinstance(values, dict)):  # such as a field that is missing
            place.append(str(step))
    return ".".join(place)


def options_of(request: ChatRequest) -> Mapping[str, Any]:
    """The sampling options that the request sets, by the names of :class:`qwen3vl_ros.asking.goal.Arguments`."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    options = {name: value for name in names if (value := getattr(request, name)) is not None}
    most = request.max_tokens if request.max_tokens is not None else request.max_completion_tokens
    if most is not None:
        options["max_tokens"] = most
    if request.stop:
        options["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    return options
