"""Finds windows by what people write: words, or a question about them. Times are nanoseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from qwen3vl_ros.index.entries import Source, Window
from qwen3vl_ros.index.show import CLOCK
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.index.words import unspaced

_MOST_QUESTIONS_HAVE: Final = """
a about after again all also an and any are as at be been before being between but by can could did do does done during
ever every find first for from had happen happened happening happens has have he her him his how i if in is it its last
long many me moment more most much my of often on or our out over seconds see seen she show so some tell than that the
their them then there these they this those time times to until up us very video was we were what when where which while
who whom whose why will with would you your
"""
_STOP: Final = frozenset(_MOST_QUESTIONS_HAVE.split())
_STOP_CHINESE: Final = re.compile(
    "什么时候|什么时间|什么|时候|何时|哪里|哪儿|在哪|谁|怎么|为什么|多少|几次|是否|有没有|出现|发生|视频|画面|里面|最后|第一次|"
    "了|的|吗|呢|是|在|有|被|把|和|与|及|个|这|那|过|着|就|都|也|请|告诉|我|你|他|她|它"
)


def find(store: Store, words: str) -> tuple[list[Window], bool]:
    """Return the windows with ``words``, the best first, and whether they have them one after the other.

    Those that do are all there is if there are any: of "a red cube and a blue ball", "red ball" is not said. Else
    the windows follow that have all words somewhere in their caption, or in the name of one thing.
    """
    exact = store.search(words, match="phrase")
    if exact:
        return exact, True
    return store.search(words), False


def find_for_question(store: Store, question: str, limit: int) -> list[Window]:
    """Return the windows with the words of a question that say what it is about, the best first.

    Those with all of these words; any of them where there is none.
    """
    words = question_words(question)
    return store.search(words, limit=limit) or store.search(words, match="any", limit=limit)


def question_words(question: str) -> str:
    """Return the words of a question without those that most questions have; of Chinese, each two characters."""
    found: list[str] = []
    for word in re.findall(r"[^\W_]+", question.lower()):
        if not unspaced(word):
            found += [word] if word not in _STOP else []
            continue
        for part in _STOP_CHINESE.sub(" ", word).split():
            found += [part[at : at + 2] for at in range(max(1, len(part) - 1))]
    return " ".join(dict.fromkeys(found))


def joined_spans(windows: Iterable[Window], margin: int, first: int, end: int) -> list[tuple[int, int]]:
    """Return from when until when windows last, in order; those that touch, with ``margin`` on each side, as one."""
    spans: list[tuple[int, int]] = []
    for start, stop in sorted((window.start_ns - margin, window.end_ns + margin) for window in windows):
        start, stop = max(start, first), min(stop, end)
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(stop, spans[-1][1])
        elif start < stop:
            spans.append((start, stop))
    return spans


def within(windows: Iterable[Window], since: int | None, until: int | None) -> Iterator[Window]:
    """Yield the windows that overlap a time that a user wrote: since their source's beginning, or a stamp."""
    for window in windows:
        if since is not None and window.end_ns < _time_of(since, window.source):
            continue
        if until is not None and window.start_ns > _time_of(until, window.source):
            continue
        yield window


def periods(windows: Iterable[Window], length: int) -> Iterator[tuple[int, list[Window]]]:
    """Yield the windows of each period of a source's time, with the period's beginning, in order."""
    current: tuple[Source, int] | None = None
    group: list[Window] = []
    for window in windows:
        zero = window.source.start_ns
        key = window.source, zero + (window.start_ns - zero) // length * length
        if current is not None and key != current:
            yield current[1], group
            group = []
        current = key
        group.append(window)
    if current is not None:
        yield current[1], group


def in_pieces(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield lines in groups of at most ``size`` characters; a longer line is cut off."""
    piece: list[str] = []
    used = 0
    for line in lines:
        short = line if len(line) < size else line[: size - 4] + " ..."
        if piece and used + len(short) + 1 > size:
            yield piece
            piece, used = [], 0
        piece.append(short)
        used += len(short) + 1
    if piece:
        yield piece


def _time_of(written: int, source: Source) -> int:
    """Return a time as it was written, which is as ``time_text`` shows it, or a stamp that tells the date."""
    since_beginning = source.kind == "bag" or source.start_ns >= CLOCK
    return source.start_ns + written if since_beginning and written < CLOCK else written
