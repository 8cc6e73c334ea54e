"""What an index holds: windows of time, and the things that were seen in them. Times are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass


class IndexFileError(Exception):
    """The index cannot be opened, read or written; the text is a sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the windows are of. ``kind``, ``name`` and ``topic`` together say which one it is.

    Attributes:
        kind: "video", whose times count from its first frame; "bag", "recording" or "camera", whose times are stamps.
        name: Absolute path of the file or directory, or the camera's name.
        topic: Of a bag.
        start_ns: Time of its beginning, from which times are counted when they are shown.
        window_ns: Length of its windows; 0 where they have none in common.
        fingerprint: Tells whether a file is still the one that was indexed.
    """

    kind: str
    name: str
    topic: str = ""
    start_ns: int = 0
    window_ns: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Thing:
    """A named thing in a window.

    Attributes:
        name: As the model says it.
        stamp_ns: Time of the frame that shows it.
        box: x, y, width, height in pixels of the frame as it was published; None without one.
        position: x, y, z in metres in the frame ``frame_id``; None if it is unknown.
        frame_id: Of ``position``.
    """

    name: str
    stamp_ns: int
    box: tuple[int, int, int, int] | None = None
    position: tuple[float, float, float] | None = None
    frame_id: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a source's time, from ``start_ns`` to ``end_ns``, and what was seen in it.

    Attributes:
        source: What it is of.
        start_ns: When it begins.
        end_ns: When it ends; what ends later than another one of its source comes after it.
        frame_ns: Time of the evidence frame, which ``things`` are in.
        caption: What happens; "" without one.
        things: What is in the evidence frame.
        jpeg: The evidence frame; b"" where there is none, and of a window that is read: :meth:`Store.jpeg` has it.
        frame_id: tf frame of the camera that took the evidence frame; "" where it is unknown.
        id: In the file, given by it; a window that was added later has a greater one.
    """

    source: Source
    start_ns: int
    end_ns: int
    frame_ns: int
    caption: str = ""
    things: tuple[Thing, ...] = ()
    jpeg: bytes = b""
    frame_id: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A thing, and the window that it was seen in."""

    thing: Thing
    window: Window
