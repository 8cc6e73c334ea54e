"""Locates an answer's objects in metres, from a depth image.

A depth camera measures surfaces, and only the side of an object that faces it. Two steps infer the object:

*Segmentation.* Planes that extend beyond the bounding box (a table, the floor, a wall) are removed. The remaining
pixels are split at jumps in depth. The object is the piece that fits the box best: a wall behind it or a hand in front
of it is also visible in the box, but ends elsewhere.

*Completion.* The object is assumed to be point-symmetric, as boxes, balls, cylinders and most man-made objects are: its
hidden side is its visible side mirrored at its centre. Across the line of sight, the centre is then in the middle of
the visible points. Along the line of sight, the centre of an object that stands on one of the planes is at half of its
height above that plane; without a plane, the object is assumed to be as deep as it is wide. An object that does not
stand out from its plane, such as a sheet of paper or a poster, is that part of the plane.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
"""Prefix of every ``position_error``."""

_POINT_RADIUS: Final = 2.5
"""Radius around a point within which depth is read, in pixels of the image with the larger ones."""

_SURROUNDINGS: Final = 0.5
"""Margin of a box's surroundings, as a share of the box's size."""

_LEAST_SURROUNDINGS: Final = 12.0
"""Least margin in pixels: enough of a table must be visible to find its plane."""

_LOOSE: Final = 0.1
"""How far an object may extend beyond its box, as a share of the box's size: models' boxes are inexact."""

_CUTS: Final = (1.0, 0.5, 0.25)
"""Shares of a jump in depth to split at: coarse for noise and steep surfaces, fine for objects that nearly touch."""

_LEAST_FIT: Final = 0.15
"""A piece whose rectangle has a smaller overlap with the box (intersection over union) is another object."""

_GOOD_FIT: Final = 0.6
"""A piece with a smaller overlap is connected to another object: only its part in the box is used."""

_OUTLIERS: Final = 0.3
"""Percent of an object's points ignored on either side for its size: mixed pixels between two surfaces."""

_CORE: Final = 5.0
"""Percent of an object's points, those closest to the line of sight through its middle, that give its front's depth."""

_ACROSS: Final = 8
"""Number of directions across the line of sight along which an object's middle is determined."""

_LEAST_SLOPE: Final = 0.25
"""Sine of the angle (14 degrees) between line of sight and plane below which their intersection is too inexact."""
_STRAIGHT: Final = 0.96
"""Sine of the angle (74 degrees) between line of sight and plane above which an object hides its own foot."""
_HOVER: Final = 0.15
"""How much higher above its plane an object's lowest visible point may be than a ball's, as a share of its height."""
_TALLEST: Final = 2.0
"""Greatest height of an object that hides its own foot, as a multiple of its least width."""


def locate(
    regions: Iterable[Region],
    depth: ImageMessage,
    depth_info: CameraInfo,
    colour_info: CameraInfo,
    colour_size: tuple[int, int] | None = None,
    colour_from_depth: NDArray[np.float64] | None = None,
    axes: NDArray[np.float64] | None = None,
) -> Iterator[Region]:
    """Yield ``regions``, one after the other as they are asked for, with ``position`` and ``extent`` in metres.

    - A region with a box or a polygon is an object. ``position`` is the centre of the whole object, not of its visible
      surface, and ``extent`` its size along three axes, those of the frame or ``axes``; both rest on the assumptions at
      the top of this file. A polygon limits the pixels that may belong to the object. Parts beyond the edge of the
      depth image or hidden by another object are not included: centre and size are those of the rest.
    - A region with only a point is that point of the surface; it has no extent.

    K and D of a CameraInfo are used, with ``binning`` and ``roi`` (REP 104); they describe the unrectified image. R and
    P are not used: for a rectified image pass what :func:`~qwen3vl_ros.vision.camera_model.rectified` returns.

    A CameraInfo of an image of another size is scaled if the aspect ratio is the same, for drivers and nodes that
    resize an image and pass on its calibration. Another aspect ratio is NO_DEPTH.

    Args:
        regions: In pixels of the colour image.
        depth: 16UC1 (millimetres, 0 for none) or 32FC1 (metres; NaN, infinity and 0 for none) along the depth camera's
            optical axis (REP 118), of the same time as the colour image.
        depth_info: Intrinsics of the depth camera.
        colour_info: Intrinsics of the colour camera.
        colour_size: (width, height) of the colour image; None = that of ``colour_info``.
        colour_from_depth: Extrinsics [4, 4], a rigid transform of points from the depth camera's optical frame to the
            colour camera's; None = the same frame (depth registered to colour), even if size and intrinsics differ.
            Pixels of the depth image that the colour camera does not see, as something is in front of them, are left
            out.
        axes: Rotation [3, 3] to the frame along whose axes extents are wanted; None = the colour camera's optical
            frame.

    Yields:
        The regions in the colour camera's optical frame (x right, y down, z forward); those without a position have a
        ``position_error`` that begins with :data:`NO_DEPTH`. No content of a message raises an exception.
    """
    try:  # once for all of them: it takes a few tenths of a second where the frames differ
        view = view_of(depth, depth_info, colour_info, colour_size, colour_from_depth)
    except NoDepth as error:
        yield from (_without(region, error) for region in regions)
        return
    yield from (_located(region, view, np.eye(3) if axes is None else axes) for region in regions)


