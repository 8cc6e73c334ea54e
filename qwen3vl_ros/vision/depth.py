"""Where the things of an answer are, in metres, from a depth picture.

A depth camera sees surfaces, and of a thing only the side that faces it. What is told apart, and how:

*The thing from the rest.* Planes that go on around the box (a table, the floor, a wall) are taken away. What is left
falls apart where depth jumps. Of these pieces, the thing is the one that the box fits best: a wall behind or a hand in
front also show in the box, but end somewhere else.

*Its centre from its surface.* A thing is taken to be the same on its hidden side as on the visible one, mirrored at
its centre, which boxes, balls, cylinders and most of what people make are. Its centre then lies in the middle of what
is seen of it, across the line of sight. How far along that line: where it stands on one of the planes, at half of its
height above that plane; else, with nothing but its own surface to go by, it is taken to be as deep as it is wide. A
thing that does not stand out from its plane, such as a sheet of paper or a poster, is that part of the plane.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.vision.region import Box, Point, Region, Vector

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

NO_DEPTH: Final = "NO_DEPTH: "
"""What every ``position_error`` begins with."""

# encoding -> numpy sample type, metres per unit (REP 118)
_ENCODINGS: Final = {"16UC1": ("u2", 0.001), "32FC1": ("f4", 1.0)}
# distortion model (REP 104) -> numbers of coefficients that OpenCV has for it
_MODELS: Final = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}

_FEWEST_POINTS: Final = 12
"""Fewer points make no thing: a centre and a size of less than 4 x 3 pixels would be noise."""

_POINT_RADIUS: Final = 2.5
"""Around a point, this far, in pixels of whichever picture has the larger ones, depth is read."""

_SURROUNDINGS: Final = 0.5
"""How far beside a box its surroundings reach, as a share of the box's size."""

_LEAST_SURROUNDINGS: Final = 12.0
"""And at least so many pixels: a table needs to be seen to be recognised."""

_LOOSE: Final = 0.1
"""How far a thing may reach out of its box, as a share of the box's size: boxes are a model's guess."""

_JUMP: Final = (6.0, 0.005)
"""Neighbours belong to one surface if their depth differs by less than these many pixel widths plus this share of it.

Six pixel widths: surfaces that are seen under more than 10 degrees. Half a percent: the noise of depth cameras.
"""

_CUTS: Final = (1.0, 0.5, 0.25)
"""Shares of :data:`_JUMP` to cut by: coarse for noise and steep surfaces, fine for things that nearly touch."""

_HOLE: Final = 2.5
"""Pixels without depth that are no farther from one with depth, in pixels, do not cut a surface in two."""

_LEAST_FIT: Final = 0.15
"""A piece whose rectangle overlaps the box by less than this (intersection over union) is something else."""

_GOOD_FIT: Final = 0.6
"""A piece that fits the box worse hangs together with something else: only what is in the box is the thing."""

_PLANE_SHARE: Final = 0.15
"""A plane has at least this share of the surroundings."""
_MOST_PLANES: Final = 3
_PLANE_DRAWS: Final = 300
"""Three points each: finds a plane of 15 % with a probability of 64 %, one of 25 % with 99 %."""
_PLANE_SAMPLE: Final = 1000
_PLANE_TOLERANCE: Final = (0.003, 0.01)
"""How far from a plane its points may be at least and at most, as a share of their depth; between, noise decides."""

_OUTLIERS: Final = 0.3
"""Percent of a thing's points on either side that do not count for its size: points between two surfaces."""

_CORE: Final = 5.0
"""Percent of a thing's points, those nearest to the line of sight through its middle, that say how far its front is."""

_ACROSS: Final = 8
"""Directions across the line of sight in which the middle of a thing is looked for."""

_LEAST_SLOPE: Final = 0.25
"""Sine of the angle (14 degrees) below which the line of sight grazes a plane too much to be cut with it."""
_STRAIGHT: Final = 0.96
"""Sine of the angle (74 degrees) above which a plane is looked at straight, so that a thing hides its own foot."""
_HOVER: Final = 0.15
"""How far above its plane a thing's lowest visible point may be, as a share of its height, more than a ball's is."""
_TALLEST: Final = 2.0
"""A thing that hides its own foot is no taller than this many times its least width."""


