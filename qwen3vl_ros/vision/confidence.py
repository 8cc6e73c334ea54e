r"""Computes how sure a model is of each item of a list that it wrote, from the probabilities of the answer's tokens.

*Score.* Where an item begins, the model could have ended the list: ``[{`` or ``[]``, ``}, {`` or ``}]``. The score is
P(item) / (P(item) + P(end)) at that place, times the probability of the label up to its closing quote, given all that
precedes it. Tokens that begin neither an item nor the end, such as a code fence that a schema forbids, do not count.

*Variance.* A number is written from its first digit on. At each of its tokens the alternatives are other numbers; each
counts with its probability and the square of its distance from the number written. What an alternative leaves open, as
``3`` does in place of the ``4`` of 412, is taken as near to that number as it can be (399): the result is rather too
small. Alternatives farther away than ``reach`` are taken to be of another thing, and left out. 1/12 is added for
the rounding.

Tokenizers cut a text differently: ``[{"``, ``[`` or ``"}, {"`` may each be one token. So every alternative is judged by
the text that it continues, and probabilities of one meaning are added up. A model writes one text by the same tokens
every time: an alternative that is only the beginning of what was written leads elsewhere (:func:`_left_open`).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from qwen3vl_ros.engines.token_probabilities import Token

_Place: TypeAlias = Literal["before the list", "after an item"]
_Meaning: TypeAlias = Literal["item", "end", "open", "other"]

_LABEL_KEYS: Final = (
    "label",
    "name",
    "text_content",
    "text",
    "sub_label",
    "category",
    "class",
    "object",
    "description",
)
"""The keys of labels that are texts, in the order in which :mod:`qwen3vl_ros.vision.grounding` prefers them."""

_LABELS: Final = {key: re.compile(rf'"{key}"\s*:\s*"((?:[^"\\]|\\.)*")'.encode()) for key in _LABEL_KEYS}
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_DIGIT: Final = re.compile(rb"\d")
_CLOSING: Final = b"]} \n\t"
_INTEGER: Final = re.compile(rb"\d{1,9}")
_INTEGERS: Final = re.compile(rb"\[\s*\d{1,9}(?:\s*,\s*\d{1,9})*\s*\]")
_LONGEST_TOKEN: Final = 32
"""Bytes before a place from where an alternative token is looked for that reaches to it."""

_LONGEST_NUMBER: Final = 4  # digits: coordinates end at 1000, or at the size of an image in pixels

_QUANTIZATION: Final = 1 / 12
"""Variance of what is rounded to whole numbers."""


@dataclass(slots=True, eq=False)
class _Brackets:
    """A list or object: the indices of its brackets, what encloses it, and where the item before it in a list ends."""

    begin: int
    parent: _Brackets | None
    before: int | None
    is_object: bool
    end: int | None = None
    last: int | None = None
    """Where the latest item in it ends."""


class Confidence:
    """Aligns an answer with its tokens. Indices of its methods are in characters of the text."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        """Find ``text`` in the text of ``tokens``, which may have more at either end."""
        self._data = b"".join(token.text for token in tokens)
        self._tokens = tokens
        self._starts = list(accumulate((len(token.text) for token in tokens), initial=0))
        offset = self._data.find(text.encode()) if text else -1
        self.known = offset >= 0
        """Whether the tokens are those of the text."""
        letters = text if self.known else ""
        self._bytes = list(accumulate((len(letter.encode()) for letter in letters), initial=offset))
        self._brackets = list(_brackets(self._data, offset)) if self.known else []

    def score(self, at: int) -> float | None:
        """Return the score of the item with coordinates at index ``at``; None if it is unknown."""
        item = self._item(at) if self.known else None
        if item is None:
            return None
        chance = self._label(item)
        while item.parent is not None and item.parent.is_object:
            item = item.parent
        begins = self._begins(item)
        return None if begins is None else begins * chance

    def numbers(self, at: int, reach: float) -> tuple[list[int], list[float]]:
        """Return the whole numbers of the list ``[1, 2]`` at index ``at`` and their variances; [], [] if unknown.

        Args:
            at: Index of the opening bracket.
            reach: Greatest distance from a number of what it may be instead.
        """
        whole = _INTEGERS.match(self._data, self._bytes[at]) if self.known else None
        if whole is None:
            return [], []
        spans = [number.span() for number in _INTEGER.finditer(self._data, *whole.span())]
        return [int(self._data[slice(*span)]) for span in spans], [self._variance(*span, reach) for span in spans]

    def _item(self, at: int) -> _Brackets | None:
        """Return the innermost object around index ``at``, or else the innermost list."""
        byte = self._bytes[at]
        number = bisect.bisect_right(self._brackets, byte, key=lambda brackets: brackets.begin)
        inner: _Brackets | None = self._brackets[number - 1] if number else None
        while inner is not None and inner.end is not None and inner.end <= byte:
            inner = inner.parent
        item = inner
        while item is not None and not item.is_object:
            item = item.parent
        return item or inner

    def _overlapping(self, begin: int, end: int) -> Iterator[tuple[int, Token]]:
        """Yield the tokens with bytes in [begin, end), each with the index of its first byte."""
        first = bisect.bisect_right(self._starts, max(begin, 0)) - 1
        for number in range(first, bisect.bisect_left(self._starts, end, hi=len(self._tokens))):
            yield self._starts[number], self._tokens[number]

    def _begins(self, item: _Brackets) -> float | None:
        """Return the probability that ``item`` begins where the list could have ended."""
        place: _Place = "before the list"
        at = item.begin if item.parent is None else item.parent.begin
        if item.before is not None:
            place, at = "after an item", item.before
            if item.parent is None:
                return None  # no list: nothing tells what its end would be
        odds = {"item": 0.0, "end": 0.0, "open": 0.0, "other": 0.0}
        path = 1.0
        for start, token in self._overlapping(at - _LONGEST_TOKEN, len(self._data)):
            for text, probability in token.others:
                rest = self._continued(at, start, text)
                if rest is None and self._is_written(start, text):
                    between = self._data[start + len(text) : at]
                    rest = None if between.strip(_CLOSING) else b""
                if rest is not None:
                    meaning = _meaning(rest, place)
                    if meaning == "open":
                        meaning = _left_open(rest, place, any(other == text + b"]" for other, _ in token.all))
                    odds[meaning] += path * probability
            path *= token.probability
            meaning = _meaning(self._data[at : start + len(token.text)], place)
            if start + len(token.text) > at and meaning != "open":
                odds[meaning] += path
                break
        both = odds["item"] + odds["end"]
        return odds["item"] / both if both > 0 else None

    def _label(self, item: _Brackets) -> float:
        """Return the probability of an item's label, 1 for an item without one."""
        last = len(self._data) if item.end is None else item.end
        found = next((m for key in _LABEL_KEYS if (m := _LABELS[key].search(self._data, item.begin, last))), None)
        if found is None:
            return 1.0
        begin, end = found.span(1)
        same = reached = 0.0  # of what goes on with this label, and of all that the answer before it may go on with
        path, within = 1.0, False
        for start, token in self._overlapping(max(item.begin + 1, begin - _LONGEST_TOKEN), end):
            if start >= begin and not within:
                reached += path
                within = True
            for text, probability in token.others:
                rest = self._continued(begin, start, text)
                if not within and (
                    rest is not None
                    or (self._is_written(start, text) and not _DIGIT.search(self._data, start + len(text), begin))
                ):
                    reached += path * probability
                if rest and rest.startswith(found[1]):
                    same += path * probability
            path *= token.probability
        same += path
        reached += 0.0 if within else path
        return min(1.0, same / reached) if reached > 0 else 0.0

    def _variance(self, begin: int, end: int, reach: float) -> float:
        written = int(self._data[begin:end])
        path, variance = 1.0, 0.0
        for start, token in self._overlapping(begin, end + 1):
            told: list[tuple[float, float]] = []  # distance, probability; the token itself is the first
            for text, probability in token.all:
                rest = self._continued(begin, start, text)
                digits = _INTEGER.match(rest) if rest else None
                if rest and digits is not None:
                    value = _nearest(digits[0], len(digits[0]) < len(rest), written) if told else written
                    told.append((abs(value - written), probability))
            mass = sum(probability for distance, probability in told if distance <= reach)
            if not mass > 0:
                break
            variance += path * sum(p * distance**2 for distance, p in told if distance <= reach) / mass
            path *= told[0][1] / mass
        return variance + _QUANTIZATION

    def _is_written(self, start: int, text: bytes) -> bool:
        """Return whether ``text`` is the beginning of what the answer has at ``start``."""
        return bool(text) and self._data.startswith(text, start)

    def _continued(self, at: int, start: int, text: bytes) -> bytes | None:
        """Return the answer from index ``at`` on if ``text`` stood at ``start``; None if it would differ before."""
        if start >= at:
            return self._data[at:start] + text if text else None
        known = self._data[start:at]
        return text[len(known) :] if text.startswith(known) else None


