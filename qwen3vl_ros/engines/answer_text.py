"""From the bytes that a model emits to the text that people see: characters, reasoning apart, stop strings.

Every stage takes the stream in pieces cut anywhere, and what comes out does not depend on the cuts.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_OPEN, _CLOSE = "<think>", "</think>"


class StopFilter:
    """Ends a text as soon as one of the stop strings is complete; nothing of that string comes out.

    Text that may be the beginning of a stop string is held back until it is known not to be. The work for a piece grows
    with the number of stop strings and the square of their lengths, which are bounded where goals are checked.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that can be shown now. "" for ever once ``stopped``."""
        if not self._stop or not text:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        found = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        if found:
            # The first to be complete, as it would have been had the text come letter by letter.
            _, start = min(found)
            self.stopped = True
            self._held = ""
            return text[:start]
        keep = max(_overlap(text, s) for s in self._stop)
        shown, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back: the text ended, so it was no stop string."""
        held, self._held = self._held, ""
        return held


class ReasoningSplitter:
    """Takes ``<think>reasoning</think>answer`` apart; the markers and the white space around them go.

    Only an opening marker at the very beginning counts, so an answer may speak of ``<think>``. ``inside``: the prompt
    already opened the reasoning, as the templates of Thinking models do.
    """

    def __init__(self, inside: bool = False) -> None:
        self._state = "reasoning" if inside else "start"
        self._blank: list[str] = []  # white space that waits for what follows it, in pieces: there may be much of it
        self._held = ""  # after that: what may be the beginning of a marker
        self._leading = True  # white space at the beginning of the reasoning is dropped

    @property
    def reasoning(self) -> bool:
        """Whether the reasoning is open now."""
        return self._state == "reasoning"

    def feed(self, text: str) -> tuple[str, str]:
        """(answer, reasoning) that are certain now."""
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
        text = text.lstrip()
        if text:
            self._state = "answer"
        return text, reasoning

    def finish(self) -> tuple[str, str]:
        """(answer, reasoning) that were held back when the stream ended."""
        held = self._take()
        return ("", held.rstrip()) if self._state == "reasoning" else (held, "")

    def _without_blanks(self, reasoning: str) -> str:
        """``reasoning`` with what waited before it; white space at its end may be what stands before the marker."""
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
    """All stages in a row: UTF-8 bytes in, (answer, reasoning) out. Stop strings apply to the answer only."""

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
        """(answer, reasoning) that can be shown after these bytes. Bytes that are not UTF-8 become U+FFFD."""
        text = self._decode(data)
        if not text:
            return "", ""
        answer, reasoning = self._splitter.feed(text)
        return self._filter.feed(answer), reasoning

    def finish(self) -> tuple[str, str]:
        """(answer, reasoning) that were held back when the stream ended; of a character cut in halves, nothing."""
        last, reasoning = self._splitter.finish()
        answer = self._filter.feed(last)
        return answer + ("" if self.stopped else self._filter.finish()), reasoning


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that ``marker`` begins with, less than all of ``marker``."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