class _NoDepth(Exception):
    """Why there is no position, as a sentence."""


def locate(
    regions: Sequence[Region],
    depth: ImageMessage,
    depth_info: CameraInfo,
    colour_info: CameraInfo,
    colour_from_depth: NDArray[np.float64] | None = None,
) -> tuple[Region, ...]:
    """``regions`` with ``position`` and ``extent``, or with a ``position_error`` that begins with :data:`NO_DEPTH`.

    Positions and extents are in metres in the colour camera's optical frame (x right, y down, z forward).

    - A region with a box or a polygon is a thing. ``position`` is the centre of the whole thing, not of its visible
      surface, and ``extent`` the size of the whole thing along the three axes; both rest on the assumptions at the top
      of this file. The polygon, where there is one, says which pixels may belong to it. What is cut off by the edge
      of the depth picture, or hidden by something else, does not count: centre and size are those of the rest.
    - A region with a point only is that spot of the surface: there is no extent.

    ``depth`` is 16UC1 (millimetres, 0 for none) or 32FC1 (metres; NaN, infinity and 0 for none), along the depth
    camera's optical axis (REP 118). ``colour_from_depth`` [4, 4] takes points from the depth camera's optical frame
    to the colour camera's; None says that the two are one (depth that is registered to colour), even if size and
    calibration of the pictures differ. ``depth`` is to be of the same moment as the picture that the regions are of.

    Of a CameraInfo, K and D are used, with ``binning`` and ``roi`` (REP 104); they describe the picture as the camera
    delivers it. R and P, which describe the rectified one, are not: with a rectified picture pass a CameraInfo whose K
    is the left part of P and whose D is empty.

    Raises nothing for what is in messages; ``colour_from_depth`` must be a rigid transform.
    """
    try:
        view = _view(depth, depth_info, colour_info, colour_from_depth)
    except _NoDepth as error:
        return tuple(_without(region, error) for region in regions)
    return tuple(_located(region, view) for region in regions)


def _located(region: Region, view: _View) -> Region:
    try:
        extent: Array | None = None
        if region.polygon:
            box = _box_of(region.polygon)
            centre, extent = _thing(view, _checked(box), region.polygon)
        elif region.box is not None:
            centre, extent = _thing(view, _checked(region.box), ())
        elif region.point is not None:
            centre = _surface(view, region.point)
        else:
            raise _NoDepth("the region has neither a box nor a point.")
    except _NoDepth as error:
        return _without(region, error)
    return replace(
        region, position=_vector(centre), extent=None if extent is None else _vector(extent), position_error=""
    )


def _without(region: Region, error: _NoDepth) -> Region:
    return replace(region, position=None, extent=None, position_error=f"{NO_DEPTH}{error}")


def _vector(array: Array) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])


def _box_of(polygon: Sequence[Point]) -> Box:
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _checked(box: Box) -> Box:
    left, top, right, bottom = box
    if not (np.isfinite(box).all() and left < right and top < bottom):
        raise _NoDepth(f"the box {_numbers(box)} has no area.")
    return box


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


# --- Cameras: pixels to rays and back. Pixels are those of a Region: (0, 0) is the corner of the first one.


