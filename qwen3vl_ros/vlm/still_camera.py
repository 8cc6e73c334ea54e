"""Remembers which frames of a camera the model has read, and gives it their pixels again while nothing changes.

Two frames of a scene that stands still differ in nearly every pixel, by noise; an engine that is given the pixels of
the earlier one again finds all its work done. A frame is always compared with one that was really read, never with the
frame before: a slow drift would add up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from builtin_interfaces.msg import Time

from qwen3vl_ros.engines.base import Description, Image
from qwen3vl_ros.vision.change import image_change
from qwen3vl_ros.vision.fit import Fit

_KEPT: Final = 4
"""Frames kept of a camera, one for each way in which it was fitted: questions may want different image tokens."""

_Way: TypeAlias = tuple[str, str, tuple[Fit, ...]]
"""An engine, its model, and how a frame was fitted for it; frames of one way have parts of the same sizes."""


@dataclass(frozen=True, slots=True)
class FittedFrame:
    """A frame of a camera as an engine takes it.

    ``parts``: its images, several if the camera has ``tiles``; uint8 [height, width, 3] RGB. ``moment``: when it was
    taken, nanoseconds of the node's clock. ``arrived``: time.monotonic() seconds. ``stamp``: of its header.
    """

    parts: tuple[Image, ...]
    fits: tuple[Fit, ...]
    moment: int
    arrived: float
    stamp: Time


@dataclass(frozen=True, slots=True)
class ChosenPixels:
    """What the model gets for a new frame: ``pixels``, its own or those of an earlier frame.

    ``change``: of the new frame against the one that was read last, grey levels; None = there is none.
    """

    pixels: FittedFrame
    change: float | None


class StillCamera:
    """The frames of one camera that were read. Usable from any thread.

    Args:
        tolerance: Greatest change, in grey levels, with which an earlier frame's pixels are given again; 0 = never.
        max_age: Seconds that a new frame may be later than the one whose pixels are given.
    """

    def __init__(self, tolerance: float, max_age: float) -> None:
        self._tolerance = tolerance
        self._max_age = max_age
        self._lock = threading.Lock()
        self._read: dict[_Way, FittedFrame] = {}

    def choose(self, frame: FittedFrame, engine: Description, not_before: int, *, new_pixels: bool) -> ChosenPixels:
        """Compare a new frame with the one that the engine read last, and choose the pixels that it gets.

        Args:
            frame: The new one.
            engine: Is going to read it.
            not_before: Pixels of an earlier moment, nanoseconds of the node's clock, are not given.
            new_pixels: Whether the new frame's own are wanted in any case.
        """
        with self._lock:
            read = self._read.get(_way(engine, frame.fits))
        if read is None:
            return ChosenPixels(frame, None)
        change = max(image_change(new, old) for new, old in zip(frame.parts, read.parts, strict=True))
        wanted = self._tolerance > 0 and not new_pixels
        recent = read.moment >= not_before and 0 <= frame.moment - read.moment <= self._max_age * 1e9
        return ChosenPixels(read if wanted and recent and change <= self._tolerance else frame, change)

    def remember(self, pixels: FittedFrame, engine: Description) -> None:
        """Note that the engine has read these pixels. Of two questions at the same time the newer frame stays."""
        way = _way(engine, pixels.fits)
        with self._lock:
            known = self._read.pop(way, pixels)  # put at the end, so that the first one is out of use for longest
            self._read[way] = pixels if pixels.arrived >= known.arrived else known
            while len(self._read) > _KEPT:
                del self._read[next(iter(self._read))]


def _way(engine: Description, fits: Sequence[Fit]) -> _Way:
    return engine.engine, engine.model, tuple(fits)
