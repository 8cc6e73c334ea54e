"""Chooses the frames of a clip: evenly spread over its time, or those in which the image changed most."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def evenly(times: Sequence[int], start: int, end: int, count: int) -> list[int]:
    """Return the indices of the frames nearest to ``count`` times, evenly spread from ``start`` to ``end``.

    Each frame once, so that there may be fewer than ``count``; all of them where there are no more.

    Args:
        times: Of the frames, in any unit, rising.
        start: First of the even times, in that unit.
        end: Last of them.
        count: 1 or more; 1 is the frame nearest to ``end``.
    """
    if len(times) <= count:
        return list(range(len(times)))
    steps = max(1, count - 1)
    wanted = (end - (end - start) * step / steps for step in range(count))
    return sorted({_nearest(times, time) for time in wanted})


def most_changed(changes: Sequence[float], count: int) -> list[int]:
    """Return the indices of the first frame, the last one, and those before which the image changed most.

    Args:
        changes: Of each frame but the first, against the one before.
        count: How many frames, 1 or more; 1 is the last one. All of them where there are no more.
    """
    last = len(changes)
    if last < count:
        return list(range(last + 1))
    ends = [last, 0][:count]
    between = sorted(range(1, last), key=lambda index: changes[index - 1], reverse=True)
    return sorted([*ends, *between[: count - len(ends)]])


def _nearest(times: Sequence[int], time: float) -> int:
    after = bisect.bisect_left(times, time)
    near = range(max(0, after - 1), min(after + 1, len(times)))
    return min(near, key=lambda index: abs(times[index] - time))