def _located(region: Region, view: DepthView, axes: Array) -> Region:
    try:
        extent: Array | None = None
        if region.polygon:
            box = _box_of(region.polygon)
            centre, extent = _thing(view, _checked(box), region.polygon, axes)
        elif region.box is not None:
            centre, extent = _thing(view, _checked(region.box), (), axes)
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
    """Return the point [3] of the surface that is visible at ``point``."""
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
    # Fit 1 / z, which is linear in undistorted pixels on a plane of any orientation. Relative to the mean, so that with
    # too few points for a slope lstsq's minimum-norm solution has slope 0.
    offsets, inverse = offsets[same], 1 / z[same]
    slope = np.linalg.lstsq(offsets - offsets.mean(axis=0), inverse - inverse.mean(), rcond=1e-6)[0]
    at_point = float(inverse.mean() - slope @ offsets.mean(axis=0))
    distance = 1 / float(np.clip(at_point, inverse.min(), inverse.max()))
    ray = view.lens.rays(np.array([point], np.float64))[0]
    if not np.isfinite(ray).all():
        raise NoDepth(f"the point {numbers(point)} is not in the image.")
    return np.array([*(ray * distance), distance])


def _thing(view: DepthView, box: Box, polygon: Sequence[Point], axes: Array) -> tuple[Array, Array]:
    """Return centre [3], and extent [3] along ``axes``, of the object in ``box``."""
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
        return _flat_thing(points, pixels, inside, planes, box, half, axes)
    piece &= inside if polygon or fit < _GOOD_FIT else _in_box(pixels, _grown(box, _LOOSE))
    return _complete(points[piece], planes, axes)


def _grown(box: Box, share: float, least: float = 0.0) -> Box:
    left, top, right, bottom = box
    across, down = max(share * (right - left), least), max(share * (bottom - top), least)
    return left - across, top - down, right + across, bottom + down


def _in_box(pixels: Array, box: Box) -> Mask:
    with np.errstate(invalid="ignore"):
        return cast(Mask, ((pixels >= box[:2]) & (pixels <= box[2:])).all(axis=-1))


def _in_polygon(pixels: Array, polygon: Sequence[Point]) -> Mask:
    """Return which ``pixels`` [h, w, 2] are in ``polygon``: a ray to the left crosses an odd number of its edges."""
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
    """Return the piece [h, w] whose rectangle fits ``box`` best, and their overlap; None if none fits at all.

    ``half``: half of a depth pixel's width in pixels of the box.
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
    """Return the intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return both / (sum(areas) - both)


def _flat_thing(
    points: Array, pixels: Array, inside: Mask, planes: Sequence[Plane], box: Box, half: float, axes: Array
) -> tuple[Array, Array]:
    """Return centre [3], and extent [3] along ``axes``, of an object that does not stand out from its plane."""
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
    return middle - plane.height(middle) * plane.normal, np.ptp(seen @ axes.T, axis=0)


def _complete(points: Array, planes: Sequence[Plane], axes: Array) -> tuple[Array, Array]:
    """Return centre [3], and extent [3] along ``axes``, of the whole object, given its visible ``points`` [n, 3]."""
    centre = points.mean(axis=0)
    ground = _ground(points, planes)
    if ground is not None:
        # The points next to the plane were removed with it.
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
    return centre, 2 * np.percentile(np.abs((points - centre) @ axes.T), 100 - _OUTLIERS, axis=0)


def _span(values: Array) -> Any:
    """Return minimum and maximum of ``values`` [n, ...] without outliers: [2, ...]."""
    return np.percentile(values, (_OUTLIERS, 100 - _OUTLIERS), axis=0)


def _directions_across(ahead: Array) -> Array:
    """Return unit vectors [_ACROSS, 3] at equal angles, perpendicular to the unit vector ``ahead`` [3]."""
    right = np.cross([0.0, 1.0, 0.0], ahead)
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    angles = np.arange(_ACROSS)[:, None] * np.pi / _ACROSS
    return cast(Array, np.cos(angles) * right + np.sin(angles) * down)


def _ground(points: Array, planes: Sequence[Plane]) -> Plane | None:
    """Return the plane on which an object with these visible ``points`` [n, 3] stands, leans or hangs, or None."""
    ahead = points.mean(axis=0)
    distance = float(np.linalg.norm(ahead))
    ahead /= distance
    best, best_gap = None, _HOVER
    for plane in planes:
        slope = -float(plane.normal @ ahead)
        bottom, top = _span(plane.height(points))
        if slope < _LEAST_SLOPE or top <= 0 or bottom < -plane.tolerance * distance:
            continue  # seen at too flat an angle, or it intersects the object
        # Compared with the lowest visible point of a ball. Of a box or an upright cylinder the foot is visible.
        gap = float(bottom / top) - (1 - np.sqrt(1 - min(slope, 1.0) ** 2)) / 2
        if slope > _STRAIGHT:
            near, far = _span(points @ _directions_across(ahead).T)
            gap = 0.0 if top <= _TALLEST * (far - near).min() else gap
        if gap < best_gap:
            best, best_gap = plane, gap
    return best
