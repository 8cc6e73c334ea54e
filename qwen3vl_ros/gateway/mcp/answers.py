"""Answers for an agent as JSON text of at most 300 tokens; what does not fit is kept, and the answer says so.

How many tokens a text has depends on the agent's model, which nobody tells. They are counted by a rule that errs on the
high side: see :func:`count_tokens`.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

MOST_TOKENS: Final = 300
"""Tokens that an answer costs at most."""

_PIECE: Final = re.compile(r"[ ]?[A-Za-z]+|[^\sA-Za-z]|\s+")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+")
_KEPT: Final = 200
"""Rests of answers that are kept; the oldest go first."""

_ROOM_FOR_WORDS: Final = 30
"""Characters by which a text may be cut earlier, between two words."""


def count_tokens(text: str) -> int:
    """Return how many tokens a text counts as.

    A word counts one for every four letters begun; one in capitals, or in both kinds of letters, one for every two; a
    digit or sign of ASCII one. Another character counts one for every three bytes of its UTF-8 begun, one of four bytes
    four. White space beyond the blank before a word counts one.
    """
    return sum(map(_tokens_of, _PIECE.findall(text)))


def _tokens_of(piece: str) -> int:
    shown = piece.strip()
    if not shown:
        return 1
    if shown.isascii() and shown.isalpha():
        return math.ceil(len(shown) / (4 if _WORD.fullmatch(shown) else 2))
    size = len(piece.encode("utf-8", "surrogatepass"))
    return 4 if size == 4 else math.ceil(size / 3)


def as_text(fields: Mapping[str, Any]) -> str:
    """Return the fields as JSON."""
    return json.dumps(fields, ensure_ascii=False)


def clipped(text: str, tokens: int) -> str:
    """Return a text of at most so many tokens, which ends with "..." where it was cut."""
    return text if count_tokens(text) <= tokens else text[: _longest(text, tokens - 3, lambda cut: cut)] + "..."


class Pages:
    """Cuts answers, and keeps what was cut off."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, Any]] = OrderedDict()

    def first(self, fields: Mapping[str, Any], long: str) -> str:
        """Return an answer as text.

        Args:
            fields: The answer; without the field ``long`` it is short.
            long: The field, a text or a list of short items, that is cut.
        """
        text = as_text(fields)
        if count_tokens(text) <= MOST_TOKENS:
            return text
        whole = fields[long]
        name = secrets.token_hex(3)
        n = _longest(whole, MOST_TOKENS, lambda cut: as_text({**fields, long: cut, **_advice(name)}))
        if isinstance(whole, str):
            n = max(whole.rfind(blank, max(n - _ROOM_FOR_WORDS, 0), n) + 1 for blank in " \n") or n
        n = max(1, n)  # an item by itself is short; so no answer is without any
        self._kept[name] = (long, whole[n:])
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return as_text({**fields, long: whole[:n], **_advice(name)})

    def rest(self, name: str) -> str:
        """Return what was cut off an answer, itself cut where it is long. Raises KeyError where it is not kept."""
        long, rest = self._kept[name]
        return self.first({long: rest}, long)


def _advice(name: str) -> dict[str, str]:
    return {"cut": f"call more with id {name} for the rest"}


def _longest(whole: str | Sequence[Any], tokens: int, text_of: Any) -> int:
    """Return how much of ``whole`` fits, by bisection."""
    low, high = 0, len(whole)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text_of(whole[:middle])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return low
