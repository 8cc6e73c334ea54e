"""Writes a request as OpenAI's chat completions JSON: https://platform.openai.com/docs/api-reference/chat/create."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
import numpy as np
import PIL.Image

from qwen3vl_ros.engines.base import BadImage, BadRequest, Clip, Image, Message, Options, Request
from qwen3vl_ros.engines.clips import timed_frames
from qwen3vl_ros.engines.openai.thinking import BUDGET_FIELDS, SWITCH_FIELD, ThinkingOrder

FIELDS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    # The first name is that of vLLM, SGLang and transformers, the second llama.cpp's. Most ignore the other name.
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "seed": ("seed",),
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "stop": ("stop",),
    "response_schema": ("response_format",),
    "thinking": (SWITCH_FIELD,),
    "max_reasoning_tokens": tuple(BUDGET_FIELDS.values()),
}
"""The JSON names of each field of a request."""


@dataclass(slots=True)
class Dialect:
    """The variant of the API that a server accepts, learnt from its errors.

    ``max_completion_tokens``: send this name in place of ``max_tokens``, which OpenAI's newer models refuse; older
    servers know only ``max_tokens``, so that is sent first. ``stream_options``: ask for token counts. ``logprobs``: ask
    for probabilities. ``penalty``: the names of the repetition penalty to send it by.
    """

    max_completion_tokens: bool = False
    stream_options: bool = True
    logprobs: bool = True
    penalty: tuple[str, ...] = FIELDS["repetition_penalty"]


_TOP_LOGPROBS = 20
"""Number of top tokens whose probabilities are requested: the most that OpenAI allows, and vLLM by default."""


class ChatPayload:
    """A checked request with its images encoded as JPEG, independent of the server."""

    def __init__(self, request: Request, jpeg_quality: int) -> None:
        """Check ``request`` and encode its images; raises :class:`BadRequest`, :class:`BadImage`."""
        if not request.messages:
            raise BadRequest("There is nothing to answer: the conversation has no messages.")
        self._messages = [_message(message, jpeg_quality) for message in request.messages]
        self._clips = [part for message in request.messages for part in message.content if isinstance(part, Clip)]
        self._options = _options(request.options)
        self._tells = bool(request.choices) or request.token_probabilities
        self.thinking = ThinkingOrder.of(request)
        if request.response_schema is not None:
            self._options["response_format"] = _response_format(request.response_schema)

    @property
    def depends_on_owner(self) -> bool:
        """Return whether servers of different programs are sent it differently: thinking, and clips."""
        return bool(self.thinking.names or self._clips)

    @property
    def max_tokens(self) -> int | None:
        """Return the most tokens that the answer may have, None if the request does not say."""
        return self._options.get("max_tokens")

    def body(self, model: str, owner: str, dialect: Dialect, max_tokens: int | None, more: dict[str, Any]) -> bytes:
        """Return the request as UTF-8 JSON.

        Args:
            model: The name to ask for.
            owner: Of the model, by which servers say what program they are: "vllm" takes a clip as a video. The others
                get its frames as images, each after its time.
            dialect: The server's.
            max_tokens: In place of the request's own; None leaves it out.
            more: Other fields for this server.
        """
        video = owner == "vllm" and len(self._clips) == 1  # it takes the times of one
        messages = [_with_clips(message, video=video) for message in self._messages]
        body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
        if video:
            body["media_io_kwargs"] = {"video": _vllm_times(self._clips[0])}
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
        if self._tells and dialect.logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        body |= self._options | more | {"max_tokens": max_tokens}
        for name in set(FIELDS["repetition_penalty"]) - set(dialect.penalty):
            body.pop(name, None)
        if max_tokens is None:
            del body["max_tokens"]
        elif dialect.max_completion_tokens:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")

    @property
    def fields(self) -> list[str]:
        """Return the names out of :data:`FIELDS` that this payload uses."""
        options = [name for name, called in FIELDS.items() if any(one in self._options for one in called)]
        return options + self.thinking.names


@dataclass(frozen=True, slots=True)
class _JpegClip:
    """``frames``: the text of its time and the base64 JPEG of each."""

    frames: tuple[tuple[str, str], ...]

    def parts(self, *, video: bool) -> list[dict[str, Any]]:
        """Return the parts of a message: vLLM's ``video``, or the frames as images after their times."""
        if video:
            return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{','.join(self._jpegs)}"}}]
        parts = ((_text(time), _image(jpeg)) for time, jpeg in self.frames)
        return list(itertools.chain.from_iterable(parts))

    @property
    def _jpegs(self) -> Iterator[str]:
        return (jpeg for _, jpeg in self.frames)


def _message(message: Message, quality: int) -> dict[str, Any]:
    if all(isinstance(part, str) for part in message.content):
        # Some servers accept only a string here, above all for the system prompt.
        return {"role": message.role, "content": "".join(map(str, message.content))}
    return {"role": message.role, "content": [_part(part, quality) for part in message.content]}


def _with_clips(message: dict[str, Any], *, video: bool) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = (part.parts(video=video) if isinstance(part, _JpegClip) else [part] for part in content)
    return message | {"content": list(itertools.chain.from_iterable(parts))}


def _part(part: str | Image | Clip, quality: int) -> dict[str, Any] | _JpegClip:
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, Clip):
        return _JpegClip(tuple((time, _base64_jpeg(frame, quality)) for time, frame in timed_frames(part)))
    return _image(_base64_jpeg(part, quality))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(jpeg: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}}


def _vllm_times(clip: Clip) -> dict[str, Any]:
    """Return what makes vLLM read the times of ``clip`` to the millisecond: frames of a video of 1000 per second."""
    numbers = [round(1000 * time) for time in clip.times]
    return {
        "fps": 1000.0,
        "frames_indices": numbers,
        "total_num_frames": numbers[-1] + 1,
        "num_frames": -1,
        "do_sample_frames": False,
    }


def _base64_jpeg(image: Image, quality: int) -> str:
    return base64.b64encode(_jpeg(image, quality)).decode()


def _jpeg(image: Image, quality: int) -> bytes:
    """Encode ``image``, uint8 RGB [height, width, 3], as baseline JPEG; raises :class:`BadImage`."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise BadImage(f"An image must be uint8 [height, width, 3] RGB, not {image.dtype} {list(image.shape)}.")
    file = io.BytesIO()
    try:
        PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    except (OSError, ValueError) as error:  # JPEG allows at most 65535 pixels a side
        height, width, _ = image.shape
        raise BadImage(f"An image of {width}x{height} pixels cannot be stored as JPEG: {error}.") from error
    return file.getvalue()


def _options(options: Options) -> dict[str, Any]:
    """Return the options that are set, by their JSON names; raises :class:`BadRequest`."""
    if options.max_tokens is not None and options.max_tokens < 1:
        raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
    values: dict[str, float | Sequence[str] | None] = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "repeat_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
        "max_tokens": options.max_tokens,
        "stop": [one for one in options.stop if one] or None,
    }
    for name, value in values.items():
        if isinstance(value, float) and not np.isfinite(value):
            raise BadRequest(f"{name}: {value} is not a finite number.")
    return {name: value for name, value in values.items() if value is not None}


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
        json.dumps(schema, allow_nan=False)
    except (jsonschema.SchemaError, TypeError, ValueError) as error:
        reason = error.message if isinstance(error, jsonschema.SchemaError) else error
        raise BadRequest(f"response_schema: this is not a JSON Schema: {reason!s:.300}.") from error
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
