"""Converts a request to the JSON of the ``maix_http`` engine's service, and refuses what the service cannot honour.

The service silently accepts most of what it cannot honour, and hangs until a restart on some of it (a prompt that is
too long), so everything is checked here, by estimates where only the service could count.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from qwen3vl_ros.engines.base import BadImage, BadRequest, Image, Options, PromptTooLong, Request, Unsupported
from qwen3vl_ros.engines.clips import images_of
from qwen3vl_ros.engines.maix_http.tokens import most_tokens
from qwen3vl_ros.engines.recommended import QWEN3_VL

RECOMMENDED = QWEN3_VL.at_once
"""For unset options. The boards know no presence penalty."""

GREEDY = 0.01
"""Temperature sent for 0, with top-k 1: the service calls 0 itself "invalid" and uses temperature 1."""

PENALTY_OFF = 1.0002
"""The smallest repetition penalty that the service accepts: up to 1.0001 it keeps that of an earlier request."""

TOP_P_OFF = 0.9999
"""Sent for a top_p of 1, which without a top_k would turn sampling off: the service would decode greedily."""

MOST_TOP_K = 100_000
"""Largest top_k sent: the service sorts that many of its 151,936 tokens without a bounds check."""

TEMPLATE_TOKENS = 32
"""Tokens of the chat template, 15, and of the service's own system prompt, 6 to 16 in known versions."""

_PIXELS_PER_TOKEN = 32
"""Side in pixels of the square that becomes one token (patches of 16 pixels, merged two by two)."""

_MAIXCAM2 = "qwen3-vl-2b-instruct-gptq-int4"
_MAIXCAM2_LIMITS = (320, 448)
"""Prompt and context limit of the MaixCAM2's only model, whose service lists the name without them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of the prompt, and of prompt and answer together; None: unknown, and not checked."""

    prompt: int | None
    context: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The request's body. ``tokens`` is an estimate and includes ``image_tokens``, which is exact."""

    body: Mapping[str, Any]
    tokens: int
    image_tokens: int


def limits_of(names: tuple[str, ...], prompt_limit: int, context_length: int) -> Limits:
    """Return the limits given, or for 0 those in the first of ``names`` that has them, as in ``...-P320-CTX448``."""
    prompt, context = prompt_limit or None, context_length or None
    if prompt and context:
        return Limits(prompt, context, "as configured")
    for name in names:
        named = _number(name, "P"), _number(name, "CTX")
        if any(named):
            return Limits(prompt or named[0], context or named[1], f"from the name {name}")
    if any(_MAIXCAM2 in name.lower() for name in names):
        return Limits(
            prompt or _MAIXCAM2_LIMITS[0],
            context or _MAIXCAM2_LIMITS[1],
            "those of the MaixCAM2's model, as the name does not say; prompt_limit and context_length change them",
        )
    return Limits(
        prompt, context, "unknown and not checked, as the name does not say; set prompt_limit and context_length"
    )


def _number(name: str, prefix: str) -> int | None:
    found = re.search(rf"(?:^|[-_/]){prefix}(\d{{1,9}})(?![A-Za-z0-9])", name, re.IGNORECASE)
    return int(found[1]) if found else None


