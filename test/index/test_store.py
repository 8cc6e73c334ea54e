"""The file of an index: what is put in is found, by its times and words; it is bounded, resumable and shared."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.index.entries import IndexFileError, Sighting, Source, Thing, Window
from qwen3vl_ros.index.schema import VERSION
from qwen3vl_ros.index.store import Store

SECOND = 10**9
CAMERA = Source("camera", "front")
VIDEO = Source("video", "/videos/street.mp4", window_ns=10 * SECOND, fingerprint="7")


def window(number: int, caption: str = "", *names: str, source: Source = CAMERA, jpeg: bytes = b"") -> Window:
    start = number * SECOND
    things = tuple(Thing(name, start) for name in names)
    return Window(source, start, start + SECOND, start, caption, things, jpeg)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "index.db", create=True) as store:
        yield store


def numbers(windows: object) -> list[int]:
    return [window.start_ns // SECOND for window in windows]  # type: ignore[attr-defined]


def test_a_window_comes_back_as_it_was_put_in(store: Store) -> None:
    things = (
        Thing("red ball", 12, (1, 2, 3, 4), (0.5, -1.25, 2.0), "map"),
        Thing("table", 13),
    )
    put = Window(VIDEO, 10, 20, 12, "A ball lies on a table.", things, b"jpeg", "lens")
    number = store.add(put)
    (got,) = store.windows()
    assert got == replace(put, jpeg=b"", id=number)
    assert store.jpeg(got) == b"jpeg"
    assert store.sources() == [VIDEO]


def test_words_are_found_in_captions_and_in_names(store: Store) -> None:
    store.add(window(0, "A man opens the door."))
    store.add(window(1, "", "red ball", "blue cube"))
    store.add(window(2, "Two red balls roll."))
    assert numbers(store.search("opens door")) == [0]
    assert sorted(numbers(store.search("RED Ball"))) == [1, 2]
    assert sorted(numbers(store.search("door ball", match="any"))) == [0, 1, 2]
    assert store.search("door ball") == []
    assert store.search("red cube") == [], "the words of two things are of neither"


def test_a_phrase_is_words_one_after_the_other(store: Store) -> None:
    store.add(window(0, "A red cube and a blue ball."))
    store.add(window(1, "A red ball."))
    assert numbers(store.search("red ball", match="phrase")) == [1]
    assert sorted(numbers(store.search("red ball"))) == [0, 1]


@pytest.mark.parametrize("words", ["球", "红球", "桌子上", "红球 桌子"])
def test_chinese_words_of_any_length_are_found(store: Store, words: str) -> None:
    store.add(window(0, "桌子上有一个红球。"))
    store.add(window(1, "一只猫。", "蓝色杯子"))
    assert numbers(store.search(words)) == [0]


def test_chinese_is_found_in_mixed_text_and_in_names(store: Store) -> None:
    store.add(window(0, "a红球on the桌子", "蓝色杯子"))
    assert numbers(store.search("桌子")) == numbers(store.search("杯子")) == numbers(store.search("红球")) == [0]
    assert store.search("球红") == []
    assert store.last_seen("杯子") is not None


@pytest.mark.parametrize(
    "words",
    ['"', '""', "*", "x*", "NEAR(", "NEAR(ball, 2)", "AND", "OR NOT", "text:", "^", "-", "(", "'", ";", "\0", "",
     " ", "\ud800", "ball\0", "{text}: x", "a" * 5000, "ball " * 500],
)  # fmt: skip
def test_no_word_is_an_operator_or_an_error(store: Store, words: str) -> None:
    store.add(window(0, "A ball."))
    for match in ("phrase", "all", "any"):
        assert numbers(store.search(words, match=match)) in ([], [0])  # type: ignore[arg-type]
    store.last_seen(words)
    store.add(window(1, words, words))


@settings(max_examples=200, deadline=None)
@given(caption=st.text(max_size=40), words=st.text(max_size=20))
def test_any_text_can_be_stored_and_looked_for(caption: str, words: str) -> None:
    store = _shared_store()
    store.add(window(0, caption, caption))
    found = store.search(words)
    assert len(found) <= 1
    plain = [word for word in caption.split() if word.isascii() and word.isalpha()]
    for word in plain:
        assert store.search(word) and store.last_seen(word)


_stores: list[Store] = []


def _shared_store() -> Store:
    if not _stores:
        import tempfile

        _stores.append(Store(Path(tempfile.mkdtemp()) / "index.db", create=True))
    return _stores[0]


@settings(max_examples=30, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(-5, 50), st.integers(0, 10)), max_size=20, unique_by=lambda span: span[0]),
    since=st.none() | st.integers(-10, 60),
    until=st.none() | st.integers(-10, 60),
)
def test_windows_of_a_time_are_those_that_overlap_it(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], since: int | None, until: int | None
) -> None:
    with Store(tmp_path_factory.mktemp("spans") / "index.db", create=True) as store:
        for start, length in spans:
            store.add(Window(CAMERA, start, start + length, start, "ball"))
        expected = sorted(
            start
            for start, length in spans
            if (since is None or start + length >= since) and (until is None or start <= until)
        )
        assert [one.start_ns for one in store.windows(since, until)] == expected
        assert sorted(one.start_ns for one in store.search("ball", since=since, until=until)) == expected
        assert len(store.search("ball", since=since, until=until, limit=3)) == min(3, len(expected))


def test_more_windows_than_are_read_at_a_time_come_once_each(store: Store) -> None:
    for number in range(450):
        store.add(window(number % 90, source=Source("camera", str(number // 90))))
    assert numbers(store.windows()) == sorted(number % 90 for number in range(450))


def test_the_newest_thing_of_a_name_is_where_it_was_last_seen(store: Store) -> None:
    store.add(window(3, "", "red ball"))
    store.add(window(5, "", "red ball", "table"))
    store.add(window(9, "", "blue ball"))
    seen = store.last_seen("ball red")
    assert isinstance(seen, Sighting)
    assert seen.thing == Thing("red ball", 5 * SECOND)
    assert seen.window.start_ns == 5 * SECOND
    assert store.last_seen("balls") is not None
    assert store.last_seen("green ball") is None


def test_what_was_seen_after_a_cameras_clock_began_anew_is_the_newest(store: Store) -> None:
    store.add(window(3500, "A red ball lies there.", "red ball"))
    store.add(window(100, "A red ball rolls.", "red ball"))
    seen, described = store.last_seen("red ball"), store.last_described("red ball")
    assert seen is not None and seen.thing.stamp_ns == 100 * SECOND
    assert described is not None and described.caption == "A red ball rolls."


def test_a_window_that_goes_on_was_seen_until_its_new_end(store: Store) -> None:
    first = store.add(window(1, "", "red ball"))
    store.add(window(5, "", "red ball", source=Source("camera", "back")))
    assert store.extend(first, 9 * SECOND)
    seen = store.last_seen("ball")
    assert seen is not None and (seen.window.id, seen.thing.stamp_ns) == (first, 9 * SECOND)
    assert (seen.window.frame_ns, seen.window.end_ns) == (SECOND, 9 * SECOND)
    assert store.done_until(CAMERA) == 9 * SECOND
    of_back = store.last_seen("ball", cameras=["back"])
    assert of_back is not None and of_back.window.source.name == "back"
    assert store.last_seen("ball", cameras=["left", ""]) is None
    assert not store.extend(99, 9 * SECOND)


def test_the_newest_caption_with_all_words_is_the_one_that_ends_last(store: Store) -> None:
    assert store.last_described("ball") is None and store.last_described("?") is None
    first = store.add(window(1, "A red ball lies there."))
    store.add(window(5, "Two red balls roll.", source=Source("camera", "back")))
    assert store.extend(first, 9 * SECOND)
    store.add(window(10, "A red cube lies there.", "ball"))
    for words, cameras, start in (("red ball", (), 1), ("red ball", ("back",), 5), ("red", ("front",), 10)):
        found = store.last_described(words, cameras=cameras)
        assert found is not None and found.start_ns == start * SECOND


def test_a_source_goes_on_after_its_last_window_even_a_deleted_one(store: Store) -> None:
    assert store.done_until(VIDEO) is None
    store.add(window(4, source=VIDEO))
    store.add(window(2, source=VIDEO))
    store.add(window(7))
    assert store.done_until(VIDEO) == 5 * SECOND
    assert store.done_until(replace(VIDEO, fingerprint="8")) == 5 * SECOND
    store.trim(0)
    assert store.count() == 0
    assert store.done_until(VIDEO) == 5 * SECOND


def test_a_window_replaces_the_one_that_began_at_the_same_time(store: Store) -> None:
    store.add(window(1, "A ball.", "ball"))
    store.add(window(1, "A cube.", "cube"))
    assert numbers(store.windows()) == [1]
    assert store.search("ball") == [] and store.last_seen("ball") is None
    assert numbers(store.search("cube")) == [1]


@pytest.mark.parametrize("size", [0, 3_000, 60_000])
def test_trimming_keeps_the_file_below_its_cap_and_the_newest_windows(store: Store, size: int) -> None:
    cap, gone, number = 400_000, 0, 0
    while gone < 10:
        store.add(window(number, f"caption {number}", *[f"thing {number}"] * 9, jpeg=os.urandom(size)))
        number += 1
        if number % 2 == 0:
            gone += store.trim(cap)
            assert sum(file.stat().st_size for file in store.path.parent.iterdir() if file.suffix != ".db-shm") <= cap
    left = numbers(store.windows())
    assert left == list(range(number - len(left), number))
    assert left
    assert len(store.search("caption")) == len(store.search("thing")) == len(left)
    assert store.search(f"thing {left[0] - 1}", match="phrase") == []


def test_trimming_while_somebody_reads_deletes_no_more_than_it_has_to(store: Store) -> None:
    store.add(window(0))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM windows").fetchall()
        for number in range(1, 12):
            store.add(window(number, jpeg=os.urandom(50_000)))
        store.trim(400_000)
        assert 3 <= store.count() < 12
    store.trim(400_000)
    assert store.size() <= 400_000
    assert store.count() >= 3


def test_a_second_process_reads_while_a_window_is_written(store: Store) -> None:
    store.add(window(0))
    count = f"from qwen3vl_ros.index.store import Store; print(Store({str(store.path)!r}).count())"
    with store._transaction():
        store._write(window(1))
        read = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, timeout=60, check=True)
        assert read.stdout == "1\n"
    assert store.count() == 2


def test_a_window_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    with pytest.raises(IndexFileError, match=r"index\.db cannot be used"):
        store.add(_bad_window())
    assert store.count() == 0 and store.search("ball") == [] and store.sources() == []
    store.add(window(1, "ball"))


def _bad_window() -> Window:
    # SQLite's own error, at the last of its things
    return replace(window(0, "ball", "ball"), things=(Thing("ball", 0), Thing("ball", 0, frame_id=None)))  # type: ignore[arg-type]


def test_a_file_is_for_its_owner_alone(store: Store) -> None:
    store.add(window(0))
    files = list(store.path.parent.glob("index.db*"))
    assert files and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_missing_file_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=r"There is no index .*qwen3vl-ros index"):
        Store(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [True, False])
def test_what_is_no_index_is_refused_and_left_as_it_is(tmp_path: Path, create: bool) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("These are notes. " * 100)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (id INTEGER)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(IndexFileError, match="is no index"):
            Store(path, create=create)
        assert path.read_bytes() == before


def test_an_index_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    Store(path, create=True).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(IndexFileError, match=f"version {VERSION + 1}.*newer"):
        Store(path)


def test_an_index_on_a_read_only_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk" / "index.db"
    with Store(path, create=True) as store:
        store.add(window(0, "A ball."))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with Store(path) as store:
        assert numbers(store.search("ball")) == [0]
        with pytest.raises(IndexFileError, match="readonly"):
            store.add(window(1))
