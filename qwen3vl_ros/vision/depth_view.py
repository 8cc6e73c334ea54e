"""Transforms a depth image into the colour camera's frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.vision.camera_model import Array, CalibrationError, Lens, lens_of, numbers, rays_of_all_pixels
from qwen3vl_ros.vision.region import Box
from qwen3vl_ros.vision.surfaces import Mask, jump

# encoding -> numpy sample type, metres per unit: REP 118; mono16 as image_pipeline's depth_image_proc takes it
_ENCODINGS: Final = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}


_WIDEST: Final = 4.0
"""Tangent of the angle to the optical axis, 76 degrees, beyond which nothing is looked for in the colour image."""


class NoDepth(Exception):
    """There is no position; the text is a sentence that says why."""


def _metres(depth: ImageMessage) -> NDArray[np.float32]:
    """Return depth [height, width] in metres, NaN for none."""
    if depth.encoding not in _ENCODINGS:
        raise NoDepth(f"the depth image's encoding '{depth.encoding}' is not one of {', '.join(_ENCODINGS)} (REP 118).")
    sample, unit = _ENCODINGS[depth.encoding]
    dtype = np.dtype(sample).newbyteorder(">" if depth.is_bigendian else "<")
    height, width, step = depth.height, depth.width, depth.step
    what = f"the {depth.encoding} depth image of {width}x{height} pixels"
    if not width or not height:
        raise NoDepth(f"{what} is empty.")
    data = np.frombuffer(depth.data, np.uint8)
    if step < width * dtype.itemsize or len(data) < height * step:
        raise NoDepth(f"{what} has step {step} and {len(data)} bytes of data, which is too little.")
    samples: NDArray[Any] = np.ndarray((height, width), dtype, data, strides=(step, dtype.itemsize))
    metres: NDArray[np.float32] = samples.astype(np.float32) * np.float32(unit)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


@dataclass(frozen=True, slots=True)
class DepthView:
    """A depth image in the colour camera's frame. Arrays are [height, width, ...] of the depth image.

    ``points`` [..., 3] are in metres in the colour camera's optical frame and ``rays`` [..., 2] their x/z and y/z;
    NaN where there is no depth. ``pixel`` is the size of a depth pixel, as an angle.
    """

    points: NDArray[np.float32]
    rays: NDArray[np.float32]
    lens: Lens
    pixel: float
    depth_lens: Lens
    depth_from_colour: Array

    def part(self, box: Box) -> tuple[Array, Array]:
        """Return the points [h, w, 3] of the part that shows ``box``, and their colour image pixels [h, w, 2]."""
        low, high = self._span(box)
        x, y = self.rays[:, :, 0], self.rays[:, :, 1]
        with np.errstate(invalid="ignore"):
            inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            raise NoDepth(self.why_nothing(box))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        points = np.where(inside[part][:, :, None], self.points[part], np.nan).astype(np.float64)
        pixels = np.full((*points.shape[:2], 2), np.nan)
        pixels[inside[part]] = self.lens.project(self.rays[part][inside[part]].astype(np.float64))
        return points, pixels

    def _span(self, box: Box) -> tuple[Array, Array]:
        """Return minimum and maximum of x/z and y/z in ``box``: those of its outline, which distortion bends."""
        width, height = self.lens.size
        left, top, right, bottom = box
        if width and height:
            left, right = (min(max(x, 0.0), float(width)) for x in (left, right))
            top, bottom = (min(max(y, 0.0), float(height)) for y in (top, bottom))
        steps = np.linspace(0.0, 1.0, 17)
        xs, ys = left + (right - left) * steps, top + (bottom - top) * steps
        outline = [np.column_stack(np.broadcast_arrays(x, y)) for x, y in ((xs, top), (xs, bottom))]
        outline += [np.column_stack(np.broadcast_arrays(x, y)) for x, y in ((left, ys), (right, ys))]
        rays = self.lens.rays(np.concatenate(outline))
        rays = rays[np.isfinite(rays).all(axis=1)]
        if left >= right or top >= bottom or not len(rays):
            raise NoDepth(f"the box {numbers(box)} lies outside of the colour image.")
        return rays.min(axis=0), rays.max(axis=0)

    def why_nothing(self, box: Box) -> str:
        """Return why ``box`` has no point, as the rest of a sentence: judged at the median distance of the image."""
        middle = self.lens.rays(np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]]))[0]
        distance = float(np.nanmedian(self.points[:, :, 2]))
        x, y, z = (self.depth_from_colour @ np.array([*(middle * distance), distance, 1.0]))[:3]
        height, width = self.points.shape[:2]
        if z > 0:
            (column, row), *_ = self.depth_lens.project(np.array([[x / z, y / z]]))
            if 0 <= column < width and 0 <= row < height:
                return f"the depth image has no valid depth in the box {numbers(box)}."
        return f"the box {numbers(box)} lies outside of what the depth image shows."


def view_of(
    depth: ImageMessage,
    depth_info: CameraInfo,
    colour_info: CameraInfo,
    colour_size: tuple[int, int] | None,
    colour_from_depth: Array | None,
) -> DepthView:
    """Transform ``depth``; arguments as of :func:`qwen3vl_ros.vision.depth.locate`. Raises :class:`NoDepth`."""
    z = _metres(depth)
    height, width = z.shape
    try:
        depth_lens = lens_of(depth_info, "depth").scaled_to(width, height, "depth")
        lens = lens_of(colour_info, "colour")
        lens = lens if colour_size is None else lens.scaled_to(*colour_size, "colour")
    except CalibrationError as error:
        raise NoDepth(str(error)) from error
    if np.isnan(z).all():
        raise NoDepth(f"the depth image of {width}x{height} pixels has no valid depth anywhere.")
    rays: NDArray[Any] = rays_of_all_pixels(depth_lens, width, height)
    points: NDArray[Any] = np.dstack([rays * z[:, :, None], z])
    transform = np.eye(4) if colour_from_depth is None else np.asarray(colour_from_depth, np.float64)
    if colour_from_depth is not None:
        points = (points @ transform[:3, :3].T + transform[:3, 3]).astype(np.float32)
    points[~(points[:, :, 2] > 0)] = np.nan
    pixel = float(1 / np.sqrt(depth_lens.fx * depth_lens.fy))
    if colour_from_depth is None:
        rays = np.where(np.isnan(points[:, :, :1]), np.float32(np.nan), rays)
    else:
        if transform[:3, 3].any():  # from one and the same place, both cameras see the same surfaces
            points[_hidden(points, pixel)] = np.nan
        rays = points[:, :, :2] / points[:, :, 2:]
    return DepthView(points, rays, lens, pixel, depth_lens, np.linalg.inv(transform).astype(np.float64))


def _hidden(points: NDArray[np.float32], pixel: float) -> Mask:
    """Return which of ``points`` [height, width, 3] are behind others for the colour camera, a z-buffer apart.

    The buffer's cells have the size of a depth pixel, as an angle, and each point covers the four around it: the
    surface of a thing that the colour camera is closer to, up to half the distance, has no gaps.
    """
    known = np.isfinite(points[:, :, 2])
    hidden = np.zeros(known.shape, np.bool_)
    x, y, z = points[known].T
    corner = np.stack([x / z, y / z], axis=1) / pixel - 0.5
    near = (np.abs(corner) < _WIDEST / pixel).all(axis=1)
    if not near.any():
        return hidden
    cells = np.floor(corner[near]).astype(np.int64)
    cells -= cells.min(axis=0)
    columns, rows = cells.max(axis=0) + 2
    z = z[near]
    buffer = np.full(int(columns * rows), np.inf, np.float32)
    around = [cells[:, 0] + across + (cells[:, 1] + down) * columns for across in (0, 1) for down in (0, 1)]
    for cell in around:
        np.minimum.at(buffer, cell, z)
    nearest = np.max([buffer[cell] for cell in around], axis=0)
    of_near = np.zeros(near.shape, np.bool_)
    of_near[near] = z - nearest > jump(z, pixel)
    hidden[known] = of_near
    return hidden
