"""The clip that a question is about, as its goal asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ClipPick: TypeAlias = Literal["even", "change"]
"""Which frames: evenly spread over the time, or those in which the image changed most."""

LAST_FRAME_PROMPT = "It is a video: give the places in its last frame."
"""What to append to the prompt of a question for places in a clip."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A clip: ``duration`` seconds of a camera's history, or, with 0, the images of the goal.

    ``frames``: the most that are taken of it. ``end``: when it ends, nanoseconds of the camera's clock; 0 = now.
    """

    frames: int
    duration: float = 0.0
    end: int = 0
    pick: ClipPick = "even"

    @property
    def goal_field(self) -> str:
        """The field of the goal that asks for it."""
        return "clip_duration" if self.duration else "images_are_clip"
