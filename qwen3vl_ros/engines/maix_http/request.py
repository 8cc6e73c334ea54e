"""From a request to what the service of the ``maix_http`` engine is sent, refusing before that what it cannot honour.

What it cannot honour it mostly takes without a word, and some of it leaves it hanging until somebody restarts it (a
prompt that is too long), so everything is checked here, with estimates where only the service could count.
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
from qwen3vl_ros.engines.maix_http.tokens import most_tokens

# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct, "Generation Hyperparameters", VL.
TEMPERATURE, TOP_P, TOP_K = 0.7, 0.8, 20

GREEDY = 0.01
"""Temperature for 0, with top-k 1: of 0 itself the service says "invalid" and goes on at temperature 1."""

PENALTY_OFF = 1.0002
"""The least repetition penalty that the service takes: up to 1.0001 it keeps that of an earlier request."""

TOP_P_OFF = 0.9999
"""A top_p of 1 turns sampling off altogether where there is no top_k: the likeliest token is taken."""

MOST_TOP_K = 100_000
"""The service sorts that many of its 151,936 tokens without looking whether it has them."""

TEMPLATE_TOKENS = 32
"""What the chat template takes: 15, and a system prompt of the service's own, of 6 to 16 tokens in known versions."""

_PIXELS_PER_TOKEN = 32
"""Side of the square that becomes one token (patches of 16 pixels, merged two by two)."""

_MAIXCAM2 = "qwen3-vl-2b-instruct-gptq-int4"
_MAIXCAM2_LIMITS = (320, 448)
"""Of the only model that there is for the MaixCAM2. Its service lists the name without them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens that the prompt, and prompt and answer together, may have; None: unknown, and not checked."""

    prompt: int | None
    context: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent. ``tokens`` is an estimate and includes ``image_tokens``, which is exact."""

    body: Mapping[str, Any]
    tokens: int
    image_tokens: int


def limits_of(names: tuple[str, ...], prompt_limit: int, context_length: int) -> Limits:
    """The limits: as given if not 0, else from the first of ``names`` that has them, as in ``...-P320-CTX448``."""
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
    """What to send for ``request`` to a service that runs ``model`` with an encoder of ``size`` x ``size`` pixels.

    Raises :class:`Unsupported`, :class:`BadImage`, :class:`PromptTooLong`, :class:`BadRequest`.
    """
    text, image = _question(request)
    if image is None:
        # Without one, the service would look at this text through the features of the last image it was asked about.
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
    # One part of text: of several, the service reads the last. Plain strings are its form, not OpenAI's objects.
    content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": _data_url(image)}]
    body = {"model": model, "stream": True, **settings, "messages": [{"role": "user", "content": content}]}
    return Prompt(body, tokens, image_tokens)


def _question(request: Request) -> tuple[str, Image | None]:
    """The text, system prompt in front, and the image."""
    system = [part for m in request.messages if m.role == "system" for part in m.content]
    turns = [m for m in request.messages if m.role != "system"]
    if [m.role for m in turns] != ["user"]:
        raise Unsupported(
            "messages: every request to this engine is a fresh conversation of one question; earlier turns, if they "
            "matter, belong into its text."
        )
    parts = [*system, *turns[0].content]
    images = [part for part in parts if not isinstance(part, str)]
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
    """Every setting, unset ones as the model's recommended values: the service keeps what a request leaves out."""
    options = request.options
    if request.response_schema is not None:
        raise Unsupported("response_schema: the service has no grammars; ask for JSON in the prompt instead.")
    for name in ("min_p", "seed"):
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
    """Temperature, and how to draw: the service draws by top-k or by top-p, and a top-k of any value ends top-p."""
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    top_p = TOP_P if options.top_p is None else options.top_p
    if temperature <= 0:
        return {"temperature": GREEDY, "top-p": TOP_P, "top-k": 1}
    if options.top_k == 0 or (options.top_k is None and options.top_p is not None and options.top_p < 1):
        return {"temperature": temperature, "top-p": min(top_p, TOP_P_OFF)}
    top_k = min(options.top_k or TOP_K, MOST_TOP_K)
    return {"temperature": temperature, "top-p": top_p, "top-k": top_k}


def _data_url(image: Image) -> str:
    """``image`` as the service takes it.

    It decodes what its build of OpenCV does, and dies of what that does not. A JPEG is safe, as MaixPy sends nothing
    else. The encoder sees few pixels, so they are kept as they are: at quality 98 with full colour resolution they are
    off by 0.9 to 1.4 of 255 levels on average, the more the noisier the camera, in 90 to 300 kB at 448x448. A PNG would
    be exact, larger, ten times slower to make, and a risk.
    """
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=98, subsampling=0)
    data = file.getvalue()
    # One that it cannot decode is answered without the image, or kills it.
    with PIL.Image.open(io.BytesIO(data)) as decoded:
        decoded.load()
        if decoded.size != image.shape[1::-1]:
            raise BadImage(f"The image came out of its JPEG with {decoded.size} pixels.")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def encoded(body: Mapping[str, Any]) -> bytes:
    """The bytes of ``body``: pure ASCII, so that no text can upset the service's parser."""
    return json.dumps(body).encode()
