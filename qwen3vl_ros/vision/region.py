"""Something that an answer points at in an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
"""(x, y) in pixels, continuous: (0, 0) is the top left corner of the image, x grows to the right and y down."""

Box: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, as :data:`Point`."""

Vector: TypeAlias = tuple[float, float, float]
"""(x, y, z) in metres in the camera's optical frame: x to the right, y down, z forward (REP 103)."""


@dataclass(frozen=True, slots=True)
class Region:
    """A thing in image ``image_index`` of a question, in pixels of the original image.

    What the answer does not give is None or (). ``position`` and ``extent`` come from depth or from the model itself:
    metres in the optical frame, ``extent`` along its axes where it comes from depth, along the thing's own where the
    model gives it. ``position_error`` is a sentence where one was wanted and cannot
    be had.
    """

    label: str
    image_index: int = 0
    box: Box | None = None
    point: Point | None = None
    polygon: tuple[Point, ...] = ()
    position: Vector | None = None
    extent: Vector | None = None
    position_error: str = ""