@dataclass(frozen=True, slots=True)
class _Lens:
    """What a CameraInfo says: focal lengths and principal point in pixels of the picture, and the distortion.

    ``size`` is the picture's (width, height), (0, 0) where the CameraInfo does not say.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    model: str
    d: tuple[float, ...]
    size: tuple[int, int]

    def project(self, rays: Array) -> Array:
        """Pixels [n, 2] of rays [n, 2] (x/z, y/z)."""
        bent: Any = rays
        if self.d and len(rays) and self.model == "equidistant":
            bent = cv2.fisheye.distortPoints(rays[:, None], np.eye(3), np.array(self.d))[:, 0]
        elif self.d and len(rays):
            xyz = np.column_stack([rays, np.ones(len(rays))])
            bent = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), np.eye(3), np.array(self.d))[0][:, 0]
        pixels: Array = bent * (self.fx, self.fy) + (self.cx, self.cy)
        return pixels

    def rays(self, pixels: Array) -> Array:
        """Rays [n, 2] (x/z, y/z) of pixels [n, 2]; NaN where the lens has none, far outside of the picture."""
        bent: Array = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        if not self.d:
            return bent
        enough = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)
        if self.model == "equidistant":
            found: Any = cv2.fisheye.undistortPoints(bent[:, None], np.eye(3), np.array(self.d), criteria=enough)
        else:
            found = cv2.undistortPointsIter(bent[:, None], np.eye(3), np.array(self.d), np.eye(3), np.eye(3), enough)
        rays: Array = found.reshape(-1, 2)
        # Beyond the angle where a distortion model turns back, the search ends anywhere: believe what leads back.
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = ~(np.abs(self.project(rays) - pixels).max(axis=1) < 0.1)
        rays[wrong] = np.nan
        return rays


def _lens(info: CameraInfo, which: str) -> _Lens:
    k = [float(number) for number in info.k]
    if not any(k):
        raise _NoDepth(f"the {which} camera has no camera_info, or one without calibration: its K is all zero.")
    if not (np.isfinite(k).all() and k[0] > 0 and k[4] > 0):
        raise _NoDepth(f"the K of the {which} camera's camera_info has the focal lengths {k[0]:g} and {k[4]:g}.")
    d = tuple(float(number) for number in info.d)
    if any(d):
        counts = _MODELS.get(info.distortion_model)
        if counts is None:
            raise _NoDepth(
                f"the {which} camera's distortion model '{info.distortion_model}' is not supported; "
                f"supported are {', '.join(_MODELS)}."
            )
        if len(d) not in counts or not np.isfinite(d).all():
            raise _NoDepth(
                f"the {which} camera's camera_info has the distortion {_numbers(d)}; the model "
                f"{info.distortion_model} has {' or '.join(map(str, counts))} finite numbers."
            )
    roi, across, down = info.roi, info.binning_x or 1, info.binning_y or 1
    # K has (0, 0) in the middle of the first pixel of the whole sensor.
    return _Lens(
        fx=k[0] / across,
        fy=k[4] / down,
        cx=(k[2] + 0.5 - roi.x_offset) / across,
        cy=(k[5] + 0.5 - roi.y_offset) / down,
        model=info.distortion_model,
        d=d if any(d) else (),
        size=((roi.width or info.width) // across, (roi.height or info.height) // down),
    )


@lru_cache(maxsize=4)
def _rays_of_all_pixels(lens: _Lens, width: int, height: int) -> NDArray[np.float32]:
    """The ray through the middle of every pixel: [height, width, 2]. A camera's are the same for every picture."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = lens.rays(np.stack([columns.ravel(), rows.ravel()], axis=1)).astype(np.float32)
    rays.flags.writeable = False
    return rays.reshape(height, width, 2)


def _metres(depth: ImageMessage) -> NDArray[np.float32]:
    """Depth [height, width] in metres, NaN for none."""
    if depth.encoding not in _ENCODINGS:
        raise _NoDepth(
            f"the depth picture's encoding '{depth.encoding}' is not one of {' and '.join(_ENCODINGS)} (REP 118)."
        )
    sample, unit = _ENCODINGS[depth.encoding]
    dtype = np.dtype(sample).newbyteorder(">" if depth.is_bigendian else "<")
    height, width, step = depth.height, depth.width, depth.step
    what = f"the {depth.encoding} depth picture of {width}x{height} pixels"
    if not width or not height:
        raise _NoDepth(f"{what} is empty.")
    data = np.frombuffer(depth.data, np.uint8)
    if step < width * dtype.itemsize or len(data) < height * step:
        raise _NoDepth(f"{what} has step {step} and {len(data)} bytes of data, which is too little.")
    samples: NDArray[Any] = np.ndarray((height, width), dtype, data, strides=(step, dtype.itemsize))
    metres: NDArray[np.float32] = samples.astype(np.float32) * np.float32(unit)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


