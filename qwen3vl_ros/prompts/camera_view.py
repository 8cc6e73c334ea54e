"""The camera parameters that a question may mention."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CameraView:
    """The pinhole camera of an image *as the model sees it*: after resizing, cropping or padding with black bars.

    Sizes, focal lengths and principal point in pixels of that image, as in sensor_msgs/CameraInfo's ``k``.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def horizontal_fov(self) -> float:
        """Angle between the left and the right edge in degrees."""
        return math.degrees(math.atan(self.cx / self.fx) + math.atan((self.width - self.cx) / self.fx))

    @property
    def vertical_fov(self) -> float:
        """Angle between the upper and the lower edge in degrees."""
        return math.degrees(math.atan(self.cy / self.fy) + math.atan((self.height - self.cy) / self.fy))
