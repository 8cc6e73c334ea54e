"""Reads frames of a video file by their times, with PyAV, which is FFmpeg. No ROS node code.

Times are nanoseconds since the first frame, by the presentation time stamps (PTS) of the file; in a file without any,
by its rate. Whatever the length of the video, one frame after the other is decoded and only those that are asked for
are kept; what lies between them is skipped where the container can seek.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import av
import av.stream
import numpy as np

from qwen3vl_ros.engines.base import BadImage, Image
from qwen3vl_ros.vision.encodings import MAX_PIXELS
from qwen3vl_ros.vision.frame_times import SECOND, even_times, in_seconds

_FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,flv,ogg,asf,mxf,dv,nut,mjpeg,"
    "mpjpeg,yuv4mpegpipe,gif,apng,rm"
)
"""FFmpeg's names of what is read: files that hold their images, and no playlists, which name other files."""

_TAIL: Final = 2 * SECOND
"""Before the end that a file's header names: where the search for the last frame begins."""

_WORTH: Final = SECOND
"""A gap between two frames that are asked for in which decoding is not slower than seeking."""

_EARLY: Final = (0, 2 * SECOND, 10 * SECOND)
"""How much before a time to seek: in MPEG-TS, a seek ends at any frame, and decoding begins at the next key frame."""

_LONGEST: Final = 2**31 * SECOND
"""Seconds of a stamp have 31 bits."""


