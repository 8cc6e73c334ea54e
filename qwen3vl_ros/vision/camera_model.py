"""The lens model of a CameraInfo: projects rays to pixels and back-projects pixels to rays.

Pixel coordinates are those of a Region: (0, 0) is the top left corner of the first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

Array: TypeAlias = NDArray[np.float64]

_POLYNOMIAL: Final = ("plumb_bob", "rational_polynomial", "")
"""Distortion models with one formula, whose coefficients OpenCV calls k1, k2, p1, p2, k3 ... k6, s1 ... s4, tx, ty.

REP 104 gives plumb_bob 5 and rational_polynomial 8 of them. Drivers publish plumb_bob with 8 (Orbbec) and 14 (OAK-D W),
rational_polynomial with 5, 12 (Isaac Sim) and 14, and no model's name at all; OpenCV tells them by their number.
"""

_COUNTS: Final = (4, 5, 8, 12, 14)
"""Numbers of coefficients that OpenCV has for that formula; those that are left out are 0."""

_FOCAL_LENGTHS: Final = (1e-3, 1e9)
"""Least and greatest focal length in pixels: no lens is beyond them, and products would be 0 or infinite."""

_ROUNDING: Final = 1.0
"""Pixels by which a scaled image may deviate from the aspect ratio, since sizes are whole numbers."""


class CalibrationError(Exception):
    """A CameraInfo is unusable for measuring; the text is a sentence.

    Not a ValueError, since those of parsing an answer are the model's fault.
    """


@dataclass(frozen=True, slots=True)
class Lens:
    """Intrinsics of a CameraInfo: focal lengths and principal point in pixels of the image, and the distortion.

    ``size`` is the image's (width, height), 0 if the CameraInfo does not give it.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    model: str
    d: tuple[float, ...]
    size: tuple[int, int]

    def project(self, rays: Array) -> Array:
        """Return the pixels [n, 2] of ``rays`` [n, 2] (x/z, y/z)."""
        bent: Any = rays
        if self.d and len(rays) and self.model == "equidistant":
            bent = cv2.fisheye.distortPoints(rays[:, None], np.eye(3), np.array(self.d))[:, 0]
        elif self.d and len(rays):
            xyz = np.column_stack([rays, np.ones(len(rays))])
            bent = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), np.eye(3), np.array(self.d))[0][:, 0]
        pixels: Array = bent * (self.fx, self.fy) + (self.cx, self.cy)
        return pixels

    def rays(self, pixels: Array) -> Array:
        """Return the rays [n, 2] (x/z, y/z) of ``pixels`` [n, 2]; NaN far outside of the image, where there is none."""
        bent: Array = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        if not self.d:
            return bent
        enough = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)
        if self.model == "equidistant":
            found: Any = cv2.fisheye.undistortPoints(bent[:, None], np.eye(3), np.array(self.d), criteria=enough)
        else:
            found = cv2.undistortPointsIter(bent[:, None], np.eye(3), np.array(self.d), np.eye(3), np.eye(3), enough)
        rays: Array = found.reshape(-1, 2)
        # Where the distortion model is not monotonic, undistortPoints may converge to a wrong ray: keep those that
        # project back to their pixel.
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = ~(np.abs(self.project(rays) - pixels).max(axis=1) < 0.1)
        rays[wrong] = np.nan
        return rays

    def scaled_to(self, width: int, height: int, which: str) -> Lens:
        """Scale the intrinsics to a resized image.

        Args:
            width: Of the resized image in pixels.
            height: Of the resized image in pixels.
            which: "depth" or "colour", for sentences.

        Raises:
            CalibrationError: The aspect ratio differs, so the image was cropped and not only resized.
        """
        across, down = self.size
        if 0 in self.size or self.size == (width, height):
            return self
        if abs(width * down / across - height) > _ROUNDING and abs(height * across / down - width) > _ROUNDING:
            raise CalibrationError(
                f"the {which} image has {width}x{height} pixels, but by its camera_info it should have "
                f"{across}x{down}, which is another aspect ratio."
            )
        x, y = width / across, height / down
        return replace(self, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y, size=(width, height))


def differ(info: CameraInfo) -> bool:
    """Return whether K and P of a CameraInfo are those of different images: P, where it is set, is of the rectified."""
    k, p = np.array(info.k).reshape(3, 3), np.array(info.p).reshape(3, 4)[:, :3]
    return bool(p.any()) and not np.allclose(k, p, rtol=1e-3)


def rectified(info: CameraInfo, which: str) -> CameraInfo:
    """Return the CameraInfo of the rectified image: K is the left part of P, and there is no distortion.

    Raises:
        CalibrationError: Its P is all zero. ``which`` ("depth", "colour") is for the sentence.
    """
    if not any(info.p):
        raise CalibrationError(f"the {which} camera's camera_info has no P, which belongs to its rectified images.")
    return CameraInfo(
        header=info.header,
        width=info.width,
        height=info.height,
        k=[*info.p[0:3], *info.p[4:7], *info.p[8:11]],
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=info.roi,
    )


def lens_of(info: CameraInfo, which: str) -> Lens:
    """Read the lens of a CameraInfo.

    Args:
        info: The camera's calibration.
        which: "depth" or "colour", for sentences.

    Raises:
        CalibrationError: The camera is not calibrated, or by an unknown distortion model.
    """
    k = [float(number) for number in info.k]
    if not any(k):
        raise CalibrationError(f"the {which} camera has no camera_info, or one without calibration: its K is all zero.")
    if not (np.isfinite(k).all() and all(_FOCAL_LENGTHS[0] < focal < _FOCAL_LENGTHS[1] for focal in (k[0], k[4]))):
        raise CalibrationError(
            f"the K of the {which} camera's camera_info has the focal lengths {k[0]:g} and {k[4]:g}."
        )
    d = tuple(float(number) for number in info.d)
    if any(d):
        d = _coefficients(info.distortion_model, d, which)
    roi, across, down = info.roi, info.binning_x or 1, info.binning_y or 1
    # In K, (0, 0) is the centre of the sensor's first pixel.
    return Lens(
        fx=k[0] / across,
        fy=k[4] / down,
        cx=(k[2] + 0.5 - roi.x_offset) / across,
        cy=(k[5] + 0.5 - roi.y_offset) / down,
        model=info.distortion_model,
        d=d if any(d) else (),
        size=((roi.width or info.width) // across, (roi.height or info.height) // down),
    )


def _coefficients(model: str, d: tuple[float, ...], which: str) -> tuple[float, ...]:
    """Return the coefficients as OpenCV takes them, zeros at the end left out or added.

    Raises:
        CalibrationError: They are not those of the model, or the model is not supported.
    """
    if model == "equidistant":
        counts: tuple[int, ...] = (4,)
    elif model in _POLYNOMIAL:
        counts = _COUNTS
    else:
        supported = ", ".join(name for name in (*_POLYNOMIAL, "equidistant") if name)
        raise CalibrationError(
            f"the {which} camera's distortion model '{model}' is not supported; supported are {supported}."
        )
    used = len(d) - next(zeros for zeros, number in enumerate(reversed(d)) if number)
    if len(d) < counts[0] or used > counts[-1] or not np.isfinite(d).all():
        raise CalibrationError(
            f"the {which} camera's camera_info has the distortion {numbers(d)}; the model {model or 'without a name'} "
            f"has {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} finite numbers."
        )
    count = next(count for count in counts if count >= used)
    return (d + (0.0,) * count)[:count]


@lru_cache(maxsize=4)
def rays_of_all_pixels(lens: Lens, width: int, height: int) -> NDArray[np.float32]:
    """Return the rays (x/z, y/z) through the pixel centres: [height, width, 2]; the same for all images of a camera."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = lens.rays(np.stack([columns.ravel(), rows.ravel()], axis=1)).astype(np.float32)
    rays.flags.writeable = False
    return rays.reshape(height, width, 2)


def numbers(values: Sequence[float]) -> str:
    """Format ``values`` as "(1, 2.5)" with few digits, for sentences."""
    return f"({', '.join(f'{value:.4g}' for value in values)})"