def build(request: Request, model: str, limits: Limits, size: int) -> Prompt:
    """Check ``request`` and convert it for a service that runs ``model``.

    Args:
        request: The request.
        model: The model's name.
        limits: Of prompt and context.
        size: Width and height in pixels of the encoder's image.

    Raises:
        BadRequest: The request makes no sense.
        BadImage: There are several images, or one of another size.
        PromptTooLong: The prompt does not fit, by estimate.
        Unsupported: The service cannot honour a field.
    """
    text, image = _question(request)
    if image is None:
        # Without an image, the service would use the embedding of the previous question's image.
        image = np.full((size, size, 3), 128, np.uint8)
    elif image.shape != (size, size, 3) or image.dtype != np.uint8:
        raise BadImage(
            f"An image of {image.dtype} {image.shape} does not fit: this engine's encoder takes uint8 RGB of "
            f"{size}x{size} pixels (`input_size`)."
        )
    settings = _settings(request)
    image_tokens = (size // _PIXELS_PER_TOKEN) ** 2
    tokens = TEMPLATE_TOKENS + image_tokens + round(most_tokens(text))
    most = min(limits.prompt or tokens, (limits.context or tokens + 1) - 1)
    if tokens > most:
        raise PromptTooLong(
            f"The prompt has about {tokens} tokens, {image_tokens} of them for the image, and the model reads {most} "
            f"({limits.source}). Ask with fewer words, and a shorter system prompt."
        )
    # One text part: the service reads only the last of several. image_url is a string here, not OpenAI's object.
    content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": _data_url(image)}]
    body = {"model": model, "stream": True, **settings, "messages": [{"role": "user", "content": content}]}
    return Prompt(body, tokens, image_tokens)


def _question(request: Request) -> tuple[str, Image | None]:
    """Return the text, beginning with the system prompt, and the image."""
    system = [part for m in request.messages if m.role == "system" for part in m.content]
    turns = [m for m in request.messages if m.role != "system"]
    if [m.role for m in turns] != ["user"]:
        raise Unsupported(
            "messages: every request to this engine is a fresh conversation of one question; earlier turns, if they "
            "matter, belong into its text."
        )
    images = images_of(request.messages, "ask about one frame of it")
    if len(images) > 1:
        raise BadImage(f"This engine takes one image, not {len(images)}: a second one has no place in its prompt.")
    texts = ["\n".join(p for p in some if isinstance(p, str)).strip() for some in (system, turns[0].content)]
    text = "\n\n".join(filter(None, texts))
    if not text and not images:
        raise BadRequest("The question is empty.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("The question has half a surrogate pair in it, which is no text.") from None
    return text, images[0] if images else None


def _settings(request: Request) -> dict[str, float]:
    """Return all settings, for unset ones the model's recommended values: the service would keep earlier values."""
    options = request.options
    if request.response_schema is not None:
        raise Unsupported("response_schema: the service has no grammars; ask for JSON in the prompt instead.")
    for name in ("min_p", "presence_penalty", "frequency_penalty", "seed"):
        if getattr(options, name) is not None:
            raise Unsupported(f"{name}: the service does not know it; leave it unset.")
    if request.choices:
        raise Unsupported("choices: the service tells no probabilities; leave them out.")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
    penalty = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    if penalty < 1.0:
        raise Unsupported(f"repetition_penalty: the service ignores {penalty:g}; it takes 1 (off) and more.")
    return {"repetition_penalty": max(penalty, PENALTY_OFF), **_sampling(options)}


def _sampling(options: Options) -> dict[str, float]:
    """Return temperature and top-k or top-p: the service samples by one of them, and any top-k disables top-p."""
    temperature = RECOMMENDED.temperature if options.temperature is None else options.temperature
    top_p = RECOMMENDED.top_p if options.top_p is None else options.top_p
    if temperature <= 0:
        return {"temperature": GREEDY, "top-p": RECOMMENDED.top_p, "top-k": 1}
    if options.top_k == 0 or (options.top_k is None and options.top_p is not None and options.top_p < 1):
        return {"temperature": temperature, "top-p": min(top_p, TOP_P_OFF)}
    top_k = min(options.top_k or RECOMMENDED.top_k, MOST_TOP_K)
    return {"temperature": temperature, "top-p": top_p, "top-k": top_k}


def _data_url(image: Image) -> str:
    """Encode ``image``, uint8 RGB [height, width, 3], as a data URL of a JPEG.

    The service decodes the formats of its build of OpenCV and crashes on others. JPEG is safe, since MaixPy sends
    nothing else. The encoder's input is small, so detail is kept: quality 98 with full colour resolution changes pixels
    by 0.9 to 1.4 of 255 levels on average, more with camera noise, in 90 to 300 kB at 448x448. A PNG would be exact,
    but larger, ten times slower to encode, and a risk.
    """
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=98, subsampling=0)
    data = file.getvalue()
    # An image that the service cannot decode is ignored, or crashes it.
    with PIL.Image.open(io.BytesIO(data)) as decoded:
        decoded.load()
        if decoded.size != image.shape[1::-1]:
            raise BadImage(f"The image came out of its JPEG with {decoded.size} pixels.")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def encoded(body: Mapping[str, Any]) -> bytes:
    """Return ``body`` as JSON in pure ASCII, so that no text can upset the service's parser."""
    return json.dumps(body).encode()
