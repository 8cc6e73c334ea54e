"""The probability that a model gave to its answer, or the reason why it is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen3vl_ros.engines.base import Description
from qwen3vl_ros.prompts.request import AskRequest


@dataclass(frozen=True, slots=True)
class Certainty:
    """The probability of the first choice.

    ``mass``: the sum of the probabilities of all choices. ``probability``: the first choice's share of ``mass``; None =
    unknown. ``note``: why it is unknown; "" also for a question without choices.
    """

    probability: float | None = None
    mass: float | None = None
    note: str = ""


def wanted_choices(request: AskRequest, description: Description) -> tuple[tuple[str, ...], ...]:
    """Return the choices whose probabilities to request; () for a JSON answer or an engine that reports none."""
    if request.response_schema is not None or "probabilities" not in description.supports:
        return ()
    return request.choices


def certainty(request: AskRequest, description: Description, told: Sequence[float] | None) -> Certainty:
    """Compute the certainty from ``told``, the engine's probabilities of the question's choices."""
    if not request.choices:
        return Certainty()
    if request.response_schema is not None:
        return Certainty(note="no probability: the answer is JSON (response_schema), which begins with no choice")
    if "probabilities" not in description.supports:
        return Certainty(
            note=f"no probability: engine {description.engine!r} tells none of its tokens (llama does, and openai "
            "where its server does)"
        )
    if told is None:
        return Certainty(
            note=f"no probability: engine {description.engine!r} got none for this answer; a server may not tell them "
            "(logprobs), or the answer has no words"
        )
    if not sum(told):
        return Certainty(mass=0.0, note="no probability: the model would have begun with none of the choices")
    return Certainty(told[0] / sum(told), min(1.0, sum(told)))
