"""Video files that a test makes on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def grey(level: int, width: int = 64, height: int = 48) -> Pixels:
    """An image of one brightness, which survives any codec."""
    return np.full((height, width, 3), level, np.uint8)


def level_of(pixels: Pixels) -> int:
    """The brightness that :func:`grey` was given, but for what the codec took."""
    return round(float(pixels.mean()))


def write_with_opencv(path: Path, images: Iterable[Pixels], rate: float, codec: str) -> Path:
    """Write RGB images as OpenCV does: MJPG in .avi, mp4v in .mp4."""
    images = list(images)
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


def write_h264(path: Path, images: Iterable[Pixels], rate: int) -> Path:
    """Write RGB images as phones and network cameras do; one that needs no other comes every second."""
    with av.open(str(path), "w") as container:
        stream = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate))
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", rate, 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return path
