"""Answers that come over a network: iterated by threads that block, cancelled wherever they wait, cut anywhere."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines import streaming
from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.engines.streaming import EventLoop, event_data

PATIENCE = 30.0


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    loop.close()


class Source:
    """Items that a test releases one by one; what happened to the source is in ``events``."""

    def __init__(self, last_words: Sequence[str] = (), slow_farewell: bool = False) -> None:
        self.waiting = threading.Event()
        self.cleaning = threading.Event()
        self.events: list[str] = []
        self._last_words = last_words
        self._slow_farewell = slow_farewell
        self._goodbye = asyncio.Event()

    def goodbye(self) -> None:
        """End a slow farewell."""
        self._loop.call_soon_threadsafe(self._goodbye.set)

    async def items(self, *first: str) -> AsyncIterator[str]:
        self._loop = asyncio.get_running_loop()
        try:
            for item in first:
                yield item
            self.waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            self.cleaning.set()
            try:
                if self._slow_farewell:
                    await self._goodbye.wait()
            except asyncio.CancelledError:
                self.events.append("disturbed")
                raise
            for word in self._last_words:
                yield word
            if not self._last_words:
                raise
        finally:
            self.events.append("closed")


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def cancelled_when(event: threading.Event, cancel: Cancel) -> threading.Thread:
    def wait() -> None:
        event.wait(PATIENCE)
        cancel.set()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_coroutine_is_waited_for_and_its_error_is_raised_here(loop: EventLoop) -> None:
    async def fails() -> None:
        raise KeyError("nowhere")

    async def works() -> threading.Thread:
        return threading.current_thread()

    assert loop.run(works()) is not threading.current_thread()
    with pytest.raises(KeyError, match="nowhere"):
        loop.run(fails())


def test_items_come_in_order_and_all(loop: EventLoop) -> None:
    assert list(loop.iterate(count(100), Cancel())) == list(range(100))


def test_items_come_before_the_end(loop: EventLoop) -> None:
    source = Source()
    items = loop.iterate(source.items("a", "b"), Cancel())
    assert [next(items), next(items)] == ["a", "b"]
    assert source.events == []
    items.close()


def test_error_of_the_source_is_raised_after_its_items(loop: EventLoop) -> None:
    async def fails() -> AsyncIterator[str]:
        yield "a"
        raise KeyError("gone")

    items = loop.iterate(fails(), Cancel())
    assert next(items) == "a"
    with pytest.raises(KeyError, match="gone"):
        next(items)


def test_cancel_reaches_the_source_where_it_waits(loop: EventLoop) -> None:
    source, cancel = Source(), Cancel()
    thread = cancelled_when(source.waiting, cancel)
    assert list(loop.iterate(source.items("a"), cancel)) == ["a"]
    assert source.events == ["cancelled", "closed"]
    thread.join(PATIENCE)


def test_items_that_come_after_the_cancel_still_come(loop: EventLoop) -> None:
    source, cancel = Source(last_words=("rest", "end")), Cancel()
    thread = cancelled_when(source.waiting, cancel)
    assert list(loop.iterate(source.items("a"), cancel)) == ["a", "rest", "end"]
    assert source.events == ["cancelled", "closed"]
    thread.join(PATIENCE)


def test_cancel_before_the_start_ends_without_an_item(loop: EventLoop) -> None:
    cancel = Cancel()
    cancel.set()
    assert list(loop.iterate(Source().items("a"), cancel)) == []


def test_cancel_after_the_end_harms_nobody(loop: EventLoop) -> None:
    cancel = Cancel()
    assert list(loop.iterate(count(3), cancel)) == [0, 1, 2]
    cancel.set()
    assert list(loop.iterate(count(3), Cancel())) == [0, 1, 2]


def test_closing_the_iterator_waits_until_the_source_has_cleaned_up(loop: EventLoop) -> None:
    source = Source(slow_farewell=True)
    items = loop.iterate(source.items("a"), Cancel())
    assert next(items) == "a"
    assert source.waiting.wait(PATIENCE)
    closing = threading.Thread(target=items.close)
    closing.start()
    assert source.cleaning.wait(PATIENCE)
    assert closing.is_alive()
    source.goodbye()
    closing.join(PATIENCE)
    assert source.events == ["cancelled", "closed"]


def test_cleaning_up_after_a_cancel_is_not_disturbed_by_closing(loop: EventLoop) -> None:
    source, cancel = Source(slow_farewell=True), Cancel()
    items = loop.iterate(source.items("a"), cancel)
    assert next(items) == "a"
    assert source.waiting.wait(PATIENCE)
    cancel.set()
    assert source.cleaning.wait(PATIENCE)
    closing = threading.Thread(target=items.close)
    closing.start()
    loop.run(asyncio.sleep(0.05))  # what closing asks of the loop is done by then, or did not come
    source.goodbye()
    closing.join(PATIENCE)
    assert source.events == ["cancelled", "closed"]


def test_iterator_that_was_never_started_costs_nothing(loop: EventLoop) -> None:
    source = Source()
    loop.iterate(source.items("a"), Cancel()).close()
    assert source.events == []


def test_several_threads_iterate_at_once(loop: EventLoop) -> None:
    results: dict[int, list[int]] = {}

    def iterate(n: int) -> None:
        results[n] = list(loop.iterate(count(n), Cancel()))

    threads = [threading.Thread(target=iterate, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {n: list(range(n)) for n in range(20)}


def test_closing_the_loop_ends_what_runs_and_its_thread() -> None:
    threads = set(threading.enumerate())
    loop, source = EventLoop(), Source()
    begun = threading.Event()
    got: list[str] = []

    def iterate() -> None:
        for item in loop.iterate(source.items("a"), Cancel()):
            got.append(item)
            begun.set()

    reader = threading.Thread(target=iterate)
    reader.start()
    assert begun.wait(PATIENCE)
    assert source.waiting.wait(PATIENCE)
    loop.close()
    loop.close()
    reader.join(PATIENCE)
    assert got == ["a"]
    assert source.events == ["cancelled", "closed"]
    assert set(threading.enumerate()) == threads


# Server-sent events.


def parse(stream: bytes, cuts: Sequence[int] = ()) -> list[bytes]:
    async def collect() -> list[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
            for start, end in itertools.pairwise(bounds):
                yield stream[start:end]

        return [data async for data in event_data(pieces())]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b": a comment\nevent: delta\nid: 7\nretry: 10\ndata: one\n\n", [b"one"]),
        (b"data: no blank line", [b"no blank line"]),
        (b"data: no blank line\r\n", [b"no blank line"]),
        (b"data: cut at CR\r", [b"cut at CR"]),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"data: \xe7\x8c\n\ndata: \xab\n\n", [b"\xe7\x8c", b"\xab"]),
        (b"database: 1\n\n", []),
        (b"\xef\xbb\xbfdata: one\n\n\xef\xbb\xbfdata: two\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: all", [b"all"]),
        (b"data: one\rdata: two\r\rdata: three\r\n\r\n", [b"one\ntwo", b"three"]),
        (b"", []),
    ],
)
def test_events_have_the_data_that_the_standard_says(stream: bytes, data: list[bytes]) -> None:
    assert parse(stream) == data


_lines = st.sampled_from(
    [
        b"data: x",
        b"data:y",
        b"data",
        b"",
        b"",
        b": keep-alive",
        b"event: e",
        "data: 猫".encode(),
        b"data: a\rb",
        b"\xef\xbb\xbfdata: m",
    ]
)
_streams = st.lists(st.tuples(_lines, st.sampled_from([b"\n", b"\r\n", b"\r"])).map(b"".join), max_size=20).map(
    b"".join
)


@given(_streams | st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=20))
def test_cuts_do_not_change_the_events(stream: bytes, cuts: list[int]) -> None:
    assert parse(stream, cuts) == parse(stream) == parse(stream, range(len(stream)))


@given(st.lists(st.text(st.characters(blacklist_characters="\r\n"), min_size=1), max_size=10), st.booleans())
def test_what_a_server_sends_arrives(texts: list[str], windows: bool) -> None:
    end = b"\r\n" if windows else b"\n"
    stream = b"".join(b"data: " + text.encode("utf-8", "replace") + end * 2 for text in texts)
    assert parse(stream) == [text.encode("utf-8", "replace") for text in texts]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 200, b"data: " + b"x" * 200 + b"\n", b"data: xxxxxxxxx\n" * 20])
def test_event_without_end_is_an_error_before_memory_is_full(stream: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_MAX_EVENT", 100)
    with pytest.raises(ValueError, match="an event of more than"):
        parse(stream)


def test_any_number_of_small_events_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_MAX_EVENT", 100)
    assert parse(b"data: 0123456789\n\n" * 100) == [b"0123456789"] * 100
