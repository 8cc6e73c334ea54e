"""How a parameter is described: fields of dataclasses whose metadata has the description, the range or the choices.

``live``: it may change while the node is configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, Final

FITS: Final = ("contain", "cover", "fill")
FIT: Final = "How an image of another shape gets to the encoder's size: with black bars, cropped, or stretched."


def text(default: str, description: str, *, live: bool = False, choices: Sequence[str] = ()) -> Any:
    """A text, one of ``choices`` where there are any."""
    if choices:
        description += f" One of: {listed(choices)}."
    return field(default=default, metadata={"description": description, "live": live, "choices": tuple(choices)})


def listed(choices: Sequence[object]) -> str:
    """Choices for people."""
    return ", ".join(str(choice) or "(empty)" for choice in choices)


def texts(default: tuple[str, ...], description: str) -> Any:
    """A list of texts."""
    return field(default=default, metadata={"description": description, "live": False})


def flag(default: bool, description: str) -> Any:
    """True or false."""
    return field(default=default, metadata={"description": description, "live": False})


def choice(default: int, choices: Sequence[int], description: str) -> Any:
    """One of a few whole numbers."""
    description += f" One of: {listed(choices)}."
    return field(default=default, metadata={"description": description, "live": False, "choices": tuple(choices)})


def number(default: float, low: float, high: float, description: str, *, live: bool = False) -> Any:
    """A number from ``low`` to ``high``; whole if ``default`` is."""
    return field(default=default, metadata={"description": description, "live": live, "range": (low, high)})
