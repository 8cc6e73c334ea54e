"""The sampling values that the cards of published models recommend: what an unset option means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from qwen3vl_ros.engines.base import Options, Request


@dataclass(frozen=True, slots=True)
class Recommended:
    """Recommended values of :class:`~qwen3vl_ros.engines.base.Options`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """The values of one family of models: ``at_once`` for an answer without reasoning, ``thinking`` for one with it."""

    at_once: Recommended
    thinking: Recommended


# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct and -Thinking, "Generation Hyperparameters", VL.
QWEN3_VL: Final = Family(
    at_once=Recommended(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
    thinking=Recommended(temperature=1.0, top_p=0.95, top_k=20),
)

_FAMILIES: Final = {
    r"qwen3[-_ ]?vl": QWEN3_VL,
    # https://huggingface.co/Qwen/Qwen3.5-0.8B: "for VL tasks" and "for VL or precise coding tasks".
    r"qwen3\.5[-_ ]0\.8b": Family(
        at_once=Recommended(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
        thinking=Recommended(temperature=0.6, top_p=0.95, top_k=20),
    ),
    # https://huggingface.co/Qwen/Qwen3.5-9B: "for general tasks" of both modes.
    r"qwen3\.5": Family(
        at_once=Recommended(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
        thinking=Recommended(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5),
    ),
}
"""Pattern of a model's name -> its family; the first that matches counts."""

# For a model of another name, such as one that was trained further: it may repeat itself on purpose.
OTHERS: Final = Family(
    at_once=replace(QWEN3_VL.at_once, presence_penalty=0.0),
    thinking=QWEN3_VL.thinking,
)


def family_of(name: str) -> Family | None:
    """Return the family of the model ``name``, None for one of another name."""
    return next((family for pattern, family in _FAMILIES.items() if re.search(pattern, name, re.IGNORECASE)), None)


def for_request(values: Recommended, request: Request) -> Recommended:
    """Return the values that a request's unset options have.

    The recommended presence penalty is for prose that is sampled. In an answer that has to follow a JSON Schema it
    would take the keys from the second object on, and an answer at temperature 0 is to be the model's likeliest.

    Args:
        values: The model's, for a request that thinks or for one that does not.
        request: Whose answer is sampled.
    """
    temperature = request.options.temperature
    greedy = (values.temperature if temperature is None else temperature) <= 0.0
    return replace(values, presence_penalty=0.0) if greedy or request.response_schema is not None else values


def filled(options: Options, values: Mapping[str, Any]) -> Options:
    """Return ``options`` with ``values`` for those that are unset."""
    return replace(options, **{name: value for name, value in values.items() if getattr(options, name) is None})
