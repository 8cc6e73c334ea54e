"""Images out of video files and bags, for a question about a clip or about one moment of them.

    client.ask("What happened?", images=clip_of_video("street.mp4", start=2.5, end=8), images_are_clip=True)

Their stamps are their times: in a video those since its first frame, in a bag those that the camera gave. A clip's
frames are JPEG, at most 1280 pixels wide and high; a single image is sent as it is, so that boxes are in its pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from qwen3vl_ros.client.exceptions import BadImage, BadRequest
from qwen3vl_ros.engines import base
from qwen3vl_ros.vision.frame_times import DEFAULT_FRAMES, MOST_FRAMES, SECOND, in_seconds
from qwen3vl_ros.vision.image_message import byte_field, image_message

if TYPE_CHECKING:
    from qwen3vl_ros.vision.bag import BagImages
    from qwen3vl_ros.vision.clip_frames import VideoClip

File: TypeAlias = "str | os.PathLike[str]"
Seconds: TypeAlias = "float | Fraction | Time"
"""A time. A stamp as a float is off by up to 240 ns, which misses the image that has it: give that as a Time."""


def clip_of_video(
    file: File, *, start: Seconds = 0.0, end: Seconds | None = None, frames: int = DEFAULT_FRAMES
) -> list[CompressedImage]:
    """Return frames of a video file, evenly from ``start`` to ``end``.

    Args:
        file: Any that FFmpeg reads.
        start: Seconds since the first frame.
        end: Seconds since the first frame; None for the last one.
        frames: How many; fewer where there are no more.

    Raises:
        BadImage: The file cannot be read, or has no such frame.
        BadRequest: The numbers make no sense.
    """
    begin, until = _part(start, end, frames)
    with _reading("a video", "av"):
        from qwen3vl_ros.vision.video_clip import clip_of

        clip = clip_of(os.fspath(file), os.fspath(file), start=begin or 0, end=until, count=frames)
    return frame_messages(clip)


def frame_of_video(file: File, time: Seconds) -> Image:
    """Return the frame of a video file that a player shows at ``time``, seconds since the first one.

    Raises:
        BadImage: The file cannot be read, or has no such frame.
        BadRequest: The time makes no sense.
    """
    with _reading("a video", "av"):
        from qwen3vl_ros.vision.video_file import VideoReader, upright

        with VideoReader(os.fspath(file), os.fspath(file)) as video:
            shown, frame = video.at(_nanoseconds("time", time))
            return image_message(upright(frame), Header(stamp=_stamp(shown)))


def clip_of_bag(
    bag: File,
    topic: str = "",
    *,
    start: Seconds | None = None,
    end: Seconds | None = None,
    frames: int = DEFAULT_FRAMES,
) -> list[CompressedImage]:
    """Return images of a bag, evenly from ``start`` to ``end``.

    Args:
        bag: Directory of the bag, or an .mcap or .db3 file.
        topic: "" for the only one that has images.
        start: Seconds since the bag's beginning, or, beyond its length, a stamp; None for the topic's first image.
        end: The same, of the last image; None for the topic's last.
        frames: How many; fewer where there are no more.

    Raises:
        BadImage: The bag cannot be read, or has no such image.
        BadRequest: The numbers make no sense.
    """
    begin, until = _part(start, end, frames)
    with _bag(bag, topic) as images:
        first = None if begin is None else images.time_of(begin)
        last = None if until is None else images.time_of(until)
        return [_small(image) for image in images.clip(first, last, frames)]


def image_of_bag(bag: File, topic: str = "", *, time: Seconds) -> Image | CompressedImage:
    """Return the last image of a bag until ``time``; see :func:`clip_of_bag`."""
    with _bag(bag, topic) as images:
        return images.at(images.time_of(_nanoseconds("time", time)))


def frame_messages(clip: VideoClip) -> list[CompressedImage]:
    """Return the frames of a clip as images of a goal, stamped with their times."""
    return [_jpeg_message(frame.jpeg, Header(stamp=_stamp(frame.time))) for frame in clip.frames]


@contextmanager
def _bag(bag: File, topic: str) -> Iterator[BagImages]:
    with _reading("a bag", "rosbags"):
        from qwen3vl_ros.vision.bag import BagImages

        with BagImages(os.fspath(bag), topic) as images:
            yield images


@contextmanager
def _reading(what: str, package: str) -> Iterator[None]:
    """Raise the client's exceptions."""
    try:
        yield
    except ImportError as error:
        raise BadImage(f"{what} needs {package} to be read: pip install {package} ({error}).") from error
    except base.BadImage as error:
        raise BadImage(str(error)) from error


def _part(start: Seconds | None, end: Seconds | None, frames: int) -> tuple[int | None, int | None]:
    if int(frames) != frames or not 1 <= frames <= MOST_FRAMES:
        raise BadRequest(f"frames is a whole number from 1 to {MOST_FRAMES}, got {frames}.")
    begin = None if start is None else _nanoseconds("start", start)
    until = None if end is None else _nanoseconds("end", end)
    if begin is not None and until is not None and begin > until:
        raise BadRequest(f"the part from {in_seconds(begin)} to {in_seconds(until)} ends before it begins.")
    return begin, until


def _nanoseconds(name: str, seconds: Seconds) -> int:
    if isinstance(seconds, Time):
        return int(seconds.sec) * SECOND + int(seconds.nanosec)
    if not (math.isfinite(seconds) and 0 <= seconds < 2**31):
        raise BadRequest(f"{name} is a number of seconds, zero or more, got {seconds}.")
    return round(Fraction(seconds) * SECOND)


def _stamp(time: int) -> Time:
    return Time(sec=time // SECOND, nanosec=time % SECOND)


def _jpeg_message(jpeg: bytes, header: Header) -> CompressedImage:
    return CompressedImage(header=header, format="jpeg", data=byte_field(jpeg))


def _small(image: Image | CompressedImage) -> CompressedImage:
    """Return an image of a bag as a frame of a clip: as it came, where it is small and compressed."""
    from qwen3vl_ros.vision.clip_frames import MAX_SIDE, fitted
    from qwen3vl_ros.vision.compressed import pixels_of
    from qwen3vl_ros.vision.jpeg import jpeg_of

    pixels = pixels_of(image)
    height, width = pixels.shape[:2]
    if isinstance(image, CompressedImage) and max(width, height) <= MAX_SIDE:
        return image
    import cv2
    import numpy as np

    small = np.asarray(cv2.resize(pixels, fitted((width, height), MAX_SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    return _jpeg_message(jpeg_of(small), image.header)
