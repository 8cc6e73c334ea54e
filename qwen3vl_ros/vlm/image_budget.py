"""Decides how many tokens an image may have: what goal, task, model and time allow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen3vl_ros.engines.base import Description, ImageInput
from qwen3vl_ros.prompts.request import AUTO_IMAGE_TOKENS, AskRequest
from qwen3vl_ros.vlm.image_cost import ImageCost

ADVISED_TOKENS = 2048
"""The most that AUTO takes: the authors of Qwen3-VL advise 1024 to 2048 image tokens for grounding and OCR
(https://github.com/ggml-org/llama.cpp/issues/16842)."""

_AUTO_SHARE = 0.5
_TASK_SHARE = 0.25
"""Shares of the time that is left in which the first token has to be expected: with AUTO, and for what a task adds to
the engine's own number, which nobody asked for."""

CLIP_TOKENS = 80
"""Tokens of a pair of frames of a clip where neither goal nor task says: four pairs are encoded in the time of one
image of the usual 300 (4 times 1.2 s against 5.9 s, measured as _TYPICAL_CURVATURE in image_cost.py was)."""

_LEAST_TOKENS = 64
"""The least that a choice by time goes down to."""

_CONTEXT_SHARE = 4
"""At least one part of the context in so many is the answer's."""

_BYTES_PER_TOKEN = 3
"""Of text, on the low side: English has 4 to 5, Chinese 3 to 6."""


@dataclass(frozen=True, slots=True)
class ImageBudget:
    """The tokens of an image: at most ``tokens`` (0 = no image), to about ``enlarged_to`` if it has fewer (0 = as is).

    ``note``: what the asker should know, "" for nothing. ``expected``: seconds until the first token, None = unknown.
    """

    tokens: int = 0
    enlarged_to: int = 0
    note: str = ""
    expected: float | None = None

    def applied_to(self, image_input: ImageInput) -> ImageInput:
        """Return ``image_input`` with these limits."""
        if image_input.size is not None:
            return image_input
        return replace(image_input, max_tokens=self.tokens, min_tokens=self.enlarged_to)


def choose_budget(
    request: AskRequest, description: Description, parts: int, seconds: float, cost: ImageCost
) -> ImageBudget:
    """Choose the budget of a question's images.

    A goal's own number is taken as it is, up to what model and context take. AUTO is the greatest size, of those a
    fifth apart, whose first token is expected within half of ``seconds`` and early enough for the answer. Without
    either, a task's number counts as far as the first token is expected within a quarter of ``seconds``, and never
    lowers an engine's own because of the time. What is above the engine's own number asks for more than the image may
    have: a smaller one is enlarged to it.

    The images of a clip have fewer by default: :data:`CLIP_TOKENS`.

    Args:
        request: The goal.
        description: Of the engine.
        parts: Images, and parts of images, of the whole prompt; two frames of a clip are one.
        seconds: Left of the goal's time.
        cost: Of this engine.
    """
    own = description.image_input
    if not parts:
        return ImageBudget()
    if own.size is not None:
        return ImageBudget(own.size[0] * own.size[1] // own.multiple**2)
    usual = own.usual_tokens if request.clip is None else min(own.usual_tokens, CLIP_TOKENS)
    most = _most(request, description, parts, usual)
    wish = min(_task_tokens(request, description), most)
    asked = request.max_image_tokens
    if asked == AUTO_IMAGE_TOKENS:
        limit = max(0.0, min(seconds * _AUTO_SHARE, seconds - cost.answer_time(request.options.max_tokens)))
        top = min(most, max(ADVISED_TOKENS, usual))
        tokens = _greatest(top, limit, request, parts, cost)
        note = ""
        if tokens is None:
            tokens = usual
            if _expected(usual, request, parts, cost) is not None:
                tokens = min(_LEAST_TOKENS, top)
                note = (
                    f"max_image_tokens: even {tokens} image tokens may leave the answer too little of its "
                    f"{seconds:.1f} s; ask with a longer timeout"
                )
        return ImageBudget(tokens, min(tokens, wish) if min(tokens, wish) > own.usual_tokens else 0, note)
    if asked:
        note = "" if asked <= most else _cap_note(asked, most, own.max_tokens, description)
        return ImageBudget(min(asked, most), min(asked, most) if asked > own.usual_tokens else 0, note)
    if wish <= usual:
        return ImageBudget(wish or usual)
    tokens = max(usual, _greatest(wish, seconds * _TASK_SHARE, request, parts, cost) or usual)
    return ImageBudget(tokens, tokens if tokens > own.usual_tokens else 0)


def text_tokens(request: AskRequest) -> int:
    """Return about how many tokens the text of a question has, rather too many."""
    texts = [request.prompt, request.system_prompt]
    texts += [part for turn in request.history for part in turn.content if part is not None]
    return sum(len(text.encode("utf-8", "replace")) for text in texts) // _BYTES_PER_TOKEN + 16 * (
        1 + len(request.history)
    )


def _task_tokens(request: AskRequest, description: Description) -> int:
    """Return the task's number, 0 without one; that of the model's card wins where a ready-made task finds places."""
    advised = description.card.grounding_image_tokens
    if request.task_image_tokens and request.ready_made and request.parser == "regions" and advised:
        return advised
    return request.task_image_tokens


def _most(request: AskRequest, description: Description, parts: int, usual: int) -> int:
    """Return the most tokens that each image can have beside the others, the text and the answer.

    Never less than the ``usual`` number: whether that fits is the engine's to say.
    """
    own = description.image_input
    if description.context_length is None:
        return own.max_tokens
    context = description.context_length
    answer = context // _CONTEXT_SHARE
    if request.options.max_tokens is not None:
        answer = min(answer, request.options.max_tokens)
    answer = max(answer, context - (description.prompt_limit or context))
    share = (context - answer - text_tokens(request)) // parts - 2  # an image is enclosed by two control tokens
    return min(own.max_tokens, max(share, usual))


def _greatest(top: int, limit: float, request: AskRequest, parts: int, cost: ImageCost) -> int | None:
    """Return the greatest size up to ``top`` whose first token is expected within ``limit`` seconds; None = none is.

    Sizes are a fifth apart, so that a question asked again gets the same size again, and finds its image encoded.
    """
    sizes = {top}
    step = 0
    while (size := int(_LEAST_TOKENS * 2 ** (step / 4))) < top:
        sizes.add(size)
        step += 1
    for size in sorted(sizes, reverse=True):
        expected = _expected(size, request, parts, cost)
        if expected is not None and expected <= limit:
            return size
    return None


def _expected(size: int, request: AskRequest, parts: int, cost: ImageCost) -> float | None:
    return cost.first_token_time([size] * parts, text_tokens(request))


def _cap_note(asked: int, most: int, model: int, description: Description) -> str:
    if most >= model:
        return f"max_image_tokens: {asked} were asked for, and {description.engine} takes {most} for an image at most"
    return (
        f"max_image_tokens: {asked} were asked for; images had {most} each at most, because the context of "
        f"{description.context_length} tokens has to hold images, text and answer: raise the engine's context length"
    )
