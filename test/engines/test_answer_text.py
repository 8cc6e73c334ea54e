"""Characters, reasoning and stop strings come out the same however the stream is cut into pieces."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.answer_text import AnswerText, ReasoningSplitter, StopFilter

# On a busy machine anything may take long once.

# Few letters, so that markers and stop strings overlap, repeat and nearly match.
_letters = st.sampled_from(["a", "b", "<", ">", "/", "think", " ", "\n", "<think>", "</think>", "ü", "🙂"])
_texts = st.lists(_letters, max_size=30).map("".join)
_stops = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)
_cuts = st.lists(st.integers(0, 200), max_size=20)


def _pieces(whole: str | bytes, cuts: Sequence[int]) -> list[str | bytes]:
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(bounds)]


def _run(data: bytes, cuts: Sequence[int], stop: Sequence[str] = (), inside: bool = False) -> tuple[str, str, bool]:
    text = AnswerText(stop, inside)
    parts = [text.feed(piece) for piece in _pieces(data, cuts)]
    parts.append(text.finish())
    return "".join(p[0] for p in parts), "".join(p[1] for p in parts), text.stopped


@given(_texts, _stops, st.booleans(), _cuts)
def test_cuts_do_not_change_what_comes_out(text: str, stop: list[str], inside: bool, cuts: list[int]) -> None:
    data = text.encode()
    assert _run(data, cuts, stop, inside) == _run(data, range(len(data)), stop, inside)


@given(st.binary(max_size=40), _cuts)
def test_bytes_become_the_characters_they_are_as_a_whole(data: bytes, cuts: list[int]) -> None:
    text = AnswerText()
    parts = [text.feed(piece)[0] for piece in _pieces(data, cuts)] + [text.finish()[0]]
    # Of a character that the end of the stream cuts in halves, nothing is shown.
    assert "".join(parts) == codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@given(_texts, _cuts)
def test_no_character_is_shown_in_halves(text: str, cuts: list[int]) -> None:
    stream = AnswerText()
    for piece in _pieces(text.encode(), cuts):
        assert "\ufffd" not in "".join(stream.feed(piece))


@given(_texts, _stops, _cuts)
def test_no_part_of_a_stop_string_is_shown(text: str, stop: list[str], cuts: list[int]) -> None:
    stop_filter = StopFilter(stop)
    shown = ""
    for piece in _pieces(text, cuts):
        shown += stop_filter.feed(piece)
        # Not even for a moment: what was shown is a beginning of the text that no stop string has begun in.
        assert text.startswith(shown)
        assert not any(s in shown for s in stop)
    ends = [text.index(s) + len(s) for s in stop if s in text]
    assert stop_filter.stopped == bool(ends)
    if not ends:
        assert shown + stop_filter.finish() == text
        return
    read = text[: min(ends)]
    assert shown in {read.removesuffix(s) for s in stop if read.endswith(s)}


@given(_texts, _stops.filter(bool), _cuts)
def test_text_that_cannot_begin_a_stop_string_is_shown_at_once(text: str, stop: list[str], cuts: list[int]) -> None:
    stop_filter = StopFilter(stop)
    shown = read = ""
    for piece in _pieces(text, cuts):
        read += piece
        shown += stop_filter.feed(piece)
        if not stop_filter.stopped:
            held = read[len(shown) :]
            assert held == "" or any(s.startswith(held) for s in stop)


@given(
    before=st.sampled_from(["", " ", "\n"]),
    reasoning=_texts.filter(lambda t: "</think>" not in t),
    gap=st.sampled_from(["", "\n", "\n\n ", "\n\n</think>\n\n", "</think></think>"]),
    answer=_texts.filter(lambda t: not t.lstrip().startswith("</think>")),
    inside=st.booleans(),
    cuts=_cuts,
)
def test_reasoning_is_kept_apart(
    before: str, reasoning: str, gap: str, answer: str, inside: bool, cuts: list[int]
) -> None:
    stream = f"{before}{'' if inside else '<think>'}{reasoning}</think>{gap}{answer}"
    splitter = ReasoningSplitter(inside)
    parts = [splitter.feed(piece) for piece in _pieces(stream, cuts)] + [splitter.finish()]
    assert "".join(p[1] for p in parts) == reasoning.strip()
    assert "".join(p[0] for p in parts) == answer.lstrip()


@given(_texts.filter(lambda t: not t.lstrip().startswith("<think>")), _cuts)
def test_text_without_reasoning_is_untouched(text: str, cuts: list[int]) -> None:
    splitter = ReasoningSplitter()
    parts = [splitter.feed(piece) for piece in _pieces(text, cuts)] + [splitter.finish()]
    assert "".join(p[0] for p in parts) == text
    assert not any(p[1] for p in parts)


@given(_texts.filter(lambda t: "</think>" not in t), _cuts)
def test_reasoning_that_never_ends_is_no_answer(text: str, cuts: list[int]) -> None:
    answer, reasoning, _ = _run(text.encode(), cuts, inside=True)
    assert (answer, reasoning) == ("", text.strip())


@pytest.mark.parametrize(
    ("stop", "shown"), [(("bc",), "a"), (("bcd", "b"), "a"), (("abcd", "bc"), "a"), (("",), "abcd")]
)
def test_the_first_stop_string_to_be_complete_counts(stop: tuple[str, ...], shown: str) -> None:
    assert _run(b"abcd", [], stop)[0] == shown


def test_stop_strings_apply_to_the_answer_only() -> None:
    assert _run(b"<think>one stop two</think>three stop four", [], ("stop",)) == ("three ", "one stop two", True)
