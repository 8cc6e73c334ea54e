"""Tools in Hermes' format, as text: what the model is told of them, and its calls in what it answers.

The texts are those that the chat template of Qwen3-VL writes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

_OPEN: Final = "<tool_call>"
_CLOSE: Final = "</tool_call>"
_MOST_CLOSINGS: Final = 20
"""Closing tags that are tried as the end of one call: its arguments may have some in their texts."""

_NO_CALL: Final = "the answer has what looks like a call of a tool and is none: it is in the text"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call by the model. ``arguments``: a JSON object as text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


Piece: TypeAlias = str | ToolCall
"""A part of an answer: text, or a call."""


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return what the system message says of the tools; each as in OpenAI's request."""
    listed = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def calls_text(content: str, calls: Sequence[tuple[str, str]]) -> str:
    """Return an earlier turn of the model. ``calls``: name and arguments, the latter JSON, of each."""
    texts = [f'{_OPEN}\n{{"name": "{name}", "arguments": {arguments}}}\n{_CLOSE}' for name, arguments in calls]
    return "\n".join([content, *texts] if content else texts)


def results_text(results: Sequence[str]) -> str:
    """Return the user's turn that has the results of calls."""
    return "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)


class ToolCallText:
    """Splits an answer, as it is generated, into text and calls; the same, whatever the pieces in which it comes.

    A call is told when it is complete. What only looks like one stays text, and :attr:`notes` says so. White space
    around calls is dropped.
    """

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        """Begin.

        Args:
            names: Those of the tools; a call of another one is text.
            parallel: False to have one call at most, and drop the others.
        """
        self._names = names
        self._parallel = parallel
        self._fed = ""
        self._rest = ""
        self._in_call = False
        self._after_call = False
        self._blank = ""
        self._tried = 0
        self._closings = 0
        self.calls: list[ToolCall] = []
        self.notes: list[str] = []

    def feed(self, delta: str) -> list[Piece]:
        """Take the next text of the answer and return what is certain."""
        self._fed += delta
        self._rest += delta
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def finish_reason(self, reason: str) -> str:
        """Return why the answer ended, given why the generation did."""
        return "tool_calls" if self.calls and reason == "stop" else reason

    def finish(self, whole: str) -> list[Piece] | None:
        """Take the whole answer, after the pieces of it, and return what is left; None where they do not fit."""
        if not whole.startswith(self._fed):
            return None
        pieces = self.feed(whole[len(self._fed) :])
        while self._rest or self._in_call:
            if not self._in_call:
                self._say(self._rest, pieces)
                self._rest = ""
            elif (call := self._call_in(self._rest)) is not None:  # some engines leave the last tag out
                self._take(call, len(self._rest), pieces)
            else:
                self._give_up(pieces)
                pieces += self.feed("")
        return pieces

    def _step(self, pieces: list[Piece]) -> bool:
        """Take text or a call off the beginning; return whether there may be more."""
        if self._in_call:
            end = self._rest.find(_CLOSE, self._tried)
            if end < 0:
                return False
            self._tried = end + len(_CLOSE)  # where it is a part of the arguments, another one follows
            self._closings += 1
            if (call := self._call_in(self._rest[:end])) is not None:
                self._take(call, self._tried, pieces)
            elif self._closings == _MOST_CLOSINGS:
                self._give_up(pieces)
            return True
        if self._after_call:
            self._rest = self._rest.lstrip()
        begin = self._rest.find(_OPEN)
        if begin < 0:
            certain = _certain(self._rest)
            self._say(self._rest[:certain], pieces)
            self._rest = self._rest[certain:]
            return False
        before = self._rest[:begin].rstrip()
        self._blank = self._rest[len(before) : begin]
        self._say(before, pieces)
        self._rest = self._rest[begin + len(_OPEN) :]
        self._in_call, self._tried, self._closings = True, 0, 0
        return True

    def _say(self, text: str, pieces: list[Piece]) -> None:
        if text:
            pieces.append(text)
            self._after_call = False

    def _take(self, call: ToolCall, end: int, pieces: list[Piece]) -> None:
        self._rest, self._in_call, self._after_call = self._rest[end:], False, True
        if self.calls and not self._parallel:
            self.notes.append(f"the model called {call.name}, too, which parallel_tool_calls false leaves out")
            return
        self.calls.append(call)
        pieces.append(call)

    def _give_up(self, pieces: list[Piece]) -> None:
        """Make text of what is no call after all."""
        end = self._rest.find(_CLOSE)
        end = len(self._rest) if end < 0 else end + len(_CLOSE)
        self._say(self._blank + _OPEN + self._rest[:end], pieces)
        if _NO_CALL not in self.notes:
            self.notes.append(_NO_CALL)
        self._rest, self._in_call = self._rest[end:], False

    def _call_in(self, text: str) -> ToolCall | None:
        try:
            values = json.loads(text, parse_constant=_refuse)
            arguments = values["arguments"] if isinstance(values, dict) else None
            if isinstance(arguments, str):
                arguments = json.loads(arguments, parse_constant=_refuse)
            written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            written.encode()  # half of a surrogate pair is no text
        except (ValueError, KeyError, RecursionError):
            return None
        if not isinstance(arguments, dict) or values.get("name") not in self._names:
            return None
        return ToolCall(values["name"], written)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _certain(text: str) -> int:
    """Return how many characters cannot be the beginning of a call, or the white space before one."""
    for length in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if _OPEN.startswith(text[-length:]):
            text = text[:-length]
            break
    return len(text.rstrip())
