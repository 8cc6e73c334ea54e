"""Turns the bytes that a model emits into text: decodes UTF-8, splits off the reasoning, applies stop strings.

Every stage takes the stream in pieces cut anywhere; its complete output does not depend on the cuts.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

_OPEN, _CLOSE = "<think>", "</think>"
_BLANK = re.compile(r"\s*")


class StopFilter:
    """Ends a text before the first complete stop string.

    Text that may be the beginning of a stop string is held back until it is known not to be. The work for a piece grows
    with the number of stop strings and the square of their lengths, which the check of a goal limits.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take ``text`` and return what can be shown now, always "" once ``stopped``."""
        if not self._stop or not text:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        found = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        if found:
            # The stop string that is complete first, as if the text had been fed letter by letter.
            _, start = min(found)
            self.stopped = True
            self._held = ""
            return text[:start]
        keep = max(_overlap(text, s) for s in self._stop)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return shown

    def finish(self) -> str:
        """Return what was held back: the text ended, so it was no stop string."""
        held, self._held = self._held, ""
        return held


class ReasoningSplitter:
    """Splits ``<think>reasoning</think>answer``; removes the markers and the white space around them.

    Only an opening marker at the very beginning counts, so an answer may contain ``<think>``. Closing markers right
    after the first one are removed, too: a model whose reasoning was closed in its place may close it once more.
    ``inside``: the prompt already opened the reasoning, as the templates of Thinking models do.
    """

    def __init__(self, inside: bool = False) -> None:
        self._state = "reasoning" if inside else "start"
        self._blank: list[str] = []  # white space held back until text follows it; in pieces, since it may be long
        self._held = ""  # after that: a possible beginning of a marker
        self._leading = True  # white space at the beginning of the reasoning is dropped

    @property
    def reasoning(self) -> bool:
        """Whether the reasoning is open now."""
        return self._state == "reasoning"

    def feed(self, text: str) -> tuple[str, str]:
        """Take ``text`` and return the (answer, reasoning) that are certain now."""
        if self._state == "answer":
            return text, ""
        reasoning = ""
        if self._state == "start":
            if not self._held:
                begun = text.lstrip()
                self._blank.append(text[: len(text) - len(begun)])
                text = begun
            text = self._held + text
            if not text.startswith(_OPEN):
                self._held = text
                if _OPEN.startswith(text):
                    return "", ""
                self._state = "answer"
                return self._take(), ""
            self._take()
            self._state, text = "reasoning", text[len(_OPEN) :]
        if self._state == "reasoning":
            text = self._held + text
            end = text.find(_CLOSE)
            inside = text[: end if end >= 0 else len(text) - _overlap(text, _CLOSE)]
            reasoning = self._without_blanks(inside)
            if end < 0:
                self._held = text[len(inside) :]
                return "", reasoning
            self._take()
            self._state, text = "gap", text[end + len(_CLOSE) :]
        text = self._take() + text
        text = _without_closings(text)
        if text and _CLOSE.startswith(text):
            self._held = text
            return "", reasoning
        if text:
            self._state = "answer"
        return text, reasoning

    def finish(self) -> tuple[str, str]:
        """Return the (answer, reasoning) that were held back when the stream ended."""
        held = self._take()
        return ("", held.rstrip()) if self._state == "reasoning" else (held, "")

    def _without_blanks(self, reasoning: str) -> str:
        """Prepend the held-back white space to ``reasoning``, and hold back that at its end: a marker may follow."""
        if self._leading:
            reasoning = reasoning.lstrip()
        sure = reasoning.rstrip()
        if sure:
            self._leading = False
            waited, self._blank = self._blank, [reasoning[len(sure) :]]
            return "".join((*waited, sure))
        self._blank.append(reasoning)
        return ""

    def _take(self) -> str:
        held = "".join((*self._blank, self._held))
        self._blank, self._held = [], ""
        return held


class AnswerText:
    """All stages in sequence: UTF-8 bytes in, (answer, reasoning) out. Stop strings apply to the answer only."""

    def __init__(self, stop: Sequence[str] = (), reasoning: bool = False) -> None:
        """``reasoning``: the stream begins inside the reasoning."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._splitter = ReasoningSplitter(inside=reasoning)
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the answer."""
        return self._filter.stopped

    @property
    def reasoning(self) -> bool:
        """Whether the reasoning is open now."""
        return self._splitter.reasoning

    def feed(self, data: bytes) -> tuple[str, str]:
        """Take ``data`` and return the (answer, reasoning) that can be shown now; invalid UTF-8 becomes U+FFFD."""
        text = self._decode(data)
        if not text:
            return "", ""
        answer, reasoning = self._splitter.feed(text)
        return self._filter.feed(answer), reasoning

    def finish(self) -> tuple[str, str]:
        """Return the (answer, reasoning) held back when the stream ended, without an incomplete last character."""
        last, reasoning = self._splitter.finish()
        answer = self._filter.feed(last)
        return answer + ("" if self.stopped else self._filter.finish()), reasoning


def _without_closings(text: str) -> str:
    """Return ``text`` without the white space and the further closings at its beginning."""
    position = 0
    while True:
        position = _BLANK.match(text, position).end()  # type: ignore[union-attr]
        if not text.startswith(_CLOSE, position):
            return text[position:]
        position += len(_CLOSE)


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest proper prefix of ``marker`` that ``text`` ends with."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
