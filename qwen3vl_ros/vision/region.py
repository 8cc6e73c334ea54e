"""Something that an answer points at in an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
"""(x, y) in pixels, continuous: (0, 0) is the top left corner of the image, x grows to the right and y down."""

Box: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, as :data:`Point`."""

Vector: TypeAlias = tuple[float, float, float]
"""(x, y, z) in metres; in the camera's optical frame, x to the right, y down, z forward (REP 103), if nothing else is
said."""

Matrix: TypeAlias = tuple[float, ...]
"""Nine numbers, row by row."""


@dataclass(frozen=True, slots=True)
class Region:
    """An object in image ``image_index`` of a question, in pixels of the original image.

    Fields that the answer does not give are None or (). ``position`` and ``extent`` are in metres in the optical frame,
    from depth or from the model itself; an ``extent`` from depth is along the frame's axes, one from the model along
    the object's own. ``position_error`` is a sentence if a position was requested and is not available.

    ``frame_id``: the tf frame of ``position`` and ``extent`` where that is another one, "" = the optical frame;
    ``seen_from``: the camera's place in it.

    ``score``, ``spread`` and ``position_covariance`` are those of Region.msg; ``at``: index in the answer's text of the
    coordinates, which makes no region another one.
    """

    label: str
    image_index: int = 0
    box: Box | None = None
    point: Point | None = None
    polygon: tuple[Point, ...] = ()
    position: Vector | None = None
    extent: Vector | None = None
    position_error: str = ""
    frame_id: str = ""
    seen_from: Vector = (0.0, 0.0, 0.0)
    score: float | None = None
    spread: tuple[float, ...] = ()
    position_covariance: Matrix | None = None
    at: int = field(default=-1, compare=False)
