"""Finds the times that a model writes about a clip: seconds, minutes and seconds, clocks, ranges and lists of them.

Qwen3-VL reads ``<4.5 seconds>`` before its frames and is trained to answer in seconds and in hours, minutes and seconds
(Technical Report, arXiv 2511.21631); its cookbook video_understanding asks for ``mm:ss.ff``.

No part of a pattern here repeats without a bound, so that a search takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class WrittenTime(NamedTuple):
    """A time, or a range of time, in seconds. ``at``, ``until``: where in the text it is written."""

    at: int
    until: int
    start: float
    end: float


class _Number(NamedTuple):
    """A number in the text, in seconds if it is a time. ``kind``: "clock", "seconds", or "" for a mere number."""

    at: int
    until: int
    value: float
    kind: str


_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_CHINESE: Final = "零一二三四五六七八九十"
_UNIT: Final = r"[ \t\u00a0]{0,3}(?:-?(?:seconds?|secs?|s)(?![A-Za-z0-9_])|秒)"
_NUMBER: Final = re.compile(
    rf"""
    (?<![A-Za-z0-9_.:：/]) (?<![0-9],)
    (?: (?: (?P<hours>[0-9]{{1,2}}) [:：] )? (?P<minutes>[0-9]{{1,3}}) [:：]
        (?P<clock>[0-5][0-9] (?: \.[0-9]{{1,6}} | ,[0-9]{{3}} )?) (?![A-Za-z0-9_]) (?![:：.][0-9])
        (?! [ ]? (?: [ap]\.?m\b | o'clock ) ) (?: {_UNIT} )?
      | (?P<minutes_before>[0-9]{{1,4}}) [ ]{{0,3}} (?:minutes?|mins?|m|分钟?) [ ]{{0,3}} (?:and[ ]{{1,3}})?
        (?P<seconds>[0-9]{{1,2}} (?: \.[0-9]{{1,6}} )?) {_UNIT}
      | (?P<minutes_alone>[0-9]{{1,4}} (?: \.[0-9]{{1,6}} )?) [ ]{{0,3}}
        (?: -?(?:minutes?|mins?) (?![A-Za-z0-9_]) | 分钟 )
      | (?P<number> [0-9]{{1,6}} (?: \.[0-9]{{1,6}} )? | (?:{"|".join(_WORDS)}) (?![A-Za-z0-9_])
          | (?<![{_CHINESE}百两]) [{_CHINESE}两] )
        (?P<unit>{_UNIT})?
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_CONTEXT: Final = 40
"""Characters before and after a number that decide what it is."""

_OPENING: Final = r"""[<\[("'“*]{0,3}"""
_CLOSING: Final = r"""[>\])"'”*]{0,3}"""
_TO: Final = re.compile(
    rf"{_CLOSING}\s{{0,3}}(?:--?>|[-‐‑–—~～〜→]|to|until|till|through|至|到)"  # noqa: RUF001
    rf"\s{{0,3}}(?:the\s|second\s|第)?{_OPENING}",
    re.IGNORECASE,
)
_AND: Final = re.compile(rf"{_CLOSING}\s{{0,3}}(?:and|和|与)\s{{0,3}}第?{_OPENING}", re.IGNORECASE)
_COMMA: Final = re.compile(r"\s{0,3}(?:,|、|and|or|&|和|,\s{1,3}and|,\s{1,3}or)\s{0,3}第?", re.IGNORECASE)
_BETWEEN: Final = re.compile(rf"(?:\bbetween|在)\s{{0,3}}(?:the\s|seconds?\s|第)?{_OPENING}$", re.IGNORECASE)
_FROM: Final = re.compile(rf"(?:\bfrom|\bbetween|从|自)\s{{0,3}}(?:the\s|seconds?\s|第)?{_OPENING}$", re.IGNORECASE)
_PLACE: Final = re.compile(
    rf"(?:\bat|@|=|在|第|\b(?:at|around|about|from|between|by|in|on)\sthe)\s{{0,3}}"
    rf"(?:about\s|around\s|approximately\s|roughly\s)?{_OPENING}$",
    re.IGNORECASE,
)
"""Before what is a time and no duration."""

_SECOND: Final = re.compile(
    r"(?:\bt\s?=|\bseconds|\btimestamp|\b(?:at|around|about|from|by|until|till|near|after|before|since|to|in|on|between)"
    r"\s(?:the\s)?second)\s{1,3}(?:mark\s)?$|\bt\s?=$",
    re.IGNORECASE,
)
"""Before a number that is seconds without saying so behind it: at second 3, seconds 2 to 4, t = 4.5."""

_DURATION_BEFORE: Final = re.compile(
    r"(?:\b(?:for|lasts?|lasting|lasted|takes?|taking|took|every|each|within|over|first|last|next|past|previous|another|"
    r"other|per|plus|(?:length|duration|total|interval|pause|delay|gap)(?:\s(?:is|of|was))?)\b:?|持续|每隔?|历时|长达|共|时长|"
    r"[前后]|最后)\s{0,3}(?:(?:about|around|approximately|roughly|only|the|a|of|at\sleast|at\smost)\s|大约|约|了)?"
    rf"{_OPENING}$",
    re.IGNORECASE,
)
_LASTING_BEFORE: Final = re.compile(
    r"(?:\b(?:for|lasts?|lasting|lasted|takes?|taking|took|every|each|per)\b|持续|每隔?|历时|长达)\s{0,3}"
    rf"(?:(?:about|around|approximately|roughly|only)\s)?{_OPENING}$",
    re.IGNORECASE,
)
"""What makes a duration of a range, too: for 2 to 4 seconds."""

_DURATION_AFTER: Final = re.compile(
    rf"{_CLOSING}[\s-]{{0,3}}(?:(?:later|long|ago|earlier|apart|left|remaining|old|per|of|in\slength|in\stotal|"
    r"before|pauses?|delays?|windows?|clips?|videos?|footage|durations?|intervals?|periods?|gaps?)\b|[内长前钟])",
    re.IGNORECASE,
)
_MARK_AFTER: Final = re.compile(r"[\s-]{1,3}(?:mark|point)\b", re.IGNORECASE)
_DECADE: Final = re.compile(r"(?:\bthe\s|\bmid-|\bearly\s|\blate\s|')$", re.IGNORECASE)


def written_times(text: str) -> Iterator[WrittenTime]:
    """Yield the times in ``text``, in order.

    A duration ("for 3 seconds", "2 seconds later") is no time, nor is a number without a unit ("two boxes", "5 balls"),
    the time of a day ("12:30 pm") or a negative number.
    """
    numbers = list(_numbers(text))
    index, unused = 0, 0
    while index < len(numbers):
        one = numbers[index]
        if index + 1 < len(numbers) and (found := _range(text, one, numbers[index + 1])):
            index += 2
            unused = index
            if not _is_duration(text, one, numbers[index - 1]):
                yield found
            continue
        index += 1
        if one.kind:
            if not _is_duration(text, one, one):
                yield from _listed(text, numbers[unused:index])
                yield WrittenTime(one.at, one.until, one.value, one.value)
            unused = index


def time_in(value: str) -> WrittenTime | None:
    """Return the first time in the value of a field that is known to hold one, where mere numbers are seconds."""
    text = value.strip(" \t\n<>[]()\"'")[:_CONTEXT]
    numbers = list(_numbers(text))
    if len(numbers) == 1 and (numbers[0].at, numbers[0].until) == (0, len(text)):
        return WrittenTime(0, len(text), numbers[0].value, numbers[0].value)
    if len(numbers) == 2 and numbers[0].at == 0 and _TO.fullmatch(text, numbers[0].until, numbers[1].at):
        return WrittenTime(0, numbers[1].until, numbers[0].value, numbers[1].value)
    return next(written_times(text), None)


def _numbers(text: str) -> Iterator[_Number]:
    before = 0
    for match in _NUMBER.finditer(text):
        at, until = match.span()
        glued = at > 0 and text[at - 1] in "-−"  # noqa: RUF001
        if match["clock"]:
            seconds = float(match["clock"].replace(",", "."))
            value = int(match["hours"] or 0) * 3600 + int(match["minutes"]) * 60 + seconds
            yield _Number(at, until, value, "clock")
        elif not glued or (before and before == at - 1):  # else it is negative, or the second half of a name
            if match["number"] is None:
                value = int(match["minutes_before"] or 0) * 60 + float(match["seconds"] or 0)
                yield _Number(at, until, value + float(match["minutes_alone"] or 0) * 60, "seconds")
            else:
                has_unit = bool(match["unit"]) and not _is_decade(text, match)
                kind = "seconds" if has_unit or _SECOND.search(text, max(0, at - _CONTEXT), at) else ""
                yield _Number(at, until, _value(match["number"].lower()), kind)
        before = until


def _value(number: str) -> float:
    """Return the value of a number in digits or in a word."""
    if number in _WORDS:
        return float(_WORDS.index(number))
    if number in _CHINESE or number == "两":
        return float(_CHINESE.index(number)) if number != "两" else 2.0
    return float(number)


def _is_decade(text: str, match: re.Match[str]) -> bool:
    """Return whether it is "the 80s"."""
    is_round = match["unit"].lower() == "s" and match["number"].endswith("0") and len(match["number"]) in (2, 4)
    return is_round and _DECADE.search(text, max(0, match.start() - _CONTEXT), match.start()) is not None


def _range(text: str, one: _Number, other: _Number) -> WrittenTime | None:
    """Return the range that two numbers are the ends of, if they are: "2 to 4 s", "between 0:02 and 0:04"."""
    if other.at - one.until > _CONTEXT:
        return None
    begin = max(0, one.at - _CONTEXT)
    if not _TO.fullmatch(text, one.until, other.at):
        is_pair = _AND.fullmatch(text, one.until, other.at)
        if not (is_pair and _BETWEEN.search(text, begin, one.at)):
            return None
    kinds = {one.kind, other.kind}
    if kinds == {""} or kinds == {"clock", ""}:
        return None
    if not other.kind and not (_SECOND.search(text, begin, one.at) or _FROM.search(text, begin, one.at)):
        return None
    return WrittenTime(one.at, other.until, min(one.value, other.value), max(one.value, other.value))


def _listed(text: str, numbers: list[_Number]) -> Iterator[WrittenTime]:
    """Yield the numbers of a list before the one with the unit, which is the last: "at 1, 2.5 and 4 seconds"."""
    first = len(numbers) - 1
    while first > 0 and _COMMA.fullmatch(text, numbers[first - 1].until, numbers[first].at):
        first -= 1
    if first < len(numbers) - 1 and _PLACE.search(text, max(0, numbers[first].at - _CONTEXT), numbers[first].at):
        for number in numbers[first:-1]:
            yield WrittenTime(number.at, number.until, number.value, number.value)


def _is_duration(text: str, first: _Number, last: _Number) -> bool:
    """Return whether it says how long and not when."""
    if first.kind == "clock" or last.kind == "clock":
        return False
    begin = max(0, first.at - _CONTEXT)
    if _FROM.search(text, begin, first.at) or _MARK_AFTER.match(text, last.until):
        return False
    before = _DURATION_BEFORE if first is last else _LASTING_BEFORE
    if before.search(text, begin, first.at):
        return True
    adjective = re.search("-[sm]", text[first.at : last.until], re.IGNORECASE) is not None
    if _PLACE.search(text, begin, first.at) and not adjective:
        return False
    return adjective or _DURATION_AFTER.match(text, last.until) is not None