def _brackets(data: bytes, begin: int) -> Iterator[_Brackets]:
    """Yield the lists and objects in ``data`` from index ``begin`` on, in the order in which they open."""
    stack: list[_Brackets] = []
    last: int | None = None
    for match in _BRACKETS.finditer(data, begin):
        sign = match[0]
        if sign in (b"[", b"{"):
            parent = stack[-1] if stack else None
            new = _Brackets(match.start(), parent, parent.last if parent else last, sign == b"{")
            stack.append(new)
            yield new
        elif sign in (b"]", b"}") and stack:
            closed = stack.pop()
            closed.end = match.end()
            if stack:
                stack[-1].last = closed.end
            else:
                last = closed.end


def _meaning(rest: bytes, place: _Place) -> _Meaning:
    """Return what an answer means that goes on with ``rest`` from the place of a decision on."""
    rest = rest.lstrip()
    if place == "before the list":
        if rest[:1] == b"{":
            return "item"
        if rest[:1] not in (b"[", b""):
            return "other"
        rest = rest[1:].lstrip()
        if not rest:
            return "open"
        return "end" if rest[:1] == b"]" else "item"
    if not rest:
        return "open"
    return {b",": "item", b"]": "end"}.get(rest[:1], "other")  # type: ignore[return-value]


def _left_open(rest: bytes, place: _Place, has_closed: bool) -> _Meaning:
    """Return what an alternative means that was not written and leaves it open whether an item follows.

    A model writes one text by the same tokens every time. So a bracket ``[`` in place of a token such as ``[{`` goes on
    in another way: with ``]``, unless the vocabulary has a token ``[]``, which would have been written then
    (``has_closed``). White space after ``[`` begins an item on a line of its own, as nobody writes an empty list in two
    lines; after an item it precedes the end, as a comma follows its item at once.
    """
    if place == "after an item":
        return "other" if has_closed else "end"
    if b"[" not in rest:
        return "other"
    return "item" if has_closed or rest[-1:].isspace() else "end"


def _nearest(digits: bytes, ended: bool, written: int) -> int:
    """Return the number nearest to ``written`` that begins with ``digits``, or is them if it has ``ended``."""
    begun = int(digits)
    if ended:
        return begun
    nearest = begun
    for more in range(1, _LONGEST_NUMBER + 1 - len(digits)):
        low = begun * 10**more
        value = min(max(written, low), low + 10**more - 1)
        nearest = min(nearest, value, key=lambda number: abs(number - written))
    return nearest
