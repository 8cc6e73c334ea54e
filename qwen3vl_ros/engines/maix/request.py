"""Converts a request to the one text and one image that MaixPy takes, or refuses it before any work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.engines.base import BadImage, BadRequest, Image, Options, PromptTooLong, Request, Unsupported
from qwen3vl_ros.engines.clips import images_of
from qwen3vl_ros.engines.maix.model import MaixModel
from qwen3vl_ros.engines.maix_http.request import (
    GREEDY,
    MOST_TOP_K,
    PENALTY_OFF,
    RECOMMENDED,
    TEMPLATE_TOKENS,
    TOP_P_OFF,
)
from qwen3vl_ros.engines.maix_http.tokens import most_tokens

_SUPPORTS = frozenset({"system_prompt", "stop", "max_tokens", "text_only"})
_SAMPLING = frozenset({"temperature", "top_p", "top_k", "repetition_penalty"})
"""Options that nn.Qwen3VL takes with each question. nn.InternVL reads them from the .mud file when it loads."""


@dataclass(frozen=True, slots=True)
class MaixPayload:
    """The text, image and sampling to send. ``prompt_tokens``: an estimate, including ``image_tokens``."""

    text: str
    image: Image | None
    sampling: dict[str, float | int | bool]
    prompt_tokens: int
    image_tokens: int


def abilities(model: MaixModel) -> frozenset[str]:
    """Return what ``model`` supports, by the names of :data:`qwen3vl_ros.engines.base.ABILITIES`."""
    return _SUPPORTS | _SAMPLING if model.service_url else _SUPPORTS


def payload_of(request: Request, model: MaixModel, size: tuple[int, int]) -> MaixPayload:
    """Convert ``request`` for ``model``, whose images have ``size`` (width, height) in pixels.

    Raises:
        BadRequest: The request makes no sense.
        BadImage: There are several images, or one of another size.
        PromptTooLong: The prompt does not fit, by estimate.
        Unsupported: MaixPy or the board cannot honour a field.
    """
    if request.response_schema is not None:
        raise Unsupported("response_schema: MaixPy has no grammars; ask for JSON in the question instead.")
    if request.choices:
        raise Unsupported("choices: MaixPy tells no probabilities; leave them out.")
    options = request.options
    for name in (
        *("temperature", "top_p", "top_k", "min_p", "seed"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    ):
        if name not in abilities(model) and getattr(options, name) is not None:
            raise Unsupported(f"{name}: nn.{model.model_class} of MaixPy has no such setting; leave it unset.")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
    if options.repetition_penalty is not None and options.repetition_penalty < 1.0:
        raise Unsupported("repetition_penalty: the board takes 1, which is off, and more.")
    text, image = _one_turn(request, size)
    if image is None and model.service_url:
        # Without an image, the service would use that of the previous question.
        image = np.full((size[1], size[0], 3), 128, np.uint8)
    image_tokens = 0 if image is None else model.image_tokens
    tokens = TEMPLATE_TOKENS + image_tokens + round(most_tokens(text))
    limits = model.limits
    most = min(limits.prompt or tokens, (limits.context or tokens + 1) - 1)
    if tokens > most:
        raise PromptTooLong(
            f"The prompt has about {tokens} tokens, {image_tokens} of them for the image, and the model reads "
            f"{most} ({limits.source}). Ask with fewer words, and a shorter system prompt."
        )
    return MaixPayload(text, image, _sampling(options) if model.service_url else {}, tokens, image_tokens)


def _one_turn(request: Request, size: tuple[int, int]) -> tuple[str, Image | None]:
    """Return the text of instruction and question, and the image."""
    roles = [message.role for message in request.messages]
    if roles[-1:] != ["user"] or set(roles[:-1]) - {"system"}:
        raise Unsupported("sessions: the board remembers nothing; ask one question, with all it needs in it.")
    images = images_of(request.messages, "ask about one frame of it")
    if len(images) > 1:
        raise BadImage(f"This engine takes one image, not {len(images)}: MaixPy has one place for it.")
    for image in images:
        if image.dtype != np.uint8 or image.shape != (size[1], size[0], 3):
            raise BadImage(
                f"An image of {image.dtype} {image.shape} does not fit: this model takes uint8 RGB of "
                f"{size[0]}x{size[1]} pixels (describe().image_input)."
            )
    # MaixPy sends its system prompt only once, and after the question, so instructions are put into the text instead.
    texts = ["".join(part for part in m.content if isinstance(part, str)).strip() for m in request.messages]
    if not texts[-1]:
        raise BadRequest("There is no question: MaixPy takes an image only with text.")
    text = "\n\n".join(filter(None, texts))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest("The question has half a surrogate pair in it, which is no text.") from None
    return text, images[0] if images else None


def _sampling(options: Options) -> dict[str, float | int | bool]:
    """Return MaixPy's post_config: all fields that matter, since those of one question persist to the next.

    Unset options get the values that Qwen recommends. MaixPy samples by top-k, or by top-p without a top-k.
    """
    temperature = RECOMMENDED.temperature if options.temperature is None else options.temperature
    top_p = RECOMMENDED.top_p if options.top_p is None else options.top_p
    top_k = RECOMMENDED.top_k if options.top_k is None else options.top_k
    by_top_p = options.top_p is not None and options.top_p < 1 if options.top_k is None else options.top_k == 0
    if temperature < GREEDY:  # MaixPy silently ignores 0
        temperature, top_k, by_top_p = GREEDY, 1, False
    penalty = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    return {
        "enable_temperature": True,
        "temperature": temperature,
        "enable_top_p_sampling": True,
        "top_p": min(top_p, TOP_P_OFF),
        "enable_top_k_sampling": not by_top_p,
        "top_k": min(max(top_k, 1), MOST_TOP_K),
        "enable_repetition_penalty": True,
        "repetition_penalty": max(penalty, PENALTY_OFF),
    }
