"""Writes images as JPEG files."""

from __future__ import annotations

import cv2

from qwen3vl_ros.engines.base import BadImage, Image


def jpeg_of(pixels: Image, quality: int = 90) -> bytes:
    """Return an image, uint8 [height, width, 3] RGB, as the content of a JPEG file; ``quality``: 0 to 100.

    Raises:
        BadImage: A side has more pixels than OpenCV writes, 65500.
    """
    height, width, _ = pixels.shape
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, file = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not done:
        raise BadImage(f"an image of {width}x{height} pixels cannot be written as JPEG: send a smaller one")
    return file.tobytes()
