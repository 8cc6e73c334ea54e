"""The answer of the task ``where_last``: what the memory has of a thing, in words, as a region and as a moment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
import PIL.Image
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadRequest, ImageInput, Unsupported
from qwen3vl_ros.index.entries import Sighting, Thing, Window
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.msg import Moment
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.depth import NO_DEPTH
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.images import InputImage, InputImages
from qwen3vl_ros.vlm.pipeline import PartialAnswer

_SECOND: Final = 1_000_000_000
_FIRST_DATE: Final = 365 * 86400
"""Seconds below which a stamp is no date: simulated time begins at 0."""

_MOST_WORDS: Final = 16
_MOST_CHARACTERS: Final = 200
_NO_NAMES: Final = frozenset({"the", "a", "an", "my", "your", "our"})
"""Words of a question that are no part of a thing's name."""


def check_alone(request: AskRequest) -> None:
    """Raise :class:`Unsupported`, which names the field, where the goal sets what only a model could honour."""
    used = {
        "images": bool(request.images),
        "history": bool(request.history),
        "session": bool(request.session),
        "clip_duration": request.clip is not None,
        "not_before": request.not_before > 0,
        "response_schema": request.response_schema is not None,
        "max_image_tokens": request.max_image_tokens > 0,
        "score_threshold": request.score_threshold_asked,
        "stop": bool(request.options.stop),
    } | dict.fromkeys(sorted(request.asked - {"task_system_prompt"}), True)
    for name, is_used in used.items():
        if is_used:
            raise Unsupported(f"{name}: task {request.task} asks no model, but the memory; leave it unset")


def name_in(prompt: str) -> str:
    """Return the words of a prompt that name the thing. Raises BadRequest where there are none, or too many."""
    words = [word for word in prompt.split() if word.lower() not in _NO_NAMES]
    if len(words) > _MOST_WORDS or len(prompt) > _MOST_CHARACTERS:
        raise BadRequest(
            f"prompt: it has {len(words)} words and {len(prompt)} characters; a thing's name has {_MOST_WORDS} and "
            f"{_MOST_CHARACTERS} at most"
        )
    if not any(character.isalnum() for word in words for character in word):
        raise BadRequest(f"prompt: {prompt!r:.100} names no thing; give its name, such as red ball")
    return " ".join(words)


def fill_seen(answer: PartialAnswer, store: Store, sighting: Sighting, in_view: bool, now: int, wanted: str) -> None:
    """Fill ``answer`` with where and when a thing was seen last.

    Args:
        answer: Gets text, region, moment, and the frame that shows the thing.
        store: Has that frame.
        sighting: Of the thing.
        in_view: Whether it is where it was seen, as far as was looked.
        now: By the node's clock, nanoseconds.
        wanted: Frame that the position is wanted in; "" = any.
    """
    thing, window = sighting.thing, sighting.window
    place = _camera(window)
    if thing.position is not None:
        x, y, z = thing.position
        place += f" at ({x:.2f}, {y:.2f}, {z:.2f}) m in {thing.frame_id}"
    answer.text.append(f"{thing.name}: {_when(thing.stamp_ns, in_view, now)}{place}")
    answer.moments = (_moment(thing.name, window),)
    alike = [other for other in window.things if other.name.casefold() == thing.name.casefold()]
    jpeg = store.jpeg(window)
    if not jpeg:
        answer.notes.append("the frame that shows it is not in the memory any more, and so there are no regions")
        return
    answer.inputs = InputImages((_image(jpeg, window.frame_ns, window.frame_id),))
    answer.regions = tuple(_region(other, window.frame_id) for other in alike)
    if wanted and any(other.position and other.frame_id != wanted for other in alike):
        answer.notes.append(
            f"the memory has the position in {thing.frame_id}, not in {wanted}: the node's parameter "
            "target_frame decides when a thing is seen"
        )


def fill_described(answer: PartialAnswer, store: Store, what: str, window: Window, in_view: bool, now: int) -> None:
    """Fill ``answer`` with the newest caption that names a thing which no box is of; arguments as of `fill_seen`."""
    when = _when(window.end_ns, in_view, now)
    answer.text.append(f"{what}: {when}{_camera(window)}, in words alone: {window.caption}")
    answer.moments = (_moment(what, window),)
    if jpeg := store.jpeg(window):
        answer.inputs = InputImages((_image(jpeg, window.frame_ns, window.frame_id),))


def fill_not_seen(answer: PartialAnswer, store: Store, what: str, cameras: Sequence[str]) -> None:
    """Fill ``answer`` with a sentence that says that a thing was never seen, and since when it could have been."""
    first = next(store.windows(), None)
    since = "the memory is empty yet" if first is None else f"the memory begins at {clock(first.start_ns)}"
    where = f" on camera {', '.join(cameras)}" if any(cameras) else ""
    answer.text.append(f"{what}: never seen{where}; {since}")


def clock(nanoseconds: int) -> str:
    """Return a time for people: the date and the time of the machine's time zone, or seconds of simulated time."""
    seconds = nanoseconds / _SECOND
    if seconds < _FIRST_DATE:
        return f"at {seconds:.3f} s"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """Return a length of time for people: the two largest units of it."""
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts[:2]) or "0 s"


def _when(stamp: int, in_view: bool, now: int) -> str:
    return f"in view now ({clock(stamp)})" if in_view else f"last seen {_since(stamp, now)}"


def _camera(window: Window) -> str:
    return f" on camera {window.source.name}" if window.source.name else ""


def _moment(label: str, window: Window) -> Moment:
    return Moment(label=label, stamp=_stamp(window.start_ns), end_stamp=_stamp(window.end_ns))


def _since(stamp: int, now: int) -> str:
    if now < stamp or (now < _FIRST_DATE * _SECOND) != (stamp < _FIRST_DATE * _SECOND):  # of another clock
        return clock(stamp)
    return f"{span((now - stamp) / _SECOND)} ago ({clock(stamp)})"


def _region(thing: Thing, camera_frame: str) -> Region:
    box = None
    if thing.box is not None:
        x, y, width, height = thing.box
        box = (float(x), float(y), float(x + width), float(y + height))
    missing = "" if thing.position is not None else f"{NO_DEPTH}the memory has no position of it"
    frame_id = "" if thing.frame_id == camera_frame else thing.frame_id
    return Region(thing.name, box=box, position=thing.position, position_error=missing, frame_id=frame_id)


def _image(jpeg: bytes, stamp: int, frame_id: str) -> InputImage:
    pixels = np.array(PIL.Image.open(io.BytesIO(jpeg)).convert("RGB"))
    _, fit = fit_image(pixels, ImageInput())
    return InputImage(Header(stamp=_stamp(stamp), frame_id=frame_id), pixels, (fit,))


def _stamp(nanoseconds: int) -> Time:
    sec, nanosec = divmod(nanoseconds, _SECOND)
    return Time(sec=sec, nanosec=nanosec)
