"""Parses the times of an answer about a clip, from prose and from JSON, to moments in seconds of the clip.

The formats are those of Qwen's cookbook video_understanding (QwenLM/Qwen3-VL), ``[{"time": 1.0, ...}]`` and events with
their start and end in seconds or ``mm:ss.ff``, those that other models write, and sentences with times in them.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.vision.lenient_json import Group, Node, Value, groups, read
from qwen3vl_ros.vision.written_times import WrittenTime, time_in, written_times

MOST_MOMENTS: Final = 200
"""Most moments of an answer; small models repeat themselves."""

_LONGEST_LABEL: Final = 300
"""Most characters of a label; hundreds of times may stand in one sentence."""

_ROUNDING: Final = 0.5
"""Seconds after the last frame that a time may be and mean that frame: models round to whole seconds."""

_MOST_TOLD: Final = 3
"""Most times that a note about those outside of the clip names."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time that an answer names, or a range of time: seconds since the clip's first frame, ``start`` <= ``end``."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of an answer in the order of its text, and a sentence for each kind of time that was left out."""

    moments: tuple[Moment, ...] = ()
    notes: tuple[str, ...] = ()


def parse_moments(text: str, length: float) -> Moments:
    """Parse the times in an answer about a clip.

    - A time is "0:04.5", "1:02:03", "4.5 seconds", "4.5s", "at second 3", "第3秒", a range "2 to 4 seconds" or "0:02 -
      0:04", each of a list "at 1, 2 and 4 seconds"; in JSON a number of seconds or such a text under a key that means a
      time ("time", "timestamps", "start" with "end", ...), or such a text as a key.
    - A duration ("for 3 seconds") is none, nor are the hours of a day ("12:30 pm") and numbers without a unit.
    - What is outside of the clip is left out and told in ``notes``. Up to half a second after its end means its end. A
      range that only ends outside is shortened.
    - A label is the description beside the time in its JSON object, or the sentence that the time stands in, without
      the time where that precedes it ("0:04.5: the cup falls"); "" where there is nothing but the time. Up to 300
      characters of it are kept.
    - An exact repetition is dropped, and what exceeds 200 moments.

    Args:
        text: The answer.
        length: Time of the clip's last frame, seconds since the first one.
    """
    answer = _Answer(text, length)
    position = 0
    for part in read(text):
        if isinstance(part, Node) and _is_json(part, text):
            answer.add_prose(position, part.at)
            answer.add_json(part)
            position = part.until
    answer.add_prose(position, len(text))
    found = sorted(answer.found, key=lambda entry: entry[0])
    moments = tuple(dict.fromkeys(moment for _, moment in found))
    return Moments(moments[:MOST_MOMENTS], tuple(answer.notes(len(moments))))


def frame_at(times: Sequence[float], seconds: float) -> int | None:
    """Return the index of the frame nearest to a time that an answer names; None where that is outside of the clip.

    Args:
        times: Of the frames, seconds since the first one, in order.
        seconds: Since the first one.
    """
    if not 0 <= seconds <= times[-1] + _ROUNDING:
        return None
    after = bisect.bisect_left(times, seconds)
    near = range(max(0, after - 1), min(after + 1, len(times)))
    return min(near, key=lambda index: abs(times[index] - seconds))


def time_of(group: Group) -> float | None:
    """Return the time that an object names for itself, seconds; of a range its start. None = none."""
    names = {key.replace("_", ""): key for key in group}
    found = _first(group, names, (*_TIMES, *_STARTS))
    return None if found is None else found[1].start


_STARTS: Final = (
    *("start", "starttime", "starttimestamp", "startseconds", "startsec", "starts", "startsat"),
    *("begin", "begintime", "begins", "from", "fromtime", "tstart"),
)
_ENDS: Final = (
    *("end", "endtime", "endtimestamp", "endseconds", "endsec", "ends", "endsat"),
    *("stop", "stoptime", "finish", "until", "to", "totime", "tend"),
)
_TIMES: Final = (
    *("time", "timestamp", "seconds", "sec", "t", "at", "when", "moment", "timeseconds", "timesec"),
    *("timestampseconds", "frametime", "atseconds", "attime"),
)
_RANGES: Final = ("interval", "timeinterval", "range", "timerange", "span", "timespan", "segment", "window", "period")
_LISTS: Final = ("times", "timestamps", "moments", "intervals", "segments", "ranges", "occurrences", "spans")
"""Under a key of these two, a mere number counts something."""

_LABELS: Final = (
    *("description", "label", "event", "what", "action", "activity", "caption", "sentence", "text", "content"),
    *("summary", "name", "change", "object", "title", "answer"),
)

_BOUNDARY: Final = re.compile(r"\n|[.!?;](?=\s)|[。！？；]")  # noqa: RUF001
"""The end of a sentence."""

_MARKUP: Final = " \t\r\n*_#>|-–—•·:：,，()[]{}<>\"'“”`"  # noqa: RUF001
_STOPS: Final = ".!?;。！？；"  # noqa: RUF001
_NOTHING: Final = re.compile(
    r"(?:[^\w]|\b(?:at|around|about|approximately|from|between|in|on|the|mark|it|is|was|happens|happened|occurs|occurred|"
    r"second|seconds|and|to)\b|[第在从约时时候左右到至])*",
    re.IGNORECASE,
)
"""What says nothing beside a time."""


def _is_json(root: Node, text: str) -> bool:
    """Return whether a structure is JSON and not a bracket in prose, such as "[0:04 - 0:06]"."""
    if root.opener == "{":
        return any(key for key, _, _ in root.items)
    return any(
        (isinstance(value, Node) and value.opener != "(") or (isinstance(value, str) and text[at] in "\"'“")
        for _, value, at in root.items
    )


@dataclass(slots=True)
class _Answer:
    """Collects the moments of an answer as (index in the text, moment)."""

    text: str
    length: float
    found: list[tuple[int, Moment]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)

    def add_prose(self, begin: int, end: int) -> None:
        """Add the times of a part of the text that is no JSON."""
        self._add_sentences(self.text[begin:end], begin, "")

    def add_json(self, root: Node) -> None:
        """Add the times of a structure."""
        waiting: list[tuple[Node, str]] = [(root, "")]
        while waiting:
            node, label = waiting.pop()
            for key, value, at in node.items:
                if not key and isinstance(value, str):
                    self._add_sentences(value, at, label)
                elif not key and isinstance(value, Node):
                    waiting.append((value, label))
            for group in groups(node):
                own = _label(group)
                taken = self._add_group(group, own or label)
                for key, (value, at) in group.items():
                    if isinstance(value, Node) and key not in taken:
                        waiting.append((value, own or label))
                    elif isinstance(value, str) and not taken:
                        self._add_sentences(value, at, "" if value == own else own or label)

    def _add_group(self, group: Group, label: str) -> set[str]:
        """Add the times of an object; return the keys that say them."""
        names = {key.replace("_", ""): key for key in group}
        start, end = _first(group, names, _STARTS), _first(group, names, _ENDS)
        taken: set[str] = set()
        if start is not None:
            key, time, at = start
            taken.add(key)
            time = time if end is None else time._replace(end=end[1].end)
            self._add(at, label, time.start, time.end, self._written(time))
            taken |= set() if end is None else {end[0]}
        for name, key in names.items():
            value, at = group[key]
            times: list[WrittenTime] | None = None
            said = label
            if start is None and (name in _TIMES or (name in _RANGES and not isinstance(value, float))):
                times = _times(value, is_range=True)
            elif name in _LISTS and isinstance(value, Node):
                times = _times(value, is_range=False)
            elif key[:1] in "<0123456789":
                times = list(written_times(key.replace("_", " ")[:_LONGEST_LABEL]))
                said = value.strip() if isinstance(value, str) else label
            if times:
                taken.add(key)
            for time in times or ():
                self._add(at, said, time.start, time.end, self._written(time))
        return taken

    def _add_sentences(self, text: str, at: int, label: str) -> None:
        """Add the times of a text at that index of the answer; ``label`` is for one that is nothing but a time."""
        times = list(written_times(text))
        if not times:
            return
        ends = [match.end() for match in _BOUNDARY.finditer(text)]
        for time in times:
            first, last = bisect.bisect_right(ends, time.at), bisect.bisect_left(ends, time.until)
            begin = ends[first - 1] if first else 0
            said = _said(text, begin, ends[last] if last < len(ends) else len(text), time)
            self._add(at + time.at, said or label, time.start, time.end, text[time.at : time.until])

    def _add(self, at: int, label: str, start: float, end: float, written: str) -> None:
        start, end = min(start, end), max(start, end)
        latest = self.length + _ROUNDING
        if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= latest):
            self.outside.append(written)
            return
        if end > latest:
            self.shortened.append(written)
        moment = Moment(_clean(label), min(start, self.length), min(end, self.length))
        self.found.append((at, moment))

    @staticmethod
    def _written(time: WrittenTime) -> str:
        return f"{time.start:g} s" if time.start == time.end else f"{time.start:g} to {time.end:g} s"

    def notes(self, found: int) -> Iterator[str]:
        """Yield what was left out of ``found`` moments and the others."""
        clip = f"the clip, which is {self.length:.3g} s long"
        if self.outside:
            yield f"times outside of {clip}, are left out: {_few(self.outside)}"
        if self.shortened:
            yield f"times that end after {clip}, are taken to end with it: {_few(self.shortened)}"
        if found > MOST_MOMENTS:
            yield f"the answer names {found} times: the first {MOST_MOMENTS} are moments"


def _first(group: Group, names: dict[str, str], wanted: Sequence[str]) -> tuple[str, WrittenTime, int] | None:
    """Return (key, time, index) of the first of the ``wanted`` keys that holds a time."""
    for name in wanted:
        if name in names:
            value, at = group[names[name]]
            times = _times(value, is_range=True)
            if times:
                return names[name], times[0], at
    return None


def _times(value: Value, *, is_range: bool) -> list[WrittenTime] | None:
    """Return the times that the value of a key holds, None if it holds something else.

    ``is_range``: whether a list of two is the ends of one range, else two times; lists in a list are ranges.
    """
    if isinstance(value, float):
        return [WrittenTime(0, 0, value, value)]
    if isinstance(value, str):
        time = time_in(value)
        return None if time is None else [time]
    if not isinstance(value, Node) or not value.items or any(key for key, _, _ in value.items):
        return None
    times: list[WrittenTime] = []
    for _, item, _ in value.items:
        if isinstance(item, Node) and not any(isinstance(inner, Node) for _, inner, _ in item.items):
            inner = _times(item, is_range=True)
        else:
            inner = None if isinstance(item, Node) else _times(item, is_range=True)
        if inner is None:
            return None
        times += inner
    if is_range and len(times) == 2 and all(not isinstance(item, Node) for _, item, _ in value.items):
        return [WrittenTime(0, 0, times[0].start, times[1].end)]
    return times


def _label(group: Group) -> str:
    for key in _LABELS:
        value = group[key][0] if key in group else None
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _said(text: str, begin: int, end: int, time: WrittenTime) -> str:
    """Return what the sentence from ``begin`` to ``end`` says happens at ``time``; "" if it is nothing but the time."""
    begin, end = max(begin, time.at - _LONGEST_LABEL), min(end, time.until + _LONGEST_LABEL)
    before, after = text[begin : time.at], text[time.until : end]
    if not before.strip(_MARKUP):
        return after.lstrip(_MARKUP).rstrip() if after.strip(_MARKUP + _STOPS) else ""
    if not after.strip(_MARKUP + _STOPS) and before.rstrip().endswith((":", "：", "(", "-", "–", "|", ",")):  # noqa: RUF001
        return before.strip(_MARKUP)
    if _NOTHING.fullmatch(before) and _NOTHING.fullmatch(after):
        return ""
    return text[begin:end].strip().lstrip("*_#>|-–—• ")  # noqa: RUF001


def _clean(label: str) -> str:
    return output_text(label.strip(" \t\r\n*|`")[:_LONGEST_LABEL]).strip()


def _few(written: Sequence[str]) -> str:
    told = list(dict.fromkeys(output_text(one.strip()) for one in written))
    return ", ".join(told[:_MOST_TOLD]) + (", ..." if len(told) > _MOST_TOLD else "")
