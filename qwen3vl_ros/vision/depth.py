"""Where the things of an answer are, in metres, from a depth image.

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
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.vision.camera_model import Array, numbers
from qwen3vl_ros.vision.depth_view import DepthView, NoDepth, view_of
from qwen3vl_ros.vision.region import Box, Point, Region, Vector
from qwen3vl_ros.vision.surfaces import FEWEST_POINTS, Mask, Plane, goes_on, jump, pieces_of, planes_in, without_holes

NO_DEPTH: Final = "NO_DEPTH: "
"""What every ``position_error`` begins with."""

_POINT_RADIUS: Final = 2.5
"""Around a point, this far, in pixels of whichever image has the larger ones, depth is read."""

_SURROUNDINGS: Final = 0.5
"""How far beside a box its surroundings reach, as a share of the box's size."""

_LEAST_SURROUNDINGS: Final = 12.0
"""And at least so many pixels: a table needs to be seen to be recognised."""

_LOOSE: Final = 0.1
"""How far a thing may reach out of its box, as a share of the box's size: boxes are a model's guess."""

_CUTS: Final = (1.0, 0.5, 0.25)
"""Shares of a jump in depth to cut by: coarse for noise and steep surfaces, fine for things that nearly touch."""

_LEAST_FIT: Final = 0.15
"""A piece whose rectangle overlaps the box by less than this (intersection over union) is something else."""

_GOOD_FIT: Final = 0.6
"""A piece that fits the box worse hangs together with something else: only what is in the box is the thing."""

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


def locate(
    regions: Sequence[Region],
    depth: ImageMessage,
    depth_info: CameraInfo,
    colour_info: CameraInfo,
    colour_size: tuple[int, int] | None = None,
    colour_from_depth: NDArray[np.float64] | None = None,
) -> tuple[Region, ...]:
    """``regions`` with ``position`` and ``extent``, or with a ``position_error`` that begins with :data:`NO_DEPTH`.

    Positions and extents are in metres in the colour camera's optical frame (x right, y down, z forward).

    - A region with a box or a polygon is a thing. ``position`` is the centre of the whole thing, not of its visible
      surface, and ``extent`` the size of the whole thing along the three axes; both rest on the assumptions at the top
      of this file. The polygon, where there is one, says which pixels may belong to it. What is cut off by the edge
      of the depth image, or hidden by something else, does not count: centre and size are those of the rest.
    - A region with a point only is that spot of the surface: there is no extent.

    ``depth`` is 16UC1 (millimetres, 0 for none) or 32FC1 (metres; NaN, infinity and 0 for none), along the depth
    camera's optical axis (REP 118). ``colour_from_depth`` [4, 4] takes points from the depth camera's optical frame
    to the colour camera's; None says that the two are one (depth that is registered to colour), even if size and
    calibration of the images differ. ``depth`` is to be of the same moment as the image that the regions are of.

    ``colour_size`` is the (width, height) of the image that the regions are of; None says that of ``colour_info``. A
    CameraInfo of an image of another size counts for one of the same aspect ratio, scaled: where a driver or a node
    resized the image and passed on the calibration. Another aspect ratio is NO_DEPTH.

    Of a CameraInfo, K and D are used, with ``binning`` and ``roi`` (REP 104); they describe the image as the camera
    delivers it. R and P, which describe the rectified one, are not: with a rectified image pass a CameraInfo whose K
    is the left part of P and whose D is empty.

    Raises nothing for what is in messages; ``colour_from_depth`` must be a rigid transform.
    """
    try:
        view = view_of(depth, depth_info, colour_info, colour_size, colour_from_depth)
    except NoDepth as error:
        return tuple(_without(region, error) for region in regions)
    return tuple(_located(region, view) for region in regions)


def _located(region: Region, view: DepthView) -> Region:
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
            raise NoDepth("the region has neither a box nor a point.")
    except NoDepth as error:
        return _without(region, error)
    return replace(
        region, position=_vector(centre), extent=None if extent is None else _vector(extent), position_error=""
    )


def _without(region: Region, error: NoDepth) -> Region:
    return replace(region, position=None, extent=None, position_error=f"{NO_DEPTH}{error}")


def _vector(array: Array) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])


def _box_of(polygon: Sequence[Point]) -> Box:
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _checked(box: Box) -> Box:
    left, top, right, bottom = box
    if not (np.isfinite(box).all() and left < right and top < bottom):
        raise NoDepth(f"the box {numbers(box)} has no area.")
    return box


