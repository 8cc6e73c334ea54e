"""Windows of an index as text: times as people read them, lines for a terminal, objects for JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from qwen3vl_ros.index.entries import Source, Window

_SECOND: Final = 1_000_000_000
CLOCK: Final = 1_000_000_000 * _SECOND
"""Stamps from here on, of 2001, are of a clock that tells the date; a simulation's begin at 0."""


def time_text(source: Source, time: int) -> str:
    """Return a time: in a video or a bag since its beginning (1:02:05.0), of a camera the local date and time."""
    if source.kind in ("camera", "recording") and time >= CLOCK:
        return datetime.fromtimestamp(time / _SECOND).astimezone().isoformat(" ", "milliseconds")
    zero = source.start_ns if source.kind == "bag" else 0
    return clock(time - zero)


def clock(time: int) -> str:
    """Return 1:02:05.0 for 3725 seconds in nanoseconds, 2:05.0 for 125."""
    tenths = round(abs(time) * 10 / _SECOND)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{'-' * (time < 0)}{start}:{tenths / 10:04.1f}"


def span_text(window: Window) -> str:
    """Return from when until when a window lasts."""
    return f"{time_text(window.source, window.start_ns)} - {time_text(window.source, window.end_ns)}"


def said(window: Window) -> str:
    """Return the caption and the names of the things, each once with its number, in one line."""
    names: dict[str, int] = {}
    for thing in window.things:
        names[thing.name] = names.get(thing.name, 0) + 1
    things = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in names.items() if name)
    caption = " ".join(window.caption.split())
    return f"{caption} [{things}]".strip() if things else caption


def as_json(window: Window) -> dict[str, Any]:
    """Return a window as JSON has it: times in seconds as :func:`time_text` counts them, and in nanoseconds."""
    source = window.source
    zero = source.start_ns if source.kind == "bag" else 0
    return {
        "source": source.name,
        "kind": source.kind,
        "topic": source.topic,
        "start": (window.start_ns - zero) / _SECOND,
        "end": (window.end_ns - zero) / _SECOND,
        "frame": (window.frame_ns - zero) / _SECOND,
        "start_ns": window.start_ns,
        "end_ns": window.end_ns,
        "frame_ns": window.frame_ns,
        "caption": window.caption,
        "things": [
            {
                "name": thing.name,
                "box": thing.box,
                "stamp_ns": thing.stamp_ns,
                "position": thing.position,
                "frame_id": thing.frame_id,
            }
            for thing in window.things
        ],
    }
