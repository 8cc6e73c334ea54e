"""From the bytes that a model emits to the text that people see: characters, reasoning apart, stop strings.

Every stage takes the stream in pieces cut anywhere, and what comes out does not depend on the cuts.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_OPEN, _CLOSE = "<think>", "</think>"


class StopFilter:
    """Ends a text as soon as one of the stop strings is complete; nothing of that string comes out.

    Text that may be the beginning of a stop string is held back until it is known not to be. Every letter is looked at
    once, however many stop strings there are.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._automaton = _StopAutomaton([s for s in stop if s])
        self._active = any(stop)
        self._state = 0
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that can be shown now. "" for ever once ``stopped``."""
        if not self._active or not text:
            return text
        if self.stopped:
            return ""
        automaton, state = self._automaton, self._state
        for index, letter in enumerate(text):
            state = automaton.after(state, letter)
            if automaton.complete[state]:
                self.stopped = True
                shown = self._held + text[: index + 1]
                self._held = ""
                return shown[: -automaton.complete[state]]
        self._state, text = state, self._held + text
        end = len(text) - automaton.depth[state]
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """What was held back: the text ended, so it was no stop string."""
        held, self._held, self._state = self._held, "", 0
        return held


class _StopAutomaton:
    """Finds any of several strings in one pass (Aho and Corasick, "Efficient string matching", CACM 18(6), 1975).

    A state stands for the longest end of the text so far that a string begins with; 0 is none. ``depth``: its length.
    ``complete``: the length of the longest string that the text ends with in this state, 0 for none.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # the state to go on from where no string goes on with the letter that comes
        self.depth = [0]
        self.complete = [0]
        for string in strings:
            self._add(string)
        states = list(self._next[0].values())
        for state in states:  # grows, from the shortest on
            for letter, longer in self._next[state].items():
                shorter = self._shorter[longer] = self.after(self._shorter[state], letter)
                self.complete[longer] = self.complete[longer] or self.complete[shorter]
                states.append(longer)

    def _add(self, string: str) -> None:
        state = 0
        for letter in string:
            if letter not in self._next[state]:
                self._next[state][letter] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self.depth.append(self.depth[state] + 1)
                self.complete.append(0)
            state = self._next[state][letter]
        self.complete[state] = len(string)

    def after(self, state: int, letter: str) -> int:
        """The state once ``letter`` came in ``state``."""
        while state and letter not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(letter, 0)


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