@dataclass(frozen=True, slots=True)
class _View:
    """A depth picture as the colour camera would see it. Arrays are [height, width, ...] of the depth picture.

    ``points`` [..., 3] are in metres in the colour camera's optical frame and ``rays`` [..., 2] their x/z and y/z;
    NaN where there is no depth. ``pixel`` is the size of a depth pixel, as an angle.
    """

    points: NDArray[np.float32]
    rays: NDArray[np.float32]
    lens: _Lens
    pixel: float
    depth_lens: _Lens
    depth_from_colour: Array

    def part(self, box: Box) -> tuple[Array, Array]:
        """Points [h, w, 3] and where the colour picture has them [h, w, 2], of the part that shows ``box``."""
        low, high = self._span(box)
        x, y = self.rays[:, :, 0], self.rays[:, :, 1]
        with np.errstate(invalid="ignore"):
            inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            raise _NoDepth(self.why_nothing(box))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        points = np.where(inside[part][:, :, None], self.points[part], np.nan).astype(np.float64)
        pixels = np.full((*points.shape[:2], 2), np.nan)
        pixels[inside[part]] = self.lens.project(self.rays[part][inside[part]].astype(np.float64))
        return points, pixels

    def _span(self, box: Box) -> tuple[Array, Array]:
        """The least and greatest x/z and y/z in ``box``: those of its outline, which distortion bends."""
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
            raise _NoDepth(f"the box {_numbers(box)} lies outside of the colour picture.")
        return rays.min(axis=0), rays.max(axis=0)

    def why_nothing(self, box: Box) -> str:
        """Why no point is seen in ``box``, as the rest of a sentence: judged at the distance of most of the picture."""
        middle = self.lens.rays(np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]]))[0]
        distance = float(np.nanmedian(self.points[:, :, 2]))
        x, y, z = (self.depth_from_colour @ np.array([*(middle * distance), distance, 1.0]))[:3]
        height, width = self.points.shape[:2]
        if z > 0:
            (column, row), *_ = self.depth_lens.project(np.array([[x / z, y / z]]))
            if 0 <= column < width and 0 <= row < height:
                return f"the depth picture has no valid depth in the box {_numbers(box)}."
        return f"the box {_numbers(box)} lies outside of what the depth picture shows."


def _view(
    depth: ImageMessage, depth_info: CameraInfo, colour_info: CameraInfo, colour_from_depth: Array | None
) -> _View:
    depth_lens, lens = _lens(depth_info, "depth"), _lens(colour_info, "colour")
    z = _metres(depth)
    height, width = z.shape
    if depth_lens.size not in ((0, 0), (width, height)):
        raise _NoDepth(
            f"the depth picture has {width}x{height} pixels, but by its camera_info it should have "
            f"{depth_lens.size[0]}x{depth_lens.size[1]}."
        )
    if np.isnan(z).all():
        raise _NoDepth(f"the depth picture of {width}x{height} pixels has no valid depth anywhere.")
    rays: NDArray[Any] = _rays_of_all_pixels(depth_lens, width, height)
    points: NDArray[Any] = np.dstack([rays * z[:, :, None], z])
    transform = np.eye(4) if colour_from_depth is None else np.asarray(colour_from_depth, np.float64)
    if colour_from_depth is not None:
        points = (points @ transform[:3, :3].T + transform[:3, 3]).astype(np.float32)
    points[~(points[:, :, 2] > 0)] = np.nan
    if colour_from_depth is None:
        rays = np.where(np.isnan(points[:, :, :1]), np.float32(np.nan), rays)
    else:
        rays = points[:, :, :2] / points[:, :, 2:]
    pixel = float(1 / np.sqrt(depth_lens.fx * depth_lens.fy))
    return _View(points, rays, lens, pixel, depth_lens, np.linalg.inv(transform).astype(np.float64))


# --- A spot of a surface


def _surface(view: _View, point: Point) -> Array:
    """The surface [3] at ``point``."""
    if not np.isfinite(point).all():
        raise _NoDepth(f"the point {_numbers(point)} is not in the picture.")
    radius = _POINT_RADIUS * max(1.0, view.pixel * float(np.sqrt(view.lens.fx * view.lens.fy)))
    x, y = point
    try:
        points, pixels = view.part((x - radius, y - radius, x + radius, y + radius))
    except _NoDepth as error:
        raise _NoDepth(f"around the point {_numbers(point)}: {error}") from error
    known = np.isfinite(points[:, :, 2])
    offsets, z = pixels[known] - point, points[known][:, 2]
    nearest = z[np.argmin(np.hypot(*offsets.T))]
    same = np.abs(z - nearest) < _jump(nearest, view.pixel)
    # 1 / z of a plane is linear in undistorted pixels: exact on flat surfaces however they are turned. Relative to
    # the mean, so that where there are too few points for a slope, lstsq's shortest solution has none.
    offsets, inverse = offsets[same], 1 / z[same]
    slope = np.linalg.lstsq(offsets - offsets.mean(axis=0), inverse - inverse.mean(), rcond=1e-6)[0]
    at_point = float(inverse.mean() - slope @ offsets.mean(axis=0))
    distance = 1 / float(np.clip(at_point, inverse.min(), inverse.max()))
    ray = view.lens.rays(np.array([point], np.float64))[0]
    if not np.isfinite(ray).all():
        raise _NoDepth(f"the point {_numbers(point)} is not in the picture.")
    return np.array([*(ray * distance), distance])


