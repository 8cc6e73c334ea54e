"""Stamps the times that an answer about a clip names."""

from __future__ import annotations

from collections.abc import Callable

from builtin_interfaces.msg import Time

from qwen3vl_ros.msg import Moment
from qwen3vl_ros.vision.moments import frame_at, parse_moments
from qwen3vl_ros.vlm.clips import nanoseconds
from qwen3vl_ros.vlm.images import InputImages


def moments_of(text: str, inputs: InputImages, report: Callable[[str], None]) -> tuple[Moment, ...]:
    """Parse the times of ``text``, in the clock of the images' stamps; () for a question that is not about a clip.

    Args:
        text: The answer.
        inputs: The images that it is about.
        report: Takes a sentence about times that are left out.
    """
    times = inputs.clip_times
    if not times:
        return ()
    first = nanoseconds(inputs.own[0].header.stamp)
    found = parse_moments(text, times[-1])
    for sentence in found.notes:
        report(sentence)
    return tuple(
        Moment(
            label=moment.label,
            stamp=_stamp(first, moment.start),
            end_stamp=_stamp(first, moment.end),
            image_index=inputs.subject + (frame_at(times, moment.start) or 0),
        )
        for moment in found.moments
    )


def _stamp(first: int, seconds: float) -> Time:
    """Return the stamp ``seconds`` after ``first``, which is in nanoseconds."""
    sec, nanosec = divmod(first + round(seconds * 1e9), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)
