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


def write_timed(
    path: Path,
    images: Iterable[tuple[int, Pixels]],
    *,
    codec: str = "libx264",
    form: str = "",
    gop: int = 12,
    b_frames: int = 2,
    rotation: int = 0,
    live: bool = False,
) -> Path:
    """Write RGB images at times in milliseconds, whatever the distance between them.

    ``form``: FFmpeg's container. ``live``: as it is streamed, without a length and an index, as browsers record.
    """
    with av.open(str(path), "w", format=form or None, options={"live": "1"} if live else {}) as container:
        stream = None
        for time, image in images:
            if stream is None:
                stream = container.add_stream(codec, rate=25)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt, stream.gop_size = "yuv420p", gop
                stream.codec_context.time_base = Fraction(1, 1000)
                stream.max_b_frames = b_frames
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file with a second of silence, and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for number in range(8):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, 1000 * number
            container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path
