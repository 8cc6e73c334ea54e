"""Fits images to an engine's input size, and maps coordinates of the fitted image to the original's and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np
import PIL.Image

from qwen3vl_ros.engines.base import Image, ImageInput

Rectangle: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""

Rotation: TypeAlias = Literal[0, 90, 180, 270]
"""Degrees clockwise that an image is rotated before anything else: 180 for a camera mounted upside down."""

_LONGEST_ENLARGED: Final = 20
"""Longer side over shorter side of the longest strip that is enlarged: no encoder sees more in a longer one."""

_AREA_WEIGHT: Final = 0.5
"""Cost of losing a share of the pixels, relative to distorting the aspect ratio by that share.

At 1/2, 1920x1080 with 300 tokens becomes 736x416 (aspect off by 0.5 %), not 512x288 (exact, with half the pixels).
It must be below 1 for every budget, lest a square become a strip because the strip has more pixels.
"""


@dataclass(frozen=True, slots=True)
class Fit:
    """The mapping between an original and its fitted image. Sizes are (width, height) in pixels.

    Coordinates are continuous: x grows to the right and y down from (0, 0), the top left corner of the top left pixel,
    to (width, height), the bottom right corner of the bottom right pixel; the centre of the first pixel is (0.5, 0.5).
    ``shown``: the visible rectangle of the original. ``place``: its rectangle in the fitted image; the rest of that is
    black bars. ``rotation``: degrees clockwise that it is rotated there.
    """

    original_size: tuple[int, int]
    fitted_size: tuple[int, int]
    shown: Rectangle
    place: Rectangle
    rotation: Rotation = 0

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """Map (x, y) of the fitted image to the original; a point on a black bar lands outside the original."""
        return _at(self.shown, *_turned(*_share(self.place, x, y), -self.rotation))

    def to_fitted(self, x: float, y: float) -> tuple[float, float]:
        """Map (x, y) of the original to the fitted image; a point that is cropped lands outside the image."""
        return _at(self.place, *_turned(*_share(self.shown, x, y), self.rotation))

    def direction_to_original(self, x: float, y: float) -> tuple[float, float]:
        """Rotate a direction of the fitted image, in any unit, to the original, without scaling it."""
        right, down = _turned(x + 0.5, y + 0.5, -self.rotation)
        return right - 0.5, down - 0.5


def _share(rectangle: Rectangle, x: float, y: float) -> tuple[float, float]:
    """Return (x, y) relative to ``rectangle``: (0, 0) is its top left corner, (1, 1) its bottom right one."""
    left, top, right, bottom = rectangle
    return (x - left) / (right - left), (y - top) / (bottom - top)


def _at(rectangle: Rectangle, x: float, y: float) -> tuple[float, float]:
    """Return the point of ``rectangle`` with the relative coordinates (x, y)."""
    left, top, right, bottom = rectangle
    return left + x * (right - left), top + y * (bottom - top)


def _turned(x: float, y: float, degrees: int, width: float = 1.0, height: float = 1.0) -> tuple[float, float]:
    """Rotate the point (x, y) clockwise together with its image of width x height."""
    for _ in range(degrees % 360 // 90):
        x, y, width, height = height - y, x, height, width
    return x, y


def fit_image(
    image: Image, spec: ImageInput, rotation: Rotation = 0, part: Rectangle | None = None
) -> tuple[Image, Fit]:
    """Rotate, crop and resize an image for an engine.

    Resampling is Pillow's bicubic, antialiased, as in Qwen's own preprocessing (transformers,
    ``Qwen2VLImageProcessor``): another filter gives other tokens.

    Args:
        image: uint8 [height, width, 3] RGB.
        spec: The size that the engine takes.
        rotation: Applied first.
        part: Crop in whole pixels of the rotated image, None = all.

    Returns:
        The fitted image, which is ``image`` itself if nothing changes, and the mapping between the two.
    """
    height, width, _ = image.shape
    fit = plan_fit(width, height, spec, rotation, part)
    turned = np.rot90(image, -rotation // 90)
    if part is not None:
        turned = turned[int(part[1]) : int(part[3]), int(part[0]) : int(part[2])]
    upright = plan_fit(turned.shape[1], turned.shape[0], spec)
    if upright.fitted_size == upright.original_size:
        return np.ascontiguousarray(turned) if fit != upright else image, fit
    left, top, right, bottom = (int(edge) for edge in fit.place)
    whole = PIL.Image.fromarray(np.ascontiguousarray(turned))
    resized = np.array(whole.resize((right - left, bottom - top), PIL.Image.Resampling.BICUBIC, box=upright.shown))
    if resized.shape[:2] == fit.fitted_size[::-1]:
        return resized, fit
    fitted = np.zeros((*fit.fitted_size[::-1], 3), np.uint8)
    fitted[top:bottom, left:right] = resized
    return fitted, fit


def fit_again(image: Image, fit: Fit, spec: ImageInput) -> tuple[Image, Fit]:
    """Fit what ``fit`` shows of ``image`` for another engine.

    Args:
        image: The original, uint8 [height, width, 3] RGB, in any resolution.
        fit: How it, or a part of it, was fitted before.
        spec: The size that the other engine takes.

    Returns:
        The fitted image and its mapping, as :func:`fit_image` does.
    """
    height, width, _ = image.shape
    across, down = fit.original_size[0] / width, fit.original_size[1] / height
    corners = ((x / across, y / down) for x, y in (fit.shown[:2], fit.shown[2:]))
    turned = (_turned(x, y, fit.rotation, width, height) for x, y in corners)
    (x1, x2), (y1, y2) = (sorted(map(round, edges)) for edges in zip(*turned, strict=True))
    fitted, own = fit_image(image, spec, fit.rotation, (x1, y1, x2, y2))
    left, top, right, bottom = own.shown
    shown = (left * across, top * down, right * across, bottom * down)
    return fitted, replace(own, original_size=fit.original_size, shown=shown)


def plan_fit(width: int, height: int, spec: ImageInput, rotation: Rotation = 0, part: Rectangle | None = None) -> Fit:
    """Compute the mapping of :func:`fit_image` for an image of width x height pixels."""
    across, down = (width, height) if rotation % 180 == 0 else (height, width)
    left, top, right, bottom = part or (0.0, 0.0, float(across), float(down))
    fit = _plan_upright(int(right - left), int(bottom - top), spec)
    corners = (_turned(left + x, top + y, -rotation, across, down) for x, y in (fit.shown[:2], fit.shown[2:]))
    (x1, x2), (y1, y2) = (sorted(edges) for edges in zip(*corners, strict=True))
    return Fit((width, height), fit.fitted_size, (x1, y1, x2, y2), fit.place, rotation)


def _plan_upright(width: int, height: int, spec: ImageInput) -> Fit:
    original, everything = (width, height), (0.0, 0.0, float(width), float(height))
    if spec.size is None:
        fitted = fitted_size(width, height, spec.multiple, spec.max_tokens, spec.min_tokens)
        return Fit(original, fitted, everything, (0.0, 0.0, float(fitted[0]), float(fitted[1])))
    to_width, to_height = spec.size
    whole = (0.0, 0.0, float(to_width), float(to_height))
    if spec.fit == "fill":
        return Fit(original, spec.size, everything, whole)
    if spec.fit == "cover":
        scale = max(to_width / width, to_height / height)
        shown_width, shown_height = min(to_width / scale, width), min(to_height / scale, height)
        left, top = (width - shown_width) / 2, (height - shown_height) / 2
        return Fit(original, spec.size, (left, top, left + shown_width, top + shown_height), whole)
    scale = min(to_width / width, to_height / height)
    # Rounded to whole pixels, so the scales of the two axes may differ slightly; `place` has the rounded size.
    place_width, place_height = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = (to_width - place_width) // 2, (to_height - place_height) // 2
    return Fit(original, spec.size, everything, (float(x), float(y), float(x + place_width), float(y + place_height)))


@lru_cache(maxsize=64)
def fitted_size(width: int, height: int, multiple: int, max_tokens: int, min_tokens: int = 0) -> tuple[int, int]:
    """Return the (width, height) in pixels to which an image of width x height pixels is resized.

    Both are multiples of ``multiple``, with at most ``max_tokens`` tiles of ``multiple`` x ``multiple`` pixels, and the
    aspect ratio is as close to the original's as that allows. An image is enlarged at most to the next multiple, except
    a strip so thin that its aspect ratio cannot be kept otherwise; with ``min_tokens``, one that has fewer is enlarged
    to about as many, and not beyond ``max_tokens``.

    Of all grids of at most ``max_tokens`` tiles, the result has the least |log of the change of aspect ratio| +
    1/2 |log of the change of area|, the latter relative to the largest area that needs no enlargement.
    """
    if min(width, height, multiple, max_tokens) < 1:
        raise ValueError(f"cannot fit {width}x{height} pixels into {max_tokens} tiles of {multiple}: all must be >= 1")
    area = width * height / multiple**2
    enlarged = area < min_tokens and max(width, height) <= _LONGEST_ENLARGED * min(width, height)
    ideal_area = min(min_tokens if enlarged else area, max_tokens)
    scale = max(1.0, math.sqrt(ideal_area / area))
    most_columns, most_rows = math.ceil(width * scale / multiple), math.ceil(height * scale / multiple)
    best, best_cost = (1, 1), math.inf
    for columns in range(1, min(most_columns, max_tokens) + 1):
        # For a given width the cost has its minimum where the aspect ratio is exact: only the neighbours of that count.
        rows_exact = columns * height / width
        limit = min(most_rows, max_tokens // columns)
        for rows in {min(max(math.floor(rows_exact), 1), limit), min(math.ceil(rows_exact), limit)}:
            distortion = abs(math.log(rows / rows_exact))
            cost = distortion + _AREA_WEIGHT * abs(math.log(columns * rows / ideal_area))
            if cost < best_cost:
                best, best_cost = (columns, rows), cost
    return best[0] * multiple, best[1] * multiple