def _surface(view: DepthView, point: Point) -> Array:
    """The surface [3] at ``point``."""
    if not np.isfinite(point).all():
        raise NoDepth(f"the point {numbers(point)} is not in the image.")
    radius = _POINT_RADIUS * max(1.0, view.pixel * float(np.sqrt(view.lens.fx * view.lens.fy)))
    x, y = point
    try:
        points, pixels = view.part((x - radius, y - radius, x + radius, y + radius))
    except NoDepth as error:
        raise NoDepth(f"around the point {numbers(point)}: {error}") from error
    known = np.isfinite(points[:, :, 2])
    offsets, z = pixels[known] - point, points[known][:, 2]
    nearest = z[np.argmin(np.hypot(*offsets.T))]
    same = np.abs(z - nearest) < jump(nearest, view.pixel)
    # 1 / z of a plane is linear in undistorted pixels: exact on flat surfaces however they are turned. Relative to
    # the mean, so that where there are too few points for a slope, lstsq's shortest solution has none.
    offsets, inverse = offsets[same], 1 / z[same]
    slope = np.linalg.lstsq(offsets - offsets.mean(axis=0), inverse - inverse.mean(), rcond=1e-6)[0]
    at_point = float(inverse.mean() - slope @ offsets.mean(axis=0))
    distance = 1 / float(np.clip(at_point, inverse.min(), inverse.max()))
    ray = view.lens.rays(np.array([point], np.float64))[0]
    if not np.isfinite(ray).all():
        raise NoDepth(f"the point {numbers(point)} is not in the image.")
    return np.array([*(ray * distance), distance])


def _thing(view: DepthView, box: Box, polygon: Sequence[Point]) -> tuple[Array, Array]:
    """Centre [3] and extent [3] of the thing in ``box``."""
    points, pixels = view.part(_grown(box, _SURROUNDINGS, _LEAST_SURROUNDINGS))
    z = points[:, :, 2]
    known = np.isfinite(z)
    inside = _in_box(pixels, box) & known
    if polygon:
        inside &= _in_polygon(pixels, polygon)
    if not inside.any():
        raise NoDepth(view.why_nothing(box))
    if inside.sum() < FEWEST_POINTS:
        raise NoDepth(f"the box {numbers(box)} has only {inside.sum()} pixels of valid depth in it.")
    planes = planes_in(points[known & ~_in_box(pixels, _grown(box, _LOOSE / 2))])
    nearest, filled = without_holes(known)
    surface = z[nearest]
    on_planes = [plane.has(points)[nearest] & filled for plane in planes]
    backdrop = [goes_on(pieces_of(surface, on, view.pixel), _in_box(pixels, box)) for on in on_planes]
    half = 0.5 * view.pixel * float(np.sqrt(view.lens.fx * view.lens.fy))
    standing_out = filled & ~np.any(backdrop, axis=0) if backdrop else filled
    cuts = (pieces_of(surface, standing_out, view.pixel, cut) * known for cut in _CUTS)
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
        for number in np.flatnonzero(counts >= max(FEWEST_POINTS, 0.02 * inside.sum())):
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
    points: Array, pixels: Array, inside: Mask, planes: Sequence[Plane], box: Box, half: float
) -> tuple[Array, Array]:
    """Centre and extent of a thing that does not stand out from the plane that it is on."""
    counts = [int((plane.has(points) & inside).sum()) for plane in planes]
    if not counts or max(counts) < 0.5 * inside.sum():
        raise NoDepth(f"nothing in the box {numbers(box)} stands out in depth.")
    plane = planes[int(np.argmax(counts))]
    core = _grown(box, -0.25)
    pixels_in_core = (core[2] - core[0]) * (core[3] - core[1]) / (2 * half) ** 2
    if (plane.has(points) & _in_box(pixels, core)).sum() < 0.5 * pixels_in_core:
        raise NoDepth(f"the middle of the box {numbers(box)} has hardly any valid depth: is it glass, or shiny?")
    seen = points[inside & plane.has(points)]
    middle = (seen.min(axis=0) + seen.max(axis=0)) / 2
    return middle - plane.height(middle) * plane.normal, np.ptp(seen, axis=0)


def _complete(points: Array, planes: Sequence[Plane]) -> tuple[Array, Array]:
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


def _ground(points: Array, planes: Sequence[Plane]) -> Plane | None:
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