def upright(frame: Any, size: tuple[int, int] | None = None) -> Image:
    """Return the pixels of a frame of PyAV's as a player shows it, uint8 RGB, shape [height, width, 3].

    Args:
        frame: Of any pixel format; turned where the file says so, as those of phones do.
        size: Width and height to scale it to, before it is turned; None for its own.
    """
    scaled = {"width": size[0], "height": size[1], "interpolation": "AREA"} if size else {}
    pixels: Image = frame.to_ndarray(format="rgb24", **scaled)
    turns = turns_of(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def turns_of(frame: Any) -> int:
    """Return by how many quarters a frame is to be turned anticlockwise, 0 to 3."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def reason_of(error: Exception) -> str:
    """Return what went wrong, without the address, in which a password may be, and without a full stop."""
    if isinstance(error, av.error.ExitError):  # what FFmpeg calls it when PyAV interrupts it
        return "nothing comes from it"
    return str(getattr(error, "strerror", "") or error).rstrip(".")


class VideoReader:
    """An open video file. Use it in a ``with`` block, in one thread.

    Args:
        file: Path, or the file's content.
        name: Of the file, for sentences.
        threads: Of the decoder; 0 for as many as there are cores. Each takes memory of its own.
        most_pixels: A video of larger images is refused before one is decoded.

    Raises:
        BadImage: It cannot be read as a video; so do all methods.
    """

    def __init__(self, file: str | Path | bytes, name: str, *, threads: int = 0, most_pixels: int = MAX_PIXELS) -> None:
        self._file = file
        self._name = name
        self._threads = threads
        self._most_pixels = most_pixels
        self._worth = _WORTH
        self._zero = 0
        self._before: tuple[int, Any] | None = None
        self._now: tuple[int, Any] | None = None
        self._open()
        try:
            self._interval = Fraction(SECOND) / (self._stream.average_rate or 25)
            first = self._next()
            if first is None:
                raise BadImage(f"{name} has no image that can be decoded.")
            self._zero, frame = first
            self._seeks = frame.pts is not None
            self.size = (frame.height, frame.width) if turns_of(frame) % 2 else (frame.width, frame.height)
            """Width and height in pixels, as a player shows it."""
            self.length = self._find_last()
            """Time of the last frame, nanoseconds."""
            if self.length >= _LONGEST:
                raise BadImage(f"{name} has a time stamp of {in_seconds(self.length)}, more than ROS can express.")
            self._restart()
        except BaseException:
            self.close()
            raise

    def clip(self, start: int, end: int, count: int) -> Iterator[tuple[int, Any]]:
        """Yield at most ``count`` frames of PyAV's with their times, evenly from ``start`` to ``end``.

        Each is the one nearest to its time that lies between both; none comes twice. Take the pixels of one before the
        next.

        Raises:
            BadImage: There is no frame between them, or what is there cannot be decoded.
        """
        last = min(end, self.length)
        if start > last:
            raise BadImage(
                f"{self._name} has no frame at {in_seconds(start)} or later: its last one is at "
                f"{in_seconds(self.length)}."
                if start > self.length
                else f"{self._name}: the part from {in_seconds(start)} to {in_seconds(end)} ends before it begins."
            )
        taken = -1
        for time in even_times(start, last, count):
            self._go_to(time)
            near = [frame for frame in (self._before, self._now) if frame is not None and start <= frame[0] <= end]
            if not near:
                continue
            nearest = min(near, key=lambda frame: abs(frame[0] - time))
            if nearest[0] > taken:
                taken = nearest[0]
                yield nearest
        if taken < 0:
            raise BadImage(f"{self._name} has no frame from {in_seconds(start)} to {in_seconds(last)}.")

    def at(self, time: int) -> tuple[int, Any]:
        """Return the frame of PyAV's that a player shows at ``time``, the last one not after it, with its own time."""
        end = self.length + round(self._interval)
        if time > end:
            raise BadImage(f"{self._name} has no frame at {in_seconds(time)}: it is {in_seconds(end)} long.")
        self._go_to(time)
        if self._now is not None and (self._now[0] <= time or self._before is None):
            return self._now
        if self._before is None:
            raise BadImage(f"{self._name} has no frame at {in_seconds(time)} that can be decoded.")
        return self._before

    def between(self, start: int, end: int) -> Iterator[tuple[int, Any]]:
        """Yield all frames of PyAV's from ``start`` until before ``end``, with their times."""
        self._go_to(start)
        while self._now is not None and self._now[0] < end:
            yield self._now
            self._go_to(self._now[0] + 1)

    def close(self) -> None:
        """Free the decoder and close the file. Idempotent."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        source = io.BytesIO(self._file) if isinstance(self._file, bytes) else f"file:{self._file}"
        if not isinstance(self._file, bytes) and not Path(self._file).is_file():
            raise BadImage(f"There is no video file {self._file}.")
        try:
            self._container = av.open(source, "r", options={"format_whitelist": _FORMATS})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        try:
            self._stream = self._video_stream()
            codec = self._stream.codec_context
            codec.thread_count, codec.thread_type = self._threads, "AUTO"
            codec.options = {"max_pixels": str(self._most_pixels)}
            self._check_size(codec.width, codec.height)
            self._frames = self._decode()
        except BaseException:
            self.close()
            raise

    def _video_stream(self) -> Any:
        cover = av.stream.Disposition.attached_pic  # of a piece of music
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            raise BadImage(f"{self._name} has no video in it.")
        if streams[0].codec_context is None:
            raise BadImage(f"{self._name} holds a video of a kind that FFmpeg does not know here.")
        return streams[0]

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._most_pixels:
            raise BadImage(
                f"{self._name} has images of {width}x{height} pixels, more than the {self._most_pixels} that are "
                "accepted."
            )

    def _go_to(self, time: int) -> None:
        """Make ``_now`` the first frame at or after ``time``, None at the end, and ``_before`` the one before it."""
        here = self._now[0] if self._now is not None else self.length
        if self._seeks and time - here > self._worth:
            self._seek(time, here)
        while self._now is not None and self._now[0] < time:
            self._before, self._now = self._now, self._next(self._now[0])

    def _seek(self, time: int, here: int) -> None:
        """Go on at the last key frame before ``time``; where there is none after ``here``, seek less often."""
        for early in _EARLY:
            found = self._key_frame(time - early)
            if found is not None and found[0] <= time:
                break
        else:
            self._seeks = False
            self._restart()
            return
        if found[0] <= here:
            self._worth = 2 * (time - here)
        self._before, self._now = None, found

    def _key_frame(self, time: int) -> tuple[int, Any] | None:
        """Return the first frame that can be decoded after a seek to ``time``, with its time; None without one."""
        try:
            self._container.seek(self._pts_of(time), stream=self._stream)
            self._frames = self._decode()
            return self._next()
        except (av.FFmpegError, OSError, BadImage):
            return None

    def _pts_of(self, time: int) -> int:
        pts: int = math.floor(Fraction(time + self._zero, SECOND) / self._stream.time_base)
        return pts

    def _restart(self) -> None:
        """Go on at the first frame; the file is opened anew, since not all can be rewound."""
        self.close()
        self._open()
        self._before, self._now = None, self._next()

    def _next(self, after: int | None = None) -> tuple[int, Any] | None:
        """Return the next frame that is later than ``after``, with its time; None at the end."""
        for time, frame in self._frames:
            if after is None or time > after:
                return time, frame
        return None

    def _decode(self) -> Iterator[tuple[int, Any]]:
        """Yield the frames from here on, with their times; leaves damaged ones out."""
        number = 0
        try:
            for packet in self._container.demux(self._stream):
                frames: list[Any] = []
                with suppress(av.InvalidDataError):
                    frames = packet.decode()
                for frame in frames:
                    self._check_size(frame.width, frame.height)
                    base = frame.time_base or self._stream.time_base
                    since = frame.pts * base * SECOND if frame.pts is not None else number * self._interval
                    number += 1
                    yield round(since) - self._zero, frame
        except (av.FFmpegError, OSError, ValueError) as error:
            if number == 0 or getattr(error, "errno", None) == errno.ENOMEM:
                raise self._unreadable(error) from error

    def _find_last(self) -> int:
        """Return the time of the last frame: from the end of the file where it can be reached, else reading it all."""
        stream = self._stream
        length = stream.duration * stream.time_base * SECOND if stream.duration else Fraction(0)
        if not length and self._container.duration:
            length = Fraction(self._container.duration, av.time_base) * SECOND
        if length > _TAIL and self._seeks:
            with suppress(av.FFmpegError, OSError):
                self._container.seek(self._pts_of(int(length) - _TAIL), stream=stream)
                last = self._last_of_packets()
                if last is not None:
                    return max(0, last)
        self.close()  # decoding the first frame has taken some packets
        self._open()
        return max(0, self._last_of_packets() or 0)

    def _last_of_packets(self) -> int | None:
        """Return the greatest time of the packets from here on, without decoding; None if there is none."""
        last: int | None = None
        count = 0
        with suppress(av.FFmpegError, OSError):
            for packet in self._container.demux(self._stream):
                if packet.size:
                    count += 1
                    if packet.pts is not None:
                        time = round(packet.pts * packet.time_base * SECOND) - self._zero
                        last = time if last is None else max(last, time)
        if last is None and count:
            last = round((count - 1) * self._interval)
        return last

    def _unreadable(self, error: Exception) -> BadImage:
        kinds = "" if isinstance(error, OSError) and error.filename else " MP4, WebM, Matroska, AVI and MPEG-TS can be."
        return BadImage(f"{self._name} cannot be read as a video: {reason_of(error)}.{kinds}")
