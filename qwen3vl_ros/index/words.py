"""Turns text into what SQLite's FTS5 indexes and looks for.

Its tokenizer ``unicode61`` takes letters and digits between two other characters as a word, and ``porter`` its English
stem: "balls" finds "ball". Chinese, Japanese and Korean write no spaces: each of their characters is made a word of its
own, so that a word of any length is found, as a sequence of them.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

TOKENIZER: Final = "porter unicode61"

Match: TypeAlias = Literal["phrase", "all", "any"]
"""How words are looked for: as they stand one after the other, all in any order, or any of them."""

_UNSPACED: Final = re.compile(
    "([\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff])"
)


def indexed(text: str) -> str:
    """Return ``text`` as it is put into the index."""
    return _UNSPACED.sub(r" \1 ", clean(text))


def clean(text: str) -> str:
    """Return ``text`` without what SQLite does not store: half characters and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def query(words: str, match: Match = "all") -> str:
    """Return the FTS5 query for ``words``, in which nothing is an operator; "" where no word is in them."""
    phrases = [indexed(word.replace('"', " ")) for word in clean(words).split()]
    phrases = [phrase for phrase in phrases if any(character.isalnum() for character in phrase)]
    if match == "phrase" and phrases:
        phrases = [" ".join(phrases)]
    return {"phrase": "", "all": " AND ", "any": " OR "}[match].join(f'"{phrase}"' for phrase in phrases)


def unspaced(word: str) -> bool:
    """Return whether a word has characters of a language that writes no spaces."""
    return _UNSPACED.search(word) is not None
