"""Feedback is taken by one thread at a time: by whoever reads a stream, and by the link's own thread otherwise."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from qwen3vl_ros.asking.attendance import Attendance

PATIENCE = 30.0
Submit = Callable[..., Future[Any]]


class Middleware:
    """Messages that wait to be taken, and who took which."""

    def __init__(self) -> None:
        self.open_questions = 1
        self.taken: list[tuple[str, str]] = []
        self._messages: deque[str] = deque()
        self._woken = False
        self._takers: list[str] = []
        self._changed = threading.Condition()
        self.attendance = Attendance(self.take, self.wake, lambda: self.open_questions > 1)

    def take(self, timeout: float) -> None:
        name = threading.current_thread().name.split("_")[0]
        with self._changed:
            assert not self._takers, f"{name} takes while {self._takers} does"
            self._takers.append(name)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._messages or self._woken, timeout)
            if self._messages:
                self.taken.append((self._messages.popleft(), name))
            else:
                self._woken = False
            self._takers.remove(name)
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def publish(self, message: str) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def wait_taken(self, count: int) -> list[tuple[str, str]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.taken) >= count, PATIENCE), self.taken
        return self.taken

    def wait_taker(self, name: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: name in self._takers, PATIENCE), self._takers

    def read(self, messages: int, until: float | None = None) -> bool:
        """Read on the calling thread until so many messages were taken in all."""
        end = time.monotonic() + PATIENCE if until is None else until
        return self.attendance.read(lambda: len(self.taken) >= messages, end)


@pytest.fixture
def middleware() -> Iterator[Middleware]:
    """With the link's thread attending."""
    middleware = Middleware()
    closed = threading.Event()

    def attend() -> None:
        while not closed.is_set():
            middleware.attendance.attend(PATIENCE)

    thread = threading.Thread(target=attend, name="link")
    thread.start()
    yield middleware
    closed.set()
    middleware.attendance.call()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def reader() -> Iterator[Submit]:
    with ThreadPoolExecutor(thread_name_prefix="reader") as pool:
        yield pool.submit


def test_without_a_reader_the_links_thread_takes(middleware: Middleware) -> None:
    middleware.publish("a")
    assert middleware.wait_taken(1) == [("a", "link")]


def test_a_reader_takes_by_itself_and_again_when_it_comes_back(middleware: Middleware, reader: Submit) -> None:
    middleware.wait_taker("link")

    def read() -> list[bool]:
        return [middleware.read(1), middleware.read(2)]

    done = reader(read)
    middleware.wait_taker("reader")
    middleware.publish("a")
    middleware.wait_taken(1)
    middleware.publish("b")
    assert done.result(PATIENCE) == [True, True]
    assert middleware.taken == [("a", "reader"), ("b", "reader")]


def test_a_reader_that_does_not_come_back_is_replaced(middleware: Middleware, reader: Submit) -> None:
    done = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    middleware.publish("a")
    assert done.result(PATIENCE)
    middleware.publish("b")
    assert middleware.wait_taken(2)[1] == ("b", "link")


@pytest.mark.parametrize("why", ["the next question is sent", "nothing came in its time", "another question is open"])
def test_nobody_waits_for_a_reader_that_is_known_to_be_gone(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr("qwen3vl_ros.asking.attendance._AWAY", PATIENCE)
    middleware = Middleware()
    if why == "nothing came in its time":
        assert middleware.read(1, until=time.monotonic() + 0.01)
    else:
        middleware.publish("a")
        assert middleware.read(1)
    if why == "the next question is sent":
        middleware.attendance.call()
        middleware.take(0.0)  # what call() woke
    if why == "another question is open":
        middleware.open_questions = 2
    middleware.publish("b")
    middleware.attendance.attend(PATIENCE)
    assert middleware.taken[-1][0] == "b"


def test_of_two_readers_one_is_told_that_the_other_takes(middleware: Middleware, reader: Submit) -> None:
    first = reader(middleware.read, 1)
    middleware.wait_taker("reader")
    assert not middleware.read(1)
    middleware.publish("a")
    assert first.result(PATIENCE)


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


def test_what_taking_raises_reaches_the_reader_and_leaves_the_place_free() -> None:
    def take(timeout: float) -> None:
        raise ValueError("the node was destroyed")

    attendance = Attendance(take, lambda: None, lambda: False)
    for _ in range(2):
        with pytest.raises(ValueError, match="destroyed"):
            attendance.read(lambda: False, time.monotonic() + PATIENCE)
    with pytest.raises(ValueError, match="destroyed"):
        attendance.attend(PATIENCE)
