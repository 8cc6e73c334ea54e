"""Pictures to the size that an engine wants, and coordinates in the fitted picture back to the original's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import PIL.Image

from qwen3vl_ros.engines.base import Image, ImageInput

_AREA_WEIGHT: Final = 0.5
"""How much losing a share of the pixels counts against distorting the aspect ratio by that share.

At 1/2, 1920x1080 with 300 tokens becomes 736x416 (aspect off by 0.5 %), not 512x288 (exact, with half the pixels).
Below 1 whatever the budget, so that a square never becomes a strip because the strip has more pixels.
"""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture was resized. Sizes are (width, height) in pixels.

    Coordinates are continuous: x grows to the right and y down from (0, 0), the top left corner of the top left pixel,
    to (width, height), the bottom right corner of the bottom right pixel; the centre of the first pixel is (0.5, 0.5).
    """

    original_size: tuple[int, int]
    fitted_size: tuple[int, int]

    def to_original(self, x: float, y: float) -> tuple[float, float]:
        """The point of the original picture that (x, y) in the fitted picture shows."""
        return (
            x * self.original_size[0] / self.fitted_size[0],
            y * self.original_size[1] / self.fitted_size[1],
        )

    def to_fitted(self, x: float, y: float) -> tuple[float, float]:
        """Where the fitted picture shows the point (x, y) of the original picture."""
        return (
            x * self.fitted_size[0] / self.original_size[0],
            y * self.fitted_size[1] / self.original_size[1],
        )


def fit_image(image: Image, spec: ImageInput) -> tuple[Image, Fit]:
    """``image`` (uint8 [height, width, 3] RGB) in a size that suits ``spec``, and how to undo that.

    Width and height become multiples of ``spec.multiple`` with at most ``spec.max_tokens`` tiles of ``multiple`` x
    ``multiple`` pixels, the aspect ratio as near the original's as that allows. Nothing is scaled up by more than to
    the next multiple, but for strips so thin that the aspect ratio cannot be kept otherwise. A picture that suits
    already is returned itself, not a copy.

    Resampling is Pillow's bicubic, antialiased, which is what Qwen's own preprocessing uses (transformers,
    ``Qwen2VLImageProcessor``): another filter gives other tokens.
    """
    height, width, _ = image.shape
    fit = Fit((width, height), fitted_size(width, height, spec.multiple, spec.max_tokens))
    if fit.fitted_size == fit.original_size:
        return image, fit
    resized = PIL.Image.fromarray(image).resize(fit.fitted_size, PIL.Image.Resampling.BICUBIC)
    return np.array(resized), fit


@lru_cache(maxsize=64)
def fitted_size(width: int, height: int, multiple: int, max_tokens: int) -> tuple[int, int]:
    """The (width, height) in pixels that :func:`fit_image` gives a picture of width x height pixels.

    Of all grids of at most ``max_tokens`` tiles, the one with the least |log of the change of aspect ratio| +
    1/2 |log of the change of area|, the latter against the largest area that needs no scaling up.
    """
    if min(width, height, multiple, max_tokens) < 1:
        raise ValueError(f"cannot fit {width}x{height} pixels into {max_tokens} tiles of {multiple}: all must be >= 1")
    ideal_area = min(width * height / multiple**2, max_tokens)
    most_columns, most_rows = math.ceil(width / multiple), math.ceil(height / multiple)
    best, best_cost = (1, 1), math.inf
    for columns in range(1, min(most_columns, max_tokens) + 1):
        # For a given width the cost falls until the aspect ratio is right and rises after: only its neighbours count.
        rows_exact = columns * height / width
        limit = min(most_rows, max_tokens // columns)
        for rows in {min(max(math.floor(rows_exact), 1), limit), min(math.ceil(rows_exact), limit)}:
            distortion = abs(math.log(rows / rows_exact))
            cost = distortion + _AREA_WEIGHT * abs(math.log(columns * rows / ideal_area))
            if cost < best_cost:
                best, best_cost = (columns, rows), cost
    return best[0] * multiple, best[1] * multiple
