"""Measures how much an image has changed, so that sensor noise counts little and a small object counts in full."""

from __future__ import annotations

from typing import Final

import cv2

from qwen3vl_ros.engines.base import Image

BLOCK: Final = 8
"""Width and height in pixels of the blocks whose means are compared.

A mean of 64 pixels has an eighth of their noise. An object of at least this width and height fills a block.
"""


def image_change(image: Image, earlier: Image) -> float:
    """Return the greatest change of the mean of any block, at any position, in any colour channel.

    A change by d grey levels of a square of 8x8 pixels or more, wherever it is, makes it d, whatever else changes; a
    smaller one of n pixels makes it n d / 64. Exact: sums of 64 differences fit into 16 bits.

    Args:
        image: uint8 [height, width, 3] RGB.
        earlier: Of the same size.

    Returns:
        Grey levels, 0 to 255. Images that are narrower or lower than a block have blocks of their width or height.
    """
    height, width, _ = image.shape
    rows, columns = min(BLOCK, height), min(BLOCK, width)
    difference = cv2.subtract(image, earlier, dtype=cv2.CV_16S)
    sums = cv2.boxFilter(difference, cv2.CV_16S, (columns, rows), anchor=(0, 0), normalize=False)
    whole = sums[: height - rows + 1, : width - columns + 1]  # the others reach over the edge
    return float(max(int(whole.max()), -int(whole.min())) / (rows * columns))
