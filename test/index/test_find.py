"""What people write finds windows: words, questions, times; and windows are shown with their times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.index.entries import Source, Thing, Window
from qwen3vl_ros.index.find import find, find_for_question, in_pieces, joined_spans, periods, question_words, within
from qwen3vl_ros.index.show import as_json, clock, said, span_text, time_text
from qwen3vl_ros.index.store import Store

SECOND = 10**9
VIDEO = Source("video", "/videos/street.mp4")
BAG = Source("bag", "/bags/street", "/camera", 1_700_000_000 * SECOND)


def window(start: int, end: int, caption: str = "", *names: str, source: Source = VIDEO) -> Window:
    zero = source.start_ns
    things = tuple(Thing(name, zero + start * SECOND) for name in names)
    return Window(source, zero + start * SECOND, zero + end * SECOND, zero + start * SECOND, caption, things)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "index.db", create=True) as store:
        yield store


def starts(windows: list[Window]) -> list[int]:
    return sorted(window.start_ns // SECOND for window in windows)


def test_words_that_stand_together_are_preferred_to_words_that_do_not(store: Store) -> None:
    store.add(window(0, 10, "A red cube and a blue ball."))
    store.add(window(10, 20, "A blue cube.", "red ball"))
    assert [starts(windows) for windows, exact in [find(store, "red ball")] if exact] == [[10]]
    windows, exact = find(store, "blue red")
    assert (starts(windows), exact) == ([0], False)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("When did the dog come in?", [10]),
        ("when was there a ball", [0, 10]),
        ("Is the red BALL ever seen?", [0]),
        ("红球什么时候出现?", [20]),
        ("什么时候有一只猫?", [20]),
        ("When does the zebra and the dog appear?", [10]),
        ("when?", []),
        ('"*" NEAR(', []),
    ],
)
def test_a_question_finds_the_windows_that_it_is_about(store: Store, question: str, found: list[int]) -> None:
    store.add(window(0, 10, "A red ball lies on the floor."))
    store.add(window(10, 20, "A dog comes in and takes a blue ball."))
    store.add(window(20, 30, "一只猫看着红球。"))
    assert starts(find_for_question(store, question, 5)) == found


def test_words_of_most_questions_are_not_looked_for() -> None:
    assert question_words("When did the man with the hat come in, and why?") == "man hat come"


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)), max_size=10),
    st.integers(0, 15),
)
def test_spans_cover_the_windows_and_never_overlap(spans: list[tuple[int, int]], margin: int) -> None:
    windows = [Window(VIDEO, start, start + length, start) for start, length in spans]
    joined = joined_spans(windows, margin, 0, 90)
    covered = {time for start, length in spans for time in range(start - margin, start + length + margin)}
    assert [time for start, end in joined for time in range(start, end)] == sorted(covered & set(range(90)))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(joined))


def test_a_written_time_counts_from_the_beginning_or_is_a_stamp() -> None:
    windows = [window(start, start + 10, source=BAG) for start in range(0, 50, 10)]
    stamp = BAG.start_ns + 25 * SECOND
    for since in (25 * SECOND, stamp):
        found = [(one.start_ns - BAG.start_ns) // SECOND for one in within(windows, since, None)]
        assert found == [20, 30, 40]
    assert starts(list(within([window(0, 10), window(10, 20)], None, 5 * SECOND))) == [0]


def test_a_written_time_is_meant_as_it_is_shown_where_a_clock_is_simulated() -> None:
    bag = Source("bag", "sim.mcap", "/image", 30 * SECOND)
    windows = [window(start, start + 10, source=bag) for start in range(0, 100, 10)]
    shown = [span_text(one) for one in within(windows, 45 * SECOND, 65 * SECOND)]
    assert (shown[0], shown[-1]) == ("0:40.0 - 0:50.0", "1:00.0 - 1:10.0")
    recording = Source("recording", "recording", "front", 12 * SECOND)
    first = Window(recording, 12 * SECOND, 22 * SECOND, 12 * SECOND)
    assert span_text(first) == "0:12.0 - 0:22.0"
    assert list(within([first], 11 * SECOND, None)) == [first] and not list(within([first], 23 * SECOND, None))


@given(st.lists(st.integers(0, 1000), unique=True), st.integers(1, 300))
def test_every_window_is_in_one_period(times: list[int], length: int) -> None:
    windows = [window(time, time + 1) for time in sorted(times)]
    groups = list(periods(windows, length * SECOND))
    assert [one for _, group in groups for one in group] == windows
    for start, group in groups:
        assert all(start <= one.start_ns < start + length * SECOND for one in group)


@given(st.lists(st.text(max_size=50)), st.integers(10, 60))
def test_pieces_fit(lines: list[str], size: int) -> None:
    pieces = list(in_pieces(lines, size))
    assert sum(map(len, pieces)) == len(lines)
    assert all(len("\n".join(piece)) <= size for piece in pieces)


def test_times_are_shown_as_people_read_them() -> None:
    assert [clock(round(seconds * SECOND)) for seconds in (0, 4.54, 59.96, 125, 3725.25)] == [
        "0:00.0", "0:04.5", "1:00.0", "2:05.0", "1:02:05.2"
    ]  # fmt: skip
    assert span_text(window(5, 65, source=BAG)) == "0:05.0 - 1:05.0"
    assert time_text(Source("camera", "front"), 12 * SECOND) == "0:12.0", "a simulated clock"
    assert time_text(Source("camera", "front"), 1_700_000_000 * SECOND).startswith("2023-11-1")


def test_a_window_is_said_in_one_line() -> None:
    assert said(window(0, 1, "A ball.\nA cube.", "ball", "cube", "ball")) == "A ball. A cube. [2 x ball, cube]"
    found = as_json(window(5, 6, "A ball.", "ball", source=BAG))
    assert (found["start"], found["end"], found["start_ns"]) == (5.0, 6.0, BAG.start_ns + 5 * SECOND)
    assert found["things"][0]["name"] == "ball"