def _jump(z: Any, pixel: float) -> Any:
    """The difference in depth, metres, from which on two neighbours at depth ``z`` are two surfaces."""
    return (_JUMP[0] * pixel + _JUMP[1]) * z


# --- A thing


@dataclass(frozen=True, slots=True)
class _Plane:
    """The points p with normal @ p + offset = 0; the normal [3], of length 1, points to the camera's side."""

    normal: Array
    offset: float
    tolerance: float

    def height(self, points: Array) -> Array:
        """Metres above the plane [...], of points [..., 3]."""
        heights: Array = points @ self.normal + self.offset
        return heights

    def has(self, points: Array) -> Mask:
        """Which points [..., 3] lie on the plane."""
        with np.errstate(invalid="ignore"):
            on: Mask = np.abs(self.height(points)) <= self.tolerance * points[..., 2]
        return on


def _thing(view: _View, box: Box, polygon: Sequence[Point]) -> tuple[Array, Array]:
    """Centre [3] and extent [3] of the thing in ``box``."""
    points, pixels = view.part(_grown(box, _SURROUNDINGS, _LEAST_SURROUNDINGS))
    z = points[:, :, 2]
    known = np.isfinite(z)
    inside = _in_box(pixels, box) & known
    if polygon:
        inside &= _in_polygon(pixels, polygon)
    if not inside.any():
        raise _NoDepth(view.why_nothing(box))
    if inside.sum() < _FEWEST_POINTS:
        raise _NoDepth(f"the box {_numbers(box)} has only {inside.sum()} pixels of valid depth in it.")
    planes = _planes(points[known & ~_in_box(pixels, _grown(box, _LOOSE / 2))])
    nearest, filled = _without_holes(known)
    surface = z[nearest]
    on_planes = [plane.has(points)[nearest] & filled for plane in planes]
    backdrop = [_goes_on(_pieces(surface, on, view.pixel), _in_box(pixels, box)) for on in on_planes]
    half = 0.5 * view.pixel * float(np.sqrt(view.lens.fx * view.lens.fy))
    standing_out = filled & ~np.any(backdrop, axis=0) if backdrop else filled
    cuts = (_pieces(surface, standing_out, view.pixel, cut) * known for cut in _CUTS)
    piece, fit = _piece(cuts, pixels, inside, box, half)
    if piece is None:
        return _flat_thing(points, pixels, inside, planes, box, half)
    piece &= inside if polygon or fit < _GOOD_FIT else _in_box(pixels, _grown(box, _LOOSE))
    return _complete(points[piece], planes)


def _grown(box: Box, share: float, least: float = 0.0) -> Box:
    left, top, right, bottom = box
    across, down = max(share * (right - left), least), max(share * (bottom - top), least)
    return left - across, top - down, right + across, bottom + down


def _in_box(pixels: Array, box: Box) -> Mask:
    with np.errstate(invalid="ignore"):
        return cast(Mask, ((pixels >= box[:2]) & (pixels <= box[2:])).all(axis=-1))


def _in_polygon(pixels: Array, polygon: Sequence[Point]) -> Mask:
    """Which pixels [h, w, 2] a horizontal line from far left reaches after an odd number of the polygon's edges."""
    x, y = pixels[:, :, 0], pixels[:, :, 1]
    inside = np.zeros(x.shape, np.bool_)
    with np.errstate(invalid="ignore"):
        for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
            if y1 != y2:
                inside ^= ((y1 <= y) != (y2 <= y)) & (x1 + (y - y1) * (x2 - x1) / (y2 - y1) < x)
    return inside


