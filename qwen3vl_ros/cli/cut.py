"""`qwen3vl-ros cut`: writes the seconds of a video or a bag in which something was seen as a video."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av

from qwen3vl_ros.cli.footage import Frame, OpenFootage
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.index.entries import IndexFileError, Source, Window
from qwen3vl_ros.index.find import find, joined_spans
from qwen3vl_ros.index.show import time_text
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.vision.frame_times import SECOND

_CODECS: Final = ("libx264", "mpeg4")
"""The first one that this FFmpeg has is taken."""

_TIME_BASE: Final = Fraction(1, 90_000)
_LAST: Final = Fraction(1, 25)
"""Seconds between the end of a part and the next one, where a part has a single frame."""


def run_cut(words: str, index: Path, out: Path, *, margin: float, source: str) -> int:
    """Write the windows with ``words`` one after the other into ``out``; return the exit status.

    Args:
        words: As of `search`.
        index: The file.
        out: Video file to write; what is there is replaced when the new one is complete.
        margin: Seconds before and after each window.
        source: Name, or the end of the name, of what to cut from, where an index has several.
    """
    try:
        with Store(index) as store:
            windows, exact = find(store, words)
        if not windows:
            print(f"{index} has no window with {words!r}.", file=sys.stderr)
            return 1
        if not exact and len(words.split()) > 1:
            print(f"No window has {words!r} as it stands; these have all its words.", file=sys.stderr)
        chosen = _source_of(windows, source)
        if out.exists() and Path(chosen.name).exists() and out.samefile(chosen.name):
            raise IndexFileError(f"{out} is what is cut from: name another file.")
        parts = [window for window in windows if window.source == chosen]
        _cut(chosen, parts, round(margin * SECOND), out)
    except (IndexFileError, BadImage) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _source_of(windows: Sequence[Window], name: str) -> Source:
    """Return the only source of the windows whose name ends with ``name``, or refuse."""
    there = dict.fromkeys(window.source for window in windows)
    sources = [source for source in there if source.name.endswith(name) or source.topic == name]
    names = ", ".join(f"{source.name} {source.topic}".rstrip() for source in there)
    if len(sources) != 1:
        raise IndexFileError(f"These have such windows: {names}. Choose one with --source NAME.")
    if sources[0].kind not in ("video", "bag"):
        raise IndexFileError(f"{names} is no video and no bag: only from those a video is cut.")
    return sources[0]


def _cut(source: Source, windows: Sequence[Window], margin: int, out: Path) -> None:
    if not Path(source.name).exists():
        raise IndexFileError(
            f"{source.name}, which the index is of, is not there any more: move it back, or index it where it is now."
        )
    with OpenFootage(source.name, source.topic if source.kind == "bag" else "") as footage:
        if footage.source.fingerprint != source.fingerprint:
            raise IndexFileError(f"{source.name} is not the file any more that was indexed: index it again.")
        spans = joined_spans(windows, margin, footage.first, footage.last + 1)
        incoming = out.with_name(f".{out.stem}.incoming{out.suffix}")
        try:
            with _VideoFile(incoming) as video:
                for start, end in spans:
                    video.add(footage.between(start, end))
            incoming.replace(out)
        except (OSError, ValueError, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or error
            raise IndexFileError(
                f"{out} cannot be written as a video: {reason}. A name such as clip.mp4 can be."
            ) from error
        finally:
            incoming.unlink(missing_ok=True)
    for start, end in spans:
        print(f"{time_text(source, start)} - {time_text(source, end)}")
    print(f"{out}: {video.seconds:.1f} s, {video.frames} frames, without sound.", file=sys.stderr)


class _VideoFile:
    """A video that is written: parts one after the other, each frame as long after the one before it as it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: Any = None
        self._stream: Any = None
        self._next = Fraction(0)
        self.frames = 0

    @property
    def seconds(self) -> float:
        """Length so far."""
        return float(self._next)

    def __enter__(self) -> _VideoFile:
        self._container = av.open(str(self._path), "w")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, frames: Iterator[Frame]) -> None:
        """Write the frames of a part."""
        zero, begin, last, gap = None, self._next, 0, _LAST
        for frame in frames:
            zero = frame.time if zero is None else zero
            if frame.time > last and last:
                gap = Fraction(frame.time - last, SECOND)
            last = frame.time
            self._write(frame, begin + Fraction(frame.time - zero, SECOND))
        if zero is not None:
            self._next = begin + Fraction(last - zero, SECOND) + gap

    def _write(self, frame: Frame, time: Fraction) -> None:
        height, width = (side - side % 2 for side in frame.pixels.shape[:2])  # as the pixel format wants them
        if self._stream is None:
            codec = next(name for name in _CODECS if name in av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=30)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = _TIME_BASE
        picture = av.VideoFrame.from_ndarray(frame.pixels[:height, :width], format="rgb24")
        if (width, height) != (self._stream.width, self._stream.height):
            picture = picture.reformat(self._stream.width, self._stream.height)
        picture.pts, picture.time_base = round(time / _TIME_BASE), _TIME_BASE
        self._container.mux(self._stream.encode(picture))
        self.frames += 1
