"""Which times of a recording its frames are taken at. Times are nanoseconds, as in a stamp."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

SECOND: Final = 1_000_000_000
"""Nanoseconds."""

DEFAULT_FRAMES: Final = 8
MOST_FRAMES: Final = 768
"""As many as Qwen3-VL reads of a video (`max_frames` of its video processor)."""

_TIME: Final = re.compile(r"(?:(?:(?P<hours>\d{1,6}):)?(?P<minutes>\d{1,6}):)?(?P<seconds>\d{1,12}(?:\.\d{0,30})?)")


def nanoseconds(text: str) -> int:
    """Return the time that ``text`` names, to the nanosecond.

    Args:
        text: Seconds (``2.5``), minutes and seconds (``1:02.5``), or hours as well (``1:00:02.5``).

    Raises:
        ValueError: It is none of these.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time: write seconds (2.5), or minutes and seconds (1:02.5)")
    whole = 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"] or 0)
    return int((whole + Fraction(match["seconds"])) * SECOND)


def even_times(start: int, end: int, count: int) -> Iterator[int]:
    """Yield ``count`` times from ``start`` to ``end``, both included; ``end`` alone where there is one."""
    if count == 1:
        yield end
        return
    for number in range(count):
        yield start + (end - start) * number // (count - 1)


def in_seconds(time: int) -> str:
    """Return a time for a sentence, to the millisecond: "2.5 s"."""
    return f"{time / SECOND:.3f}".rstrip("0").rstrip(".") + " s"
