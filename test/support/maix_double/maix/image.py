"""maix.image"""

from __future__ import annotations

import enum

import numpy
import PIL.Image

from maix.err import Err


class Format(enum.IntEnum):
    FMT_RGB888 = 0
    FMT_BGR888 = 1


class Fit(enum.IntEnum):
    FIT_NONE = -1
    FIT_FILL = 0
    FIT_CONTAIN = 1
    FIT_COVER = 2


class Image:
    def __init__(self, width: int, height: int, format: Format = Format.FMT_RGB888, bg: object = None) -> None:
        self._pixels = numpy.zeros((height, width, 3), numpy.uint8)
        self._format = format

    def width(self) -> int:
        return self._pixels.shape[1]

    def height(self) -> int:
        return self._pixels.shape[0]

    def format(self) -> Format:
        return self._format

    def save(self, path: str, quality: int = 95) -> Err:
        """Lossless, so that tests can compare."""
        rgb = self._pixels if self._format == Format.FMT_RGB888 else self._pixels[..., ::-1]
        PIL.Image.fromarray(rgb).save(path, format="PNG")
        return Err.ERR_NONE


def cv2image(array: numpy.ndarray, bgr: bool = True, copy: bool = True) -> Image:
    assert array.dtype == numpy.uint8 and array.ndim == 3 and array.flags.c_contiguous
    height, width, _ = array.shape
    image = Image(width, height, Format.FMT_BGR888 if bgr else Format.FMT_RGB888)
    image._pixels[:] = array
    return image
