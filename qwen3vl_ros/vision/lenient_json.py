"""Parses the JSON and the tags that models write anywhere in an answer, even malformed or cut off.

The parser takes what is complete and never guesses the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["box", "point", "polygon", "space"]
"""The kind of shape that coordinates describe."""

NUMBER: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
r"""Matches digits in one way only: ``\d+\.?\d*`` would backtrack over every split of them around the point."""

_OUTSIDE: Final = re.compile(
    r"""(?P<open>[\[{])
      | <(?:ref|\|object_ref_start\|)> (?P<label>[^<]*) <
      | <(?P<shape>box|quad|\|box_start\||\|quad_start\|)> (?P<corners>[^<]*) <
      | <points?\b (?P<attributes>[^<>]*) (?: > (?P<phrase>[^<]*) </points?> )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""The beginning of a structure in prose. No part of it matches beyond the next "<", so that searching is linear."""

_TOKEN: Final = re.compile(
    r"""(?P<space> \s+ | (?://|\#)[ \t][^\n]* | /\*(?:.*?\*/|.*) )
      | (?P<fence> ``` )
      | (?P<open> [\[({] )
      | (?P<close> [\])}] )
      | (?P<colon> : )
      | (?P<comma> , )
      | (?P<quote> ["'“] )
      | (?P<word> [^\s\[\](){}:,`/\#]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENER: Final = {"]": "[", "}": "{", ")": "("}
_AFTER_VALUE: Final = r"[\[({\]})\"'“] | // | /\* | \# | ``` | \Z"
_AFTER_STRING: Final = rf"(?=\s*(?: : | {_AFTER_VALUE} | ,\s*(?: {_AFTER_VALUE} | [\d.+-] | null | None | \w+\s*: ) ))"
_STRING_END: Final = {
    opening: re.compile(rf"\\. | {closing}{_AFTER_STRING}", re.VERBOSE | re.DOTALL)
    for opening, closing in {'"': '"', "'": "'", "“": "”"}.items()
}
"""An escape, or a quote followed by what may follow a string: models forget to escape quotes in labels."""

_ESCAPE: Final = re.compile(
    r"\\(u[\da-fA-F]{4} | U00(?:0[\da-fA-F]|10)[\da-fA-F]{4} | x[\da-fA-F]{2} | .)", re.VERBOSE | re.DOTALL
)
"""The constants of JSON and Python."""

_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(slots=True, eq=False)
class Node:
    """An object, list or tuple: (key, value, the value's index in the text); key "" = none. ``closed``: has its end.

    ``at``, ``until``: where a structure that no other encloses is in the text.
    """

    opener: str
    items: list[tuple[str, Value, int]] = field(default_factory=list)
    key: str = ""
    closed: bool = False
    at: int = 0
    until: int = 0

    def add(self, value: Value, at: int) -> None:
        """Add a value under the key that was read last."""
        self.items.append((self.key, value, at))
        self.key = ""

    def last_is_key(self) -> None:
        """Handle a colon: the value before it is the key of the next one."""
        if self.items and not self.items[-1][0] and isinstance(self.items[-1][1], (str, float)):
            self.key = str(self.items.pop()[1])


Value: TypeAlias = "str | float | Node | None"

Group: TypeAlias = "dict[str, tuple[Value, int]]"
"""Keys of an object, in lower case with underscores, and their values: (value, its index in the text)."""


class Tag(NamedTuple):
    """The shapes of a tag: rows of coordinates."""

    at: int
    label: str
    kind: Kind
    rows: list[list[float]]


def read(text: str) -> Iterator[Node | Tag]:
    """Yield every structure in ``text`` that may contain regions, in order, in time linear in its length."""
    position, label = 0, ""
    while match := _OUTSIDE.search(text, position):
        at, position = match.start(), match.end()
        if match["open"]:
            node, position = _read_structure(text, at)
            node.at, node.until = at, position
            yield node
        elif match["label"] is not None:
            label, position = match["label"].strip(), position - 1
        elif match["shape"]:
            position -= 1
            row = numbers(match["corners"]) or []
            if "quad" in match["shape"].lower():
                yield Tag(at, label, "polygon", [row])
            elif len(row) == 2:
                yield Tag(at, label, "point", [row])
            elif len(row) % 4 == 0:
                yield Tag(at, label, "box", [row[i : i + 4] for i in range(0, len(row), 4)])
            else:
                yield Tag(at, label, "box", [row])
        else:
            yield _points_tag(at, match["attributes"], match["phrase"])


def groups(node: Node) -> Iterator[Group]:
    """Yield a node's keys and values; a repeated key begins another group."""
    group: Group = {}
    for key, value, at in node.items:
        name = key.strip().lower().replace("-", "_").replace(" ", "_")
        if name in group:
            yield group
            group = {}
        if name:
            group[name] = (value, at)
    yield group


def _points_tag(at: int, attributes: str, phrase: str | None) -> Tag:
    """Read ``<points x1="1" y1="2" x2=".." .. alt="label">label</points>``, or x and y of ``<point ...>``."""
    places: dict[str, dict[str, float]] = {}
    # The character after the number shows that it is complete.
    for axis, index, number in re.findall(r"""\b([xy])(\d*)\s*=\s*["']?([-+.\deE]+)(?=["'\s/>])""", attributes):
        if NUMBER.fullmatch(number):
            places.setdefault(index, {})[axis] = float(number)
    alt = re.search(r"""\balt\s*=\s*(?:"([^"]*)"|'([^']*)')""", attributes)
    label = (alt[1] or alt[2] if alt else None) or phrase or ""
    return Tag(at, label, "point", [[place["x"], place["y"]] for place in places.values() if len(place) == 2])


def _read_structure(text: str, start: int) -> tuple[Node, int]:
    """Read the structure that opens at ``start``; return it and its end: a bracket, a code fence or the text's end."""
    root = Node(text[start])
    stack, opened = [root], Counter(text[start])
    position = start + 1
    while stack and (token := _TOKEN.match(text, position)):
        at, position = position, token.end()
        if token["open"]:
            node = Node(token["open"])
            stack[-1].add(node, at)
            stack.append(node)
            opened[node.opener] += 1
        elif token["close"] and opened[_OPENER[token["close"]]]:
            # It also closes inner structures that the model forgot to close. An unmatched one is ignored.
            closed = None
            while closed != _OPENER[token["close"]]:
                node = stack.pop()
                node.closed, closed = True, node.opener
                opened[closed] -= 1
        elif token["fence"]:
            return root, position
        elif token["colon"]:
            stack[-1].last_is_key()
        elif token["comma"]:
            stack[-1].key = ""
        elif token["quote"]:
            end = _string_end(text, position, token["quote"])
            if end is None:
                return root, len(text)
            stack[-1].add(_unescape(text[position:end]), at)
            position = end + 1
        elif token["word"] and position < len(text):  # a word at the end of the text may be incomplete
            stack[-1].add(_scalar(token["word"]), at)
    return root, position


def _string_end(text: str, position: int, quote: str) -> int | None:
    while (match := _STRING_END[quote].search(text, position)) and match[0][0] == "\\":
        position = match.end()
    return match.start() if match else None


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda e: chr(int(e[1][1:], 16)) if len(e[1]) > 1 else _ESCAPED.get(e[1], e[1]), text)


def numbers(text: str) -> list[float] | None:
    """Return [1, 2, 3, 4] for "(1,2),(3,4)" or "1 2 3 4"; None for a text with anything else."""
    words = re.split(r"[\s,()\[\]]+", text)
    inner = words[not words[0] : len(words) - (not words[-1])]
    return [float(word) for word in inner] if all(NUMBER.fullmatch(word) for word in inner) else None


def _scalar(word: str) -> str | float | None:
    if NUMBER.fullmatch(word):
        return float(word)
    return None if word in ("null", "None") else word