def _planes(points: Array) -> list[_Plane]:
    """The large planes among ``points`` [n, 3]: RANSAC, largest first, each without the points of those before."""
    random = np.random.default_rng(0)  # equal pictures have equal answers
    fewest = max(3 * _FEWEST_POINTS, _PLANE_SHARE * min(len(points), _PLANE_SAMPLE))
    rest = points[random.permutation(len(points))[:_PLANE_SAMPLE]]
    planes: list[_Plane] = []
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
        # Not how many points are near, but how near: a plane beats a slab that holds more points.
        best = apart[:, np.argmax(np.maximum(1 - apart, 0).sum(axis=0))] <= 1
        if best.sum() < fewest:
            break
        planes.append(_fitted(rest[best]))
        rest = rest[~planes[-1].has(rest)]
    return planes


def _fitted(points: Array) -> _Plane:
    """The plane through ``points`` [n, 3], with a tolerance of four times their noise."""
    for _ in range(3):
        middle = points.mean(axis=0)
        normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
        offset = -float(normal @ middle)
        if offset < 0:
            normal, offset = -normal, -offset
        distances = np.abs(points @ normal + offset) / points[:, 2]
        tolerance = float(np.clip(4 * 1.4826 * np.median(distances), *_PLANE_TOLERANCE))
        points = points[distances <= tolerance]
    return _Plane(normal, offset, tolerance)


def _without_holes(known: Mask) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], Mask]:
    """For each pixel [h, w] the row and column of the nearest known one, and whether that is near enough to stand in.

    So that what a few missing pixels cut through does not fall apart.
    """
    distance, numbers = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(known)
    where = np.zeros(int(numbers.max()) + 1, np.intp)
    where[numbers[rows, columns]] = np.arange(len(rows))
    filled: Mask = distance <= _HOLE
    return (rows[where[numbers]], columns[where[numbers]]), filled


def _pieces(z: Array, usable: Mask, pixel: float, cut: float = 1.0) -> NDArray[np.int32]:
    """The number of the piece that each pixel [h, w] belongs to, 0 for none: neighbours without a jump in depth."""
    height, width = z.shape
    # Between any two pixels a cell that is open if they belong together, so that OpenCV can find what is connected.
    cells = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    with np.errstate(invalid="ignore"):
        cells[::2, ::2] = usable
        cells[::2, 1::2] = np.abs(np.diff(z, axis=1)) < _jump(np.minimum(z[:, 1:], z[:, :-1]), pixel) * cut
        cells[1::2, ::2] = np.abs(np.diff(z, axis=0)) < _jump(np.minimum(z[1:], z[:-1]), pixel) * cut
    cells[::2, 1::2] &= cells[::2, :-1:2] & cells[::2, 2::2]
    cells[1::2, ::2] &= cells[:-1:2, ::2] & cells[2::2, ::2]
    return cast(NDArray[np.int32], cv2.connectedComponents(cells, connectivity=4)[1][::2, ::2])


def _goes_on(pieces: NDArray[np.int32], in_box: Mask) -> Mask:
    """Those of a plane's ``pieces`` [h, w] that are mostly outside: the rest is where it happens to cut the thing."""
    counts, outside = (np.bincount(pieces[which], minlength=pieces.max() + 1) for which in (pieces >= 0, ~in_box))
    goes_on = 2 * outside >= counts
    goes_on[0] = False
    return goes_on[pieces]


def _piece(
    cuts: Iterable[NDArray[np.int32]], pixels: Array, inside: Mask, box: Box, half: float
) -> tuple[Mask | None, float]:
    """The piece [h, w] whose rectangle fits ``box`` best, and how well it does; None if none fits at all.

    ``half``: of a depth pixel's width, in pixels of the box.
    """
    best: Mask | None = None
    best_fit = _LEAST_FIT
    for pieces in cuts:
        counts = np.bincount(pieces[inside], minlength=1)
        counts[0] = 0
        for number in np.flatnonzero(counts >= max(_FEWEST_POINTS, 0.02 * inside.sum())):
            piece = pieces == number
            seen = pixels[piece]
            fit = _overlap((*(seen.min(axis=0) - half), *(seen.max(axis=0) + half)), box)
            if fit > best_fit:
                best, best_fit = piece, fit
    return best, best_fit


