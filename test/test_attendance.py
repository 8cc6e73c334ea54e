"""Feedback is taken by one thread at a time: by whoever reads a stream, and by the link's own thread otherwise."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from qwen3vl_ros.client import attendance
from qwen3vl_ros.client.attendance import Attendance

PATIENCE = 30.0
Submit = Callable[..., Future[Any]]


class Middleware:
    """Messages that wait to be taken, and which thread took which."""

    def __init__(self) -> None:
        self.open_questions = 1
        self.taken: list[tuple[str, str]] = []
        self.takes = 0
        self.together: list[str] = []
        self._messages: deque[str] = deque()
        self._woken = False
        self._taker = ""
        self._changed = threading.Condition()
        self.attendance = Attendance(self.take, self.wake, lambda: self.open_questions > 1)

    def take(self, timeout: float) -> bool:
        name = threading.current_thread().name.split("_")[0]
        with self._changed:
            if self._taker:
                self.together.append(f"{name} takes while {self._taker} does")
            self._taker = name
            self.takes += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._messages or self._woken, timeout)
            self._woken = False  # also when a message came with it, as rmw_fastrtps has it
            self._taker = ""
            self._changed.notify_all()
            if not self._messages:
                return False
            self.taken.append((self._messages.popleft(), name))
            return True

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def publish(self, *messages: str) -> None:
        with self._changed:
            self._messages.extend(messages)
            self._changed.notify_all()

    def wait_taken(self, count: int) -> list[tuple[str, str]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.taken) >= count, PATIENCE), self.taken
        return self.taken

    def wait_taker(self, name: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: name == self._taker, PATIENCE), self._taker

    def read(self, messages: int, seconds: float = PATIENCE) -> bool:
        """Read on the calling thread until so many messages were taken in all."""
        return self.attendance.read(lambda: len(self.taken) >= messages, time.monotonic() + seconds)


@pytest.fixture
def middleware() -> Iterator[Middleware]:
    middleware = Middleware()
    yield middleware
    assert not middleware.together


@pytest.fixture
def link(middleware: Middleware) -> Iterator[None]:
    """The link's thread attends."""
    closed = threading.Event()

    def attend() -> None:
        while not closed.is_set():
            middleware.attendance.attend(PATIENCE)

    thread = threading.Thread(target=attend, name="link")
    thread.start()
    yield
    closed.set()
    middleware.attendance.call()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def reader() -> Iterator[Submit]:
    with ThreadPoolExecutor(thread_name_prefix="reader") as pool:
        yield pool.submit


@pytest.mark.usefixtures("link")
def test_without_a_reader_the_links_thread_takes(middleware: Middleware) -> None:
    middleware.publish("a")
    assert middleware.wait_taken(1) == [("a", "link")]


@pytest.mark.usefixtures("link")
def test_a_reader_takes_in_place_of_the_links_thread(middleware: Middleware, reader: Submit) -> None:
    middleware.wait_taker("link")
    done = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    middleware.publish("a")
    assert done.result(PATIENCE)
    assert middleware.taken == [("a", "reader")]


def test_a_reader_that_comes_back_soon_is_waited_for(middleware: Middleware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "_AWAY", PATIENCE)
    middleware.publish("a")
    assert middleware.read(1)
    middleware.publish("b")
    middleware.attendance.attend(0.01)  # the link's thread meanwhile
    assert middleware.taken[1:] == []
    assert middleware.read(2)
    assert middleware.taken[1][0] == "b"


@pytest.mark.usefixtures("link")
def test_a_reader_that_does_not_come_back_is_replaced(middleware: Middleware, reader: Submit) -> None:
    done = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    middleware.publish("a")
    assert done.result(PATIENCE)
    middleware.publish("b")
    assert middleware.wait_taken(2)[1] == ("b", "link")


def test_a_slow_reader_finds_everything_that_came_meanwhile(
    middleware: Middleware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "_PROMPT", 0.0)
    middleware.publish("a")
    assert middleware.read(1)
    middleware.publish("b", "c", "d")
    assert middleware.read(2)
    assert [message for message, _ in middleware.taken] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("why", ["the question ended", "nothing came in its time", "another question is open"])
def test_nobody_waits_for_a_reader_that_is_known_to_be_gone(
    middleware: Middleware, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(attendance, "_AWAY", PATIENCE)

    def ends() -> bool:
        middleware.attendance.call()
        return True

    if why == "nothing came in its time":
        assert middleware.read(1, seconds=0.01)
    elif why == "the question ended":
        assert middleware.attendance.read(ends, time.monotonic() + PATIENCE)
    else:
        middleware.publish("a")
        assert middleware.read(1)
        middleware.open_questions = 2
    middleware.publish("b")
    middleware.attendance.attend(PATIENCE)
    assert middleware.taken[-1][0] == "b"


def test_a_reader_leaves_as_soon_as_it_is_called_and_has_enough(middleware: Middleware, reader: Submit) -> None:
    ended = threading.Event()
    done = reader(middleware.attendance.read, ended.is_set, time.monotonic() + PATIENCE)
    middleware.wait_taker("reader")
    assert not middleware.attendance.wait_left(0.01)
    ended.set()
    middleware.attendance.call()
    begin = time.monotonic()
    assert middleware.attendance.wait_left(PATIENCE)
    assert done.result(PATIENCE)
    assert time.monotonic() - begin < PATIENCE / 2


def test_two_readers_of_one_question_both_come_to_an_end(middleware: Middleware, reader: Submit) -> None:
    first = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    second = reader(middleware.read, 1)
    middleware.publish("a")
    assert first.result(PATIENCE)
    assert second.result(PATIENCE)


@pytest.mark.usefixtures("link")
def test_a_second_open_question_makes_the_reader_leave_and_keeps_others_away(
    middleware: Middleware, reader: Submit
) -> None:
    done = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    middleware.open_questions = 2
    middleware.attendance.call()
    assert done.result(PATIENCE)
    assert not middleware.read(1)
    middleware.publish("a")
    assert middleware.wait_taken(1) == [("a", "link")]


def test_a_call_that_a_reader_has_heard_is_heard_by_the_links_thread_as_well(middleware: Middleware) -> None:
    middleware.attendance.call()
    middleware.take(0.0)  # a reader, which takes away what wakes
    begin = time.monotonic()
    middleware.attendance.attend(PATIENCE)
    assert time.monotonic() - begin < PATIENCE / 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_ends_a_reader_early_leaves_its_place_free(
    middleware: Middleware, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def enough() -> bool:
        raise error

    with pytest.raises(error):
        middleware.attendance.read(enough, time.monotonic() + 0.01)
    middleware.publish("a")
    while not middleware.taken:
        middleware.attendance.attend(PATIENCE)
    assert middleware.read(2, seconds=0.01)
