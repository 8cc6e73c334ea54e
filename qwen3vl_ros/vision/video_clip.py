"""Takes a clip out of a video file: a few of its frames as small JPEG images with their times. No ROS node code."""

from __future__ import annotations

from pathlib import Path

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.clip_frames import MAX_SIDE, ClipFrame, VideoClip, fitted
from qwen3vl_ros.vision.encodings import MAX_PIXELS
from qwen3vl_ros.vision.frame_times import DEFAULT_FRAMES, SECOND, in_seconds
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vision.video_file import VideoReader, turns_of, upright


def clip_of(
    file: str | Path | bytes,
    name: str,
    *,
    start: int = 0,
    end: int | None = None,
    count: int = DEFAULT_FRAMES,
    max_side: int = MAX_SIDE,
    longest: int | None = None,
    threads: int = 0,
    most_pixels: int = MAX_PIXELS,
) -> VideoClip:
    """Return at most ``count`` frames, evenly from ``start`` to ``end``; all, where there are no more.

    Args:
        file: Path, or the file's content.
        name: Of the file, for sentences.
        start: Time of the first one, nanoseconds since the beginning.
        end: Time of the last one; None for the end of the video.
        count: How many.
        max_side: Most pixels of the longer side of a frame.
        longest: A video that lasts longer is refused, nanoseconds; None takes any.
        threads: As of :class:`VideoReader`.
        most_pixels: As of :class:`VideoReader`.

    Raises:
        BadImage: It cannot be read, lasts too long, or has no such frame.
    """
    with VideoReader(file, name, threads=threads, most_pixels=most_pixels) as video:
        if longest is not None and video.length > longest:
            raise BadImage(
                f"{name} is {in_seconds(video.length)} long, and {in_seconds(longest)} are accepted: send a part of it."
            )
        sent = fitted(video.size, max_side)
        frames = []
        for time, frame in video.clip(start, video.length if end is None else end, count):
            turned = turns_of(frame) % 2
            pixels = upright(frame, (sent[1], sent[0]) if turned else sent)
            frames.append(ClipFrame(time, jpeg_of(pixels)))
        return VideoClip(tuple(frames), video.size, sent)


def clip_apart(content: bytes, name: str, count: int, longest: float, most_pixels: int) -> VideoClip:
    """Do as :func:`clip_of` in a process of its own, whose border ValueError can cross; ``longest`` is in seconds.

    Raises:
        ValueError: In place of BadImage.
    """
    try:
        return clip_of(content, name, count=count, longest=int(longest * SECOND), threads=1, most_pixels=most_pixels)
    except BadImage as error:
        raise ValueError(str(error)) from error
    except MemoryError as error:
        raise ValueError(f"{name} takes too much memory to decode: send a smaller one.") from error