def _overlap(one: Sequence[float], other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return both / (sum(areas) - both)


def _flat_thing(
    points: Array, pixels: Array, inside: Mask, planes: Sequence[_Plane], box: Box, half: float
) -> tuple[Array, Array]:
    """Centre and extent of a thing that does not stand out from the plane that it is on."""
    counts = [int((plane.has(points) & inside).sum()) for plane in planes]
    if not counts or max(counts) < 0.5 * inside.sum():
        raise _NoDepth(f"nothing in the box {_numbers(box)} stands out in depth.")
    plane = planes[int(np.argmax(counts))]
    core = _grown(box, -0.25)
    pixels_in_core = (core[2] - core[0]) * (core[3] - core[1]) / (2 * half) ** 2
    if (plane.has(points) & _in_box(pixels, core)).sum() < 0.5 * pixels_in_core:
        raise _NoDepth(f"the middle of the box {_numbers(box)} has hardly any valid depth: is it glass, or shiny?")
    seen = points[inside & plane.has(points)]
    middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
    return middle - plane.height(middle) * plane.normal, np.ptp(seen, axis=0)


def _complete(points: Array, planes: Sequence[_Plane]) -> tuple[Array, Array]:
    """Centre [3] and extent [3] of the whole thing whose visible ``points`` [n, 3] are given."""
    centre = points.mean(axis=0)
    ground = _ground(points, planes)
    if ground is not None:
        # What touches the plane was taken away with it.
        height = ground.height(points)
        low = points[height < 3 * ground.tolerance * points[:, 2]]
        points = np.concatenate([points, low - ground.height(low)[:, None] * ground.normal])
    for _ in range(3):
        ahead = centre / np.linalg.norm(centre)
        across = _directions_across(ahead)
        near, far = _span(points @ across.T)
        middle = np.linalg.lstsq(across, (near + far) / 2, rcond=None)[0]
        if ground is None:
            along = points @ ahead
            beside = np.linalg.norm(points - along[:, None] * ahead - middle, axis=1)
            surface = np.median(along[beside <= np.percentile(beside, _CORE)])
            distance = max(surface + (far - near).min() / 2, _span(along).mean())
        else:
            _, top = _span(ground.height(points))
            distance = (top / 2 - ground.height(middle)) / (ground.normal @ ahead)
        centre = middle + distance * ahead
    return centre, 2 * np.percentile(np.abs(points - centre), 100 - _OUTLIERS, axis=0)


def _span(values: Array) -> Any:
    """The least and the greatest of ``values`` [n, ...] without outliers: [2, ...]."""
    return np.percentile(values, (_OUTLIERS, 100 - _OUTLIERS), axis=0)


def _directions_across(ahead: Array) -> Array:
    """Unit vectors [_ACROSS, 3] all around, at right angles to the unit vector ``ahead`` [3]."""
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    angles = np.arange(_ACROSS)[:, None] * np.pi / _ACROSS
    return cast(Array, np.cos(angles) * right + np.sin(angles) * down)


def _ground(points: Array, planes: Sequence[_Plane]) -> _Plane | None:
    """The plane that a thing with these visible ``points`` [n, 3] stands on, leans or hangs at, if it does."""
    ahead = points.mean(axis=0)
    distance = float(np.linalg.norm(ahead))
    ahead /= distance
    best, best_gap = None, _HOVER
    for plane in planes:
        slope = -float(plane.normal @ ahead)
        bottom, top = _span(plane.height(points))
        if slope < _LEAST_SLOPE or top <= 0 or bottom < -plane.tolerance * distance:
            continue  # seen too flat, or it cuts the thing
        # How high the lowest point of a ball is that can be seen. A box or an upright cylinder shows its foot.
        gap = float(bottom / top) - (1 - np.sqrt(1 - min(slope, 1.0) ** 2)) / 2
        if slope > _STRAIGHT:
            near, far = _span(points @ _directions_across(ahead).T)
            gap = 0.0 if top <= _TALLEST * (far - near).min() else gap
        if gap < best_gap:
            best, best_gap = plane, gap
    return best
