"""Converts an answer's coordinates to pixels of the original image, or says why they are unusable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.lenient_json import Kind
from qwen3vl_ros.vision.region import Box, Point, Region, Vector

Scale: TypeAlias = Literal["relative_1000", "pixels"]
"""Unit of an answer's coordinates: 1/1000 of the image that the model saw (Qwen3-VL, Qwen2-VL, Qwen-VL) or pixels of
it (Qwen2.5-VL). It depends on the model; the format of the answer does not show it."""

Row: TypeAlias = list[float]
"""The numbers of a shape, x before y: two corners, a point, an outline, or a 3D box."""

_SLACK: Final = 0.05
"""How far outside the fitted image coordinates may be, as a share of its side. A model's own range from 0 to 1000 and
rarely exceed that by some units; others are in another scale, and would be plausible but wrong after clipping."""

_POINT_SLACK: Final = 0.01
"""The same for points and the visible part of the image: a point cannot be clipped, only moved to the edge."""

_SLIVER: Final = 1e-6
"""Share of the original's side: a shape narrower than this after clipping only touches the edge."""


class Unusable(Exception):
    """Coordinates cannot be a region; the text says why."""


def with_shape(region: Region, kind: Kind, row: Row, fit: Fit, scale: Scale) -> Region:
    """Return ``region`` with the shape in ``row``.

    Args:
        region: A region without that shape.
        kind: Of the shape.
        row: The shape's numbers in ``scale``; in metres for a shape in space.
        fit: How the region's image was fitted.
        scale: Unit of image coordinates.

    Raises:
        Unusable: The numbers cannot be meant for this image.
    """
    if not all(math.isfinite(number) for number in row):
        raise Unusable("has a number that is not finite")
    if kind == "space":
        return _with_position(region, row, fit)
    units = (1000.0, 1000.0) if scale == "relative_1000" else fit.fitted_size
    if all(abs(number) <= 1 for number in row) and not all(number.is_integer() for number in row):
        raise Unusable("is in fractions of 1, which no Qwen-VL model writes")
    for axis, unit in enumerate(units):
        if not all(-_SLACK * unit <= number <= (1 + _SLACK) * unit for number in row[axis::2]):
            raise Unusable(f"is not within 0..{unit:g} ({'xy'[axis]}): does this model write in another scale?")
    if kind == "box":
        return replace(region, box=_to_box(row, units, fit))
    if kind == "point":
        return replace(region, point=_to_point((row[0], row[1]), units, fit))
    return replace(region, polygon=_to_polygon(pairs(row), units, fit))


def _with_position(region: Region, row: Row, fit: Fit) -> Region:
    position: Vector = (*fit.direction_to_original(row[0], row[1]), row[2])
    extent: Vector = (row[3], row[4], row[5])
    if position[2] <= 0:
        raise Unusable("is behind the camera")
    if min(extent) < 0:
        raise Unusable("has a negative size")
    return replace(region, position=position, extent=extent)


def _visible(fit: Fit) -> Box:
    """Return the part of the original that the model saw, clamped: rounding errors may exceed the image's edge."""
    left, top, right, bottom = fit.shown
    return max(left, 0.0), max(top, 0.0), min(right, float(fit.original_size[0])), min(bottom, fit.original_size[1])


def _to_fitted(x: float, y: float, units: Sequence[float], fit: Fit) -> Point:
    return x / units[0] * fit.fitted_size[0], y / units[1] * fit.fitted_size[1]


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _to_box(row: Row, units: Sequence[float], fit: Fit) -> Box:
    (left, right), (top, bottom) = sorted(row[::2]), sorted(row[1::2])
    if left == right:
        left, right = left - 0.5, right + 0.5
    if top == bottom:
        top, bottom = top - 0.5, bottom + 0.5
    left, top = fit.to_original(*_to_fitted(left, top, units, fit))
    right, bottom = fit.to_original(*_to_fitted(right, bottom, units, fit))
    (left, right), (top, bottom) = sorted((left, right)), sorted((top, bottom))  # a turned image has other corners
    visible = _visible(fit)
    left, right = (_clamp(x, visible[0], visible[2]) for x in (left, right))
    top, bottom = (_clamp(y, visible[1], visible[3]) for y in (top, bottom))
    _check_size(right - left, bottom - top, fit)
    return left, top, right, bottom


def _check_size(width: float, height: float, fit: Fit) -> None:
    if width <= _SLIVER * fit.original_size[0] or height <= _SLIVER * fit.original_size[1]:
        raise Unusable("has nothing inside the image")


def _to_point(point: Point, units: Sequence[float], fit: Fit) -> Point:
    fitted = _to_fitted(*point, units, fit)
    for axis, (value, size) in enumerate(zip(fitted, fit.fitted_size, strict=True)):
        low, high = fit.place[axis], fit.place[axis + 2]
        if not low - _POINT_SLACK * size <= value <= high + _POINT_SLACK * size:
            raise Unusable("is not inside the image")
    x, y = fit.to_original(*fitted)
    left, top, right, bottom = _visible(fit)
    return _clamp(x, left, right), _clamp(y, top, bottom)


def _to_polygon(points: list[Point], units: Sequence[float], fit: Fit) -> tuple[Point, ...]:
    """Clip with Sutherland and Hodgman's algorithm (1974), which does not move the edges."""
    polygon = [fit.to_original(*_to_fitted(*point, units, fit)) for point in points]
    left, top, right, bottom = _visible(fit)
    for axis, limit, sign in ((0, left, 1), (1, top, 1), (0, right, -1), (1, bottom, -1)):
        edge = limit - sign * _SLIVER * fit.original_size[axis]  # slightly out, so that a corner on it stays one corner
        clipped: list[Point] = []
        for before, after in zip([*polygon[-1:], *polygon[:-1]], polygon, strict=True):
            inside = sign * (before[axis] - edge), sign * (after[axis] - edge)
            if (inside[0] < 0) != (inside[1] < 0):
                share = inside[0] / (inside[0] - inside[1])
                clipped.append((before[0] + share * (after[0] - before[0]), before[1] + share * (after[1] - before[1])))
            if inside[1] >= 0:
                clipped.append(after)
        polygon = clipped
    if not polygon:
        raise Unusable("has nothing inside the image")
    polygon = [(_clamp(x, left, right), _clamp(y, top, bottom)) for x, y in polygon]
    xs, ys = zip(*polygon, strict=True)
    _check_size(max(xs) - min(xs), max(ys) - min(ys), fit)
    return tuple(polygon)


def pairs(row: Row) -> list[Point]:
    """Return the points of an outline."""
    return list(zip(row[::2], row[1::2], strict=True))
