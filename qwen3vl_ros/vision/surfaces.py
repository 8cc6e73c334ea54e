"""Segments depth: finds planes, and splits the rest into pieces at jumps in depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.vision.camera_model import Array

Mask: TypeAlias = NDArray[np.bool_]

_JUMP: Final = (6.0, 0.005)
"""Neighbours belong to one surface if their depth differs by less than this many pixel widths plus this share of it.

Six pixel widths: surfaces seen at an angle of more than 10 degrees. Half a percent: the noise of depth cameras.
"""

_HOLE: Final = 2.5
"""A pixel without depth at most this many pixels from one with depth does not split a surface."""

_PLANE_SHARE: Final = 0.15
"""Least share of the surroundings that a plane covers."""
_MOST_PLANES: Final = 3
_PLANE_DRAWS: Final = 300
"""RANSAC draws of three points: they find a plane of 15 % with a probability of 64 %, one of 25 % with 99 %."""
_PLANE_SAMPLE: Final = 1000
_PLANE_TOLERANCE: Final = (0.003, 0.01)
"""Least and greatest tolerance of a plane, as a share of its points' depth; their noise decides in between."""

FEWEST_POINTS: Final = 12
"""Least number of points of an object: centre and size of less than 4 x 3 pixels would be noise."""


def jump(z: Any, pixel: float) -> Any:
    """Return the difference in depth, in metres, above which neighbours at depth ``z`` belong to two surfaces."""
    return (_JUMP[0] * pixel + _JUMP[1]) * z


@dataclass(frozen=True, slots=True)
class Plane:
    """The points p with normal @ p + offset = 0; the unit normal [3] points towards the camera."""

    normal: Array
    offset: float
    tolerance: float

    def height(self, points: Array) -> Array:
        """Return the heights [...] in metres of ``points`` [..., 3] above the plane."""
        heights: Array = points @ self.normal + self.offset
        return heights

    def has(self, points: Array) -> Mask:
        """Return which of ``points`` [..., 3] are on the plane."""
        with np.errstate(invalid="ignore"):
            on: Mask = np.abs(self.height(points)) <= self.tolerance * points[..., 2]
        return on


def planes_in(points: Array) -> list[Plane]:
    """Find large planes among ``points`` [n, 3] by RANSAC, largest first, each without the points of earlier ones."""
    random = np.random.default_rng(0)  # fixed seed: the same image gives the same result
    fewest = max(3 * FEWEST_POINTS, _PLANE_SHARE * min(len(points), _PLANE_SAMPLE))
    rest = points[random.permutation(len(points))[:_PLANE_SAMPLE]]
    planes: list[Plane] = []
    while len(planes) < _MOST_PLANES and len(rest) >= fewest:
        first, second, third = rest[random.integers(len(rest), size=(3, _PLANE_DRAWS))]
        normals = np.cross(second - first, third - first)
        lengths = np.linalg.norm(normals, axis=1)
        first, normals = first[lengths > 0], normals[lengths > 0] / lengths[lengths > 0, None]
        if not len(normals):
            break
        candidates = np.column_stack([normals, -(first * normals).sum(axis=1)])
        relative = np.column_stack([rest, np.ones(len(rest))]) / rest[:, 2:]  # distances as shares of the depth
        apart = np.abs(relative.astype(np.float32) @ candidates.T.astype(np.float32)) / _PLANE_TOLERANCE[1]
        # Weight points by closeness instead of counting them, so that a plane beats a slab with more points in it.
        best = apart[:, np.argmax(np.maximum(1 - apart, 0).sum(axis=0))] <= 1
        if best.sum() < fewest:
            break
        planes.append(_fitted(rest[best]))
        rest = rest[~planes[-1].has(rest)]
    return planes


def _fitted(points: Array) -> Plane:
    """Fit a plane to ``points`` [n, 3], with a tolerance of four times their noise."""
    for _ in range(3):
        middle = points.mean(axis=0)
        normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
        offset = -float(normal @ middle)
        if offset < 0:
            normal, offset = -normal, -offset
        distances = np.abs(points @ normal + offset) / points[:, 2]
        tolerance = float(np.clip(4 * 1.4826 * np.median(distances), *_PLANE_TOLERANCE))
        points = points[distances <= tolerance]
    return Plane(normal, offset, tolerance)


def without_holes(known: Mask) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], Mask]:
    """Find the nearest known pixel of each pixel, so that a few missing pixels do not split a surface.

    Returns:
        Row and column of the nearest known pixel, each [h, w], and a mask [h, w] of pixels that it may replace.
    """
    distance, numbers = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(known)
    where = np.zeros(int(numbers.max()) + 1, np.intp)
    where[numbers[rows, columns]] = np.arange(len(rows))
    filled: Mask = distance <= _HOLE
    return (rows[where[numbers]], columns[where[numbers]]), filled


def pieces_of(z: Array, usable: Mask, pixel: float, cut: float = 1.0) -> NDArray[np.int32]:
    """Label pieces, neighbours without a jump in depth: return each pixel's piece [h, w], 0 for none."""
    height, width = z.shape
    # Insert a cell between any two pixels, set if they belong together, for OpenCV's connected components.
    cells = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    with np.errstate(invalid="ignore"):
        cells[::2, ::2] = usable
        cells[::2, 1::2] = np.abs(np.diff(z, axis=1)) < jump(np.minimum(z[:, 1:], z[:, :-1]), pixel) * cut
        cells[1::2, ::2] = np.abs(np.diff(z, axis=0)) < jump(np.minimum(z[1:], z[:-1]), pixel) * cut
    cells[::2, 1::2] &= cells[::2, :-1:2] & cells[::2, 2::2]
    cells[1::2, ::2] &= cells[:-1:2, ::2] & cells[2::2, ::2]
    return cast(NDArray[np.int32], cv2.connectedComponents(cells, connectivity=4)[1][::2, ::2])


def goes_on(pieces: NDArray[np.int32], in_box: Mask) -> Mask:
    """Return which of a plane's ``pieces`` [h, w] are mostly outside the box; in the others it cuts the object."""
    counts, outside = (np.bincount(pieces[which], minlength=pieces.max() + 1) for which in (pieces >= 0, ~in_box))
    goes_on = 2 * outside >= counts
    goes_on[0] = False
    return goes_on[pieces]
