"""Cuts the part of an image that a polygon surrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from qwen3vl_ros.engines.base import BadRequest, Image
from qwen3vl_ros.vision.fit import Rectangle, Rotation
from qwen3vl_ros.vision.region import Point

_GREY: Final = 128
"""Of the pixels around the polygon."""


def bounds(polygon: Sequence[Point], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the smallest rectangle (left, top, right, bottom) of whole pixels around what of ``polygon`` is visible.

    Args:
        polygon: In pixels of the image.
        width: Of the image.
        height: Of the image.

    Raises:
        BadRequest: Nothing of it lies in the image.
    """
    xs, ys = zip(*polygon, strict=True)
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(width, math.ceil(max(xs))), min(height, math.ceil(max(ys)))
    if right <= left or bottom <= top:
        raise BadRequest(
            f"region: it lies outside of the image of {width}x{height} pixels; give it in pixels of the image as it is "
            "published"
        )
    return left, top, right, bottom


def only_inside(image: Image, polygon: Sequence[Point]) -> Image:
    """Return a copy of ``image``, uint8 [height, width, 3] RGB, with grey outside of ``polygon``.

    A pixel that the polygon's edge crosses is inside.
    """
    inside = np.zeros(image.shape[:2], np.uint8)
    corners = np.clip([(x - 0.5, y - 0.5) for x, y in polygon], -32768.0, 32767.0)
    cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], 1)
    cut = np.full_like(image, _GREY)
    np.copyto(cut, image, where=inside[:, :, None] > 0)
    return cut


def turned(rectangle: Rectangle, width: int, height: int, rotation: Rotation) -> Rectangle:
    """Return ``rectangle`` of an image of width x height pixels in that image turned clockwise by ``rotation``."""
    left, top, right, bottom = rectangle
    for _ in range(rotation // 90):
        left, top, right, bottom = height - bottom, left, height - top, right
        width, height = height, width
    return left, top, right, bottom
