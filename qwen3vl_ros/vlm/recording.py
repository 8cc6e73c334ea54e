"""The files of a recording: answers as JSON lines, and the images that they are about, within a size.

``answers/NUMBER.jsonl``: segments of answers, the oldest first; each start begins a new one. ``images/AB/ABCD....jpg``:
named by their SHA-256, one file however many answers are about it. The oldest segment goes when there is no room, and
with it the images that no later one refers to. ``lock``: held by who writes. docs/recording.md describes the lines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from qwen3vl_ros.vlm.recorded_answers import RecordingError, segments_of, whole_id

NOTICE: Final = """\
This directory is a recording of a robot's questions, its answers and the images that they are about, made by the node
vlm of the ROS 2 package qwen3vl_ros, because its parameter record.directory names it.

There may be people in the images: their faces, their homes, their screens and papers. Who keeps, copies or passes on
these files answers for what becomes of them, under the law of the place (in Europe the GDPR): ask those who may be
seen, keep no more than is needed, and delete it then. Only the user who ran the node can read the files.

To delete the recording, delete this directory; to end it, set record.directory to "" and configure the node again.
"""

LONGEST_CORRECTION: Final = 100_000
"""Most characters of a correction."""

_SEGMENTS_OF_WHOLE: Final = 20
"""A segment is closed at this part of the recording's size, so that no more than about that is deleted at once."""

_IMAGE: Final = re.compile(rb'"(images/[0-9a-f]{2}/[0-9a-f]{64}\.jpg)"')
"""An image's name in a line; in a text of the answer, its quotes would be escaped."""

_FOR_OWNER: Final = 0o600
_CHUNK: Final = 1 << 20


@dataclass(slots=True)
class _Segment:
    """A file of answers. ``size``: its bytes, and those of ``images``, to which no newer segment refers."""

    number: int
    size: int = 0
    images: dict[str, int] = field(default_factory=dict)


