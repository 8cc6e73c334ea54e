"""Reads a recording, whether or not a node writes it: its answers, and what somebody said that was right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

IMAGE_FILE: Final = re.compile(r"images/[0-9a-f]{2}/[0-9a-f]{64}\.jpg")
"""How a line names an image. A name of another kind is not a recording's, and is not read."""


class RecordingError(Exception):
    """The recording cannot be written, or has no such answer; the text is a sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """A line of a recording, and the right answer if somebody gave one. ``entry``: docs/recording.md has its keys."""

    directory: Path
    entry: Mapping[str, Any]
    correction: str | None = None

    @property
    def goal_id(self) -> str:
        """Its identifier, 32 hexadecimal digits."""
        return str(self.entry["goal_id"])


def read_answers(directory: Path) -> Iterator[RecordedAnswer]:
    """Yield the answers of a recording, the oldest first, also of one that a node writes. Lines cut off are skipped.

    Raises:
        RecordingError: It is no recording.
    """
    check_recording(directory)
    corrections = {
        entry["correct"]: str(entry["text"])
        for path in segments_of(directory)
        for entry in entries_of(path)
        if "correct" in entry and "text" in entry
    }
    for path in segments_of(directory):
        for entry in entries_of(path):
            if "goal_id" in entry:
                yield RecordedAnswer(directory, entry, corrections.get(entry["goal_id"]))


def check_recording(directory: Path) -> None:
    """Raise :class:`RecordingError` if there is no recording in ``directory``."""
    if not (directory / "answers").is_dir():
        raise RecordingError(f"{directory} is no recording: name what the node's parameter record.directory has")


def find_answer(directory: Path, goal_id: str) -> RecordedAnswer:
    """Return the answer that :func:`whole_id` finds."""
    check_recording(directory)
    whole = whole_id(directory, goal_id)
    return next(answer for answer in read_answers(directory) if answer.goal_id == whole)


def whole_id(directory: Path, goal_id: str) -> str:
    """Return the identifier of the answer whose identifier is ``goal_id``, or is the only one that begins so.

    Raises:
        RecordingError: There is none, or more than one.
    """
    beginning = normal_id(goal_id)
    found: set[str] = set()
    for path in reversed(segments_of(directory)):  # people correct what was said just now
        found |= {
            str(entry["goal_id"])
            for entry in entries_of(path, beginning)
            if str(entry.get("goal_id", "")).startswith(beginning)
        }
        if beginning in found:
            return beginning
    if not found:
        raise RecordingError(f"there is no answer {goal_id!r} in the recording: `qwen3vl-ros record list` has all")
    if len(found) > 1:
        raise RecordingError(f"{len(found)} answers begin with {goal_id!r}: give more of the identifier")
    return found.pop()


def normal_id(goal_id: str) -> str:
    """Return an identifier, or its beginning, without hyphens. Raises RecordingError if it cannot be one."""
    digits = goal_id.replace("-", "").strip().lower()
    if not re.fullmatch("[0-9a-f]{4,32}", digits):
        raise RecordingError(
            f"{goal_id!r} is no identifier of an answer: that has 32 hexadecimal digits, of which 4 at least are needed"
        )
    return digits


def segments_of(directory: Path) -> list[Path]:
    """Return the files of answers, the oldest first."""
    paths = [path for path in (directory / "answers").glob("*.jsonl") if path.stem.isascii() and path.stem.isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem))


def entries_of(path: Path, containing: str = "") -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of answers; lines that are none, as after a crash, are skipped.

    ``containing``: only those of lines in which this stands; not to parse the others is much faster.
    """
    wanted = containing.encode()
    with suppress(FileNotFoundError), path.open("rb") as file:  # deleted meanwhile to make room
        for line in file:
            if wanted not in line:
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry
