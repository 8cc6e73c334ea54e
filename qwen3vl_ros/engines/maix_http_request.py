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

# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct, "Generation Hyperparameters", VL.
_TEMPERATURE, _TOP_P, _TOP_K = 0.7, 0.8, 20

_GREEDY = {"temperature": 0.01, "top-p": _TOP_P, "top-k": 1}
"""Temperature 0: of the value itself the service says "invalid" and goes on at temperature 1."""

_PENALTY_OFF = 1.0002
"""The least repetition penalty that the service takes: up to 1.0001 it keeps that of an earlier request."""

_TOP_P_OFF = 0.9999
"""A top_p of 1 turns sampling off altogether where there is no top_k: the likeliest token is taken."""

_MOST_TOP_K = 100_000
"""The service sorts that many of its 151,936 tokens without looking whether it has them."""

_TEMPLATE_TOKENS = 32
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
    found = re.search(rf"(?:^|[-_/]){prefix}(\d+)(?![A-Za-z0-9])", name, re.IGNORECASE)
    return int(found[1]) if found else None


def build(request: Request, model: str, limits: Limits, size: int) -> Prompt:
    """What to send for ``request`` to a service that runs ``model`` with an encoder of ``size`` x ``size`` pixels.

    Raises :class:`Unsupported`, :class:`BadImage`, :class:`PromptTooLong`, :class:`BadRequest`.
    """
    text, picture = _question(request)
    if picture is None:
        # Without one, the service would look at this text through the features of the last picture it was asked about.
        picture = np.full((size, size, 3), 128, np.uint8)
    elif picture.shape != (size, size, 3) or picture.dtype != np.uint8:
        raise BadImage(
            f"A picture of {picture.dtype} {picture.shape} does not fit: this engine's encoder takes uint8 RGB of "
            f"{size}x{size} pixels (`input_size`)."
        )
    settings = _settings(request)
    image_tokens = (size // _PIXELS_PER_TOKEN) ** 2
    tokens = _TEMPLATE_TOKENS + image_tokens + round(most_tokens(text))
    most = min(limits.prompt or tokens, (limits.context or tokens + 1) - 1)
    if tokens > most:
        raise PromptTooLong(
            f"The prompt has about {tokens} tokens, {image_tokens} of them for the picture, and the model reads {most} "
            f"({limits.source}). Ask with fewer words, and a shorter system prompt."
        )
    # One part of text: of several, the service reads the last. Plain strings are its form, not OpenAI's objects.
    content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": _data_url(picture)}]
    body = {"model": model, "stream": True, **settings, "messages": [{"role": "user", "content": content}]}
    return Prompt(body, tokens, image_tokens)


def _question(request: Request) -> tuple[str, Image | None]:
    """The text, system prompt in front, and the picture."""
    system = [part for m in request.messages if m.role == "system" for part in m.content]
    turns = [m for m in request.messages if m.role != "system"]
    if [m.role for m in turns] != ["user"]:
        raise Unsupported(
            "messages: every request to this engine is a fresh conversation of one question; earlier turns, if they "
            "matter, belong into its text."
        )
    parts = [*system, *turns[0].content]
    pictures = [part for part in parts if not isinstance(part, str)]
    if len(pictures) > 1:
        raise BadImage(f"This engine takes one picture, not {len(pictures)}: a second one has no place in its prompt.")
    texts = ["\n".join(p for p in some if isinstance(p, str)).strip() for some in (system, turns[0].content)]
    text = "\n\n".join(filter(None, texts))
    if not text and not pictures:
        raise BadRequest("The question is empty.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("The question has half a surrogate pair in it, which is no text.") from None
    return text, pictures[0] if pictures else None


def _settings(request: Request) -> dict[str, float]:
    """Every setting, unset ones as the model's recommended values: the service keeps what a request leaves out."""
    options = request.options
    if request.response_schema is not None:
        raise Unsupported("response_schema: the service has no grammars; ask for JSON in the prompt instead.")
    for name in ("min_p", "seed"):
        if getattr(options, name) is not None:
            raise Unsupported(f"{name}: the service does not know it; leave it unset.")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
    penalty = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    if penalty < 1.0:
        raise Unsupported(f"repetition_penalty: the service ignores {penalty:g}; it takes 1 (off) and more.")
    return {"repetition_penalty": max(penalty, _PENALTY_OFF), **_sampling(options)}


def _sampling(options: Options) -> dict[str, float]:
    """Temperature, and how to draw: the service draws by top-k or by top-p, and a top-k of any value ends top-p."""
    temperature = _TEMPERATURE if options.temperature is None else options.temperature
    top_p = _TOP_P if options.top_p is None else options.top_p
    if temperature <= 0:
        return _GREEDY
    by_top_p = options.top_p is not None and options.top_p < 1 if options.top_k is None else options.top_k <= 0
    if by_top_p:
        return {"temperature": temperature, "top-p": min(top_p, _TOP_P_OFF)}
    top_k = min(options.top_k or _TOP_K, _MOST_TOP_K)
    return {"temperature": temperature, "top-p": top_p, "top-k": top_k}


def _data_url(picture: Image) -> str:
    """``picture`` as the service takes it: a JPEG, the one format that it is sure to decode, as MaixPy sends nothing
    else. At quality 95 with full colour resolution a pixel is off by half a grey level on average; a PNG would be
    exact, three times as large, and would take the service down where its OpenCV came without PNG.
    """
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    # One that it cannot decode is answered without the picture, or kills it.
    with PIL.Image.open(io.BytesIO(data)) as decoded:
        decoded.load()
        if decoded.size != picture.shape[1::-1]:
            raise BadImage(f"The picture came out of its JPEG with {decoded.size} pixels.")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def encoded(body: Mapping[str, Any]) -> bytes:
    """The bytes of ``body``: pure ASCII, so that no text can upset the service's parser."""
    return json.dumps(body).encode()


_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\s*\n\s*|[^\S\n]{2,}")
_ACCENTED = re.compile("[\u00c0-\u024f]")


def most_tokens(text: str) -> float:
    """Tokens of ``text``, on the safe side.

    Against Qwen's vocabulary (qwen.tiktoken of the PyPI package dashscope 2.0.2: the ordinary tokens of Qwen3-VL) on
    texts of 120 to 400 characters, 200 for each of 38 languages (the translations in Django 6): 1.2 to 1.8 times the
    real count for English, 1.1 to 1.7 for Chinese, 1.0 to 2.5 for the large languages of Europe. It is too low, by as
    much as 15 %, for some texts in Dutch and Indonesian, and by 40 % in Swahili: rare words without accents look like
    English ones.
    """
    return _tokens(text, 2 if _ACCENTED.search(text) else 4, 1.0)


def likely_tokens(text: str) -> float:
    """Tokens of ``text``, as near as can be told without the vocabulary.

    Measured as for :func:`most_tokens`: TODO-MEASURE
    """
    return _tokens(text, 3 if _ACCENTED.search(text) else 9, 0.8)


def _tokens(text: str, letters: int, others: float) -> float:
    total = 0.0
    for piece in _PIECE.findall(text):
        if piece.isspace():
            total += 1
        elif piece.isalpha():
            ascii_letters = sum(c < "\x80" for c in piece)
            total += 1 + (ascii_letters - 1) // letters if ascii_letters else 0
            total += others * sum(_weight(ord(c)) for c in piece if c >= "\x80")
        elif piece < "\x80":
            total += 1 if piece.isdigit() else 0.7
        else:
            total += len(piece.encode()) - 1
    return total


# Most tokens per letter in scripts beside ASCII: up to that code point, so many. Measured as above.
_WEIGHTS = (
    (0x36F, 1.0),  # Latin with accents
    (0x3FF, 1.1),  # Greek
    (0x52F, 0.65),  # Cyrillic
    (0x58F, 1.25),  # Armenian
    (0x5FF, 0.65),  # Hebrew
    (0x7FF, 0.85),  # Arabic and its relatives
    (0xDFF, 1.5),  # scripts of India
    (0xE7F, 0.8),  # Thai
    (0x1DFF, 1.5),
    (0x1FFF, 0.8),  # Vietnamese
    (0x2FFF, 1.5),
    (0xABFF, 0.8),  # Chinese, Japanese
    (0xD7FF, 0.9),  # Korean
    (0xFFFF, 1.5),
)


def _weight(code_point: int) -> float:
    return next((weight for last, weight in _WEIGHTS if code_point <= last), 3.0)