class Recording:
    """Writes a recording. Not thread-safe.

    Args:
        directory: Made if it is missing.
        megabytes: Most megabytes (10^6 bytes) of all files together.

    Raises:
        RecordingError: It is no recording and not empty, or somebody else writes it.
        OSError: It cannot be made or read.
    """

    def __init__(self, directory: Path, megabytes: float) -> None:
        self.directory = directory
        self._most = megabytes * 1e6
        self._total = len(NOTICE)
        self._segments: deque[_Segment] = deque()
        self._newest_use: dict[str, _Segment] = {}
        self._prepare()
        self._lock = _locked(directory)
        try:
            self._scan()
            self._segments.append(_Segment(self._segments[-1].number + 1 if self._segments else 1))
            self._make_room(0)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return self._total

    @property
    def is_there(self) -> bool:
        """Whether nobody has deleted the directory meanwhile."""
        try:
            return os.path.samestat(os.fstat(self._lock), (self.directory / "lock").stat())
        except FileNotFoundError:
            return False

    def append(self, entry: Mapping[str, Any], images: Sequence[bytes]) -> None:
        """Write an answer.

        Args:
            entry: As JSON has it; ``images`` is a list of objects, which get the ``file`` of each image.
            images: JPEG files.

        Raises:
            RecordingError: It is larger than the whole recording may be.
            OSError: It cannot be written, for want of room most likely. Nothing of it is left then.
        """
        files = {_name_of(image): image for image in images}
        described = [dict(one, file=_name_of(image)) for one, image in zip(entry["images"], images, strict=True)]
        line = _line_of({**entry, "images": described})
        new = {name: image for name, image in files.items() if self._size_of(name) != len(image)}
        need = len(line) + sum(map(len, new.values()))
        if need > self._most * (1 - 1 / _SEGMENTS_OF_WHOLE):
            raise RecordingError(
                f"an answer of {need / 1e6:.1f} MB is left out, as it would take the whole recording: raise "
                "record.megabytes"
            )
        segment = self._open_segment()
        for name in files.keys() - new.keys():
            self._refer(name, segment, len(files[name]))
        self._make_room(need)
        written: list[str] = []
        try:
            for name, image in new.items():
                written.append(name)
                self._write_image(name, image)
            self._write_line(segment, line)
        except BaseException:
            for name in written:
                with suppress(OSError):
                    (self.directory / name).unlink()
            raise
        for name, image in new.items():
            self._refer(name, segment, len(image))
            self._total += len(image)

    def correct(self, goal_id: str, text: str) -> None:
        """Write what the right answer would have been, to be found with the answer by :func:`read_answers`.

        Raises:
            RecordingError: There is no such answer, or more than one whose identifier begins so.
            OSError: It cannot be written.
        """
        if not text.strip():
            raise RecordingError("the right answer is empty: say what the model should have answered")
        if len(text) > LONGEST_CORRECTION:
            raise RecordingError(f"the right answer has {len(text)} characters, more than {LONGEST_CORRECTION}")
        whole = whole_id(self.directory, goal_id)
        line = _line_of({"correct": whole, "text": text, "time": now()})
        segment = self._open_segment()
        self._make_room(len(line))
        self._write_line(segment, line)

    def close(self) -> None:
        """Let others write it."""
        os.close(self._lock)

    def _prepare(self) -> None:
        """Make the directory, for its owner alone."""
        directory = self.directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = {"answers", "images", "lock", "incoming", "NOTICE", "lost+found"}  # the last, of a disk of its own
        if others := sorted({entry.name for entry in os.scandir(directory)} - known):
            raise RecordingError(
                f"{directory} is not a recording, as it holds {others[0]!r}: set record.directory to a new directory"
            )
        for folder in (directory, directory / "answers", directory / "images"):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_mode & 0o777 != 0o700:
                folder.chmod(0o700)
        notice = directory / "NOTICE"
        if not notice.exists() or notice.read_bytes() != NOTICE.encode():
            _write_whole(notice, NOTICE.encode())

    def _scan(self) -> None:
        """Read which images the segments refer to, and delete those that nobody does, left by a crash."""
        with suppress(FileNotFoundError):
            (self.directory / "incoming").unlink()
        sizes = {
            f"images/{folder.name}/{file.name}": file.stat().st_size
            for folder in os.scandir(self.directory / "images")
            for file in os.scandir(folder.path)
        }
        self._total += sum(sizes.values())
        for path in segments_of(self.directory):
            segment = _Segment(int(path.stem), path.stat().st_size)
            self._segments.append(segment)
            self._total += segment.size
            for name in _images_in(path):
                if name in sizes:
                    self._refer(name, segment, sizes[name])
        for name in sizes.keys() - self._newest_use.keys():
            (self.directory / name).unlink()
            self._total -= sizes[name]

    def _open_segment(self) -> _Segment:
        """Return the segment for the next line: the newest one, or a new one if that is large enough."""
        newest = self._segments[-1]
        if newest.size >= self._most / _SEGMENTS_OF_WHOLE:
            newest = _Segment(newest.number + 1)
            self._segments.append(newest)
        return newest

    def _size_of(self, name: str) -> int:
        """Return the bytes of an image's file, -1 without one; after a power cut it may be shorter than it was."""
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return -1

    def _refer(self, name: str, segment: _Segment, size: int) -> None:
        """Note that the newest ``segment`` refers to an image."""
        before = self._newest_use.get(name)
        if before is not segment:
            if before is not None:
                before.size -= before.images.pop(name)
            self._newest_use[name] = segment
            segment.images[name] = size
            segment.size += size

    def _make_room(self, need: int) -> None:
        """Delete the oldest segments until so many bytes more are within the size."""
        while self._total + need > self._most and len(self._segments) > 1:
            oldest = self._segments[0]
            # Before the images, so that no line ever refers to one that is not there.
            self._path(oldest).unlink(missing_ok=True)
            for name in oldest.images:
                (self.directory / name).unlink(missing_ok=True)
                self._newest_use.pop(name, None)
            self._segments.popleft()
            self._total -= oldest.size

    def _write_image(self, name: str, image: bytes) -> None:
        """Write a whole image or none: a file of that name is never cut off."""
        incoming, path = self.directory / "incoming", self.directory / name
        try:
            _write_whole(incoming, image)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            incoming.replace(path)
        except OSError:
            with suppress(OSError):
                incoming.unlink()
            raise

    def _write_line(self, segment: _Segment, line: bytes) -> None:
        descriptor = os.open(self._path(segment), os.O_WRONLY | os.O_APPEND | os.O_CREAT, _FOR_OWNER)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, line)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        segment.size += len(line)
        self._total += len(line)

    def _path(self, segment: _Segment) -> Path:
        return self.directory / "answers" / f"{segment.number:06}.jsonl"


def now() -> str:
    """Return the time as a recording has it: ISO 8601, UTC, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _images_in(path: Path) -> Iterator[str]:
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            yield from (name.decode() for name in _IMAGE.findall(line))


def _line_of(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


def _name_of(image: bytes) -> str:
    digest = hashlib.sha256(image).hexdigest()
    return f"images/{digest[:2]}/{digest}.jpg"


def _locked(directory: Path) -> int:
    """Return the descriptor of the directory's lock, which is held until it is closed. Raises RecordingError."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, _FOR_OWNER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RecordingError(
            f"another process writes {directory}: give each node a record.directory of its own, and leave out "
            "--directory to correct an answer of a running node"
        ) from None
    return descriptor


def _write_whole(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FOR_OWNER)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write everything; the system may take less at a time."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view[:_CHUNK]) :]
