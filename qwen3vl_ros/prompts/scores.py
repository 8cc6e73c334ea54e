"""When scores of regions are wanted, and what there is to say about them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from qwen3vl_ros.engines.base import Description
from qwen3vl_ros.prompts.request import AskRequest

_LETTERS = re.compile(r"[^\W\d_]")
_ANYTHING = re.compile(r"\b(every|all|any)|\b(objects?|things?|items?)$|所有|全部|一切|物体|东西")
_GAPS = re.compile(r"[\W_]+")


def scores_wanted(request: AskRequest, description: Description) -> bool:
    """Return whether to ask the engine for the probabilities of the answer's tokens."""
    return _points(request) and "probabilities" in description.supports


def score_notes(request: AskRequest, description: Description, scores: Sequence[float | None]) -> Iterator[str]:
    """Yield why regions of a task that points have no score.

    Args:
        request: The goal.
        description: Of the engine that answered.
        scores: Of all regions of the answer.
    """
    unknown = sum(score is None for score in scores)
    if not unknown or not _points(request):
        return
    if "probabilities" not in description.supports:
        why = f"engine {description.engine!r} tells none of its tokens (llama does, and openai where its server does)"
    elif unknown == len(scores):
        why = (
            f"engine {description.engine!r} got no probabilities for this answer; a server may not tell them (logprobs)"
        )
    else:
        why = f"{unknown} of {len(scores)} regions are not items of a list, or in no JSON"
    yield f"no score: {why}" + ("; score_threshold leaves no such region out" if request.score_threshold > 0 else "")


def _points(request: AskRequest) -> bool:
    return request.parser in ("regions", "regions_3d") or (request.parser is None and request.score_threshold > 0)


def label_notes(asked: Sequence[str], labels: Iterable[str]) -> Iterator[str]:
    """Yield a note on the labels that are none of those ``asked`` for, if there are some.

    Letters count, not their case or what is between words. A label may be a part of what was asked for ("cup" for "the
    red cups") or contain it. One in another script, such as Chinese for English, cannot be compared, nor can any where
    everything was asked for.
    """
    wanted = [_plain(text) for text in asked]
    if not asked or any(map(_ANYTHING.search, wanted)):
        return

    def differs(label: str) -> bool:
        plain = _plain(label)
        return bool(plain) and not any(
            plain in text or text in plain or _script(text) != _script(plain) for text in wanted
        )

    if others := list(filter(differs, dict.fromkeys(labels))):
        yield f"asked for {' or '.join(map(repr, asked[:5]))}, the model says {', '.join(map(repr, others[:5]))}"


def _plain(text: str) -> str:
    return _GAPS.sub(" ", text.casefold()).strip()


def _script(text: str) -> str:
    """Return a name for the script of a text's first letter."""
    letter = _LETTERS.search(text)
    if letter is None:
        return ""
    return unicodedata.name(letter[0], "").partition(" ")[0]
