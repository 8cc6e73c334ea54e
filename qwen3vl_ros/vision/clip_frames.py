"""The frames of a clip as small JPEG images. No ROS node code, and no reader of videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_SIDE: Final = 1280
"""Pixels of a clip's frame, which is scaled down to them: a model sees less of each frame of a clip."""


@dataclass(frozen=True, slots=True)
class ClipFrame:
    """A frame: ``time`` in nanoseconds since the video's first one."""

    time: int
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class VideoClip:
    """Frames in order. ``size``: width and height of the video; ``sent``: of the frames, in pixels."""

    frames: tuple[ClipFrame, ...]
    size: tuple[int, int]
    sent: tuple[int, int]


def fitted(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return ``size`` (width, height), scaled down until no side is longer than ``max_side``."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
