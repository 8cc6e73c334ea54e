"""Deadlines are met in their order, and none of them can take the others away."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from qwen3vl_ros.vlm.deadlines import Deadlines

PATIENCE = 30.0
FAR = 3600.0


class Watched:
    """Deadlines that tell of each call, and what was logged."""

    def __init__(self) -> None:
        self.called: queue.Queue[str] = queue.Queue()
        self.logged: queue.Queue[str] = queue.Queue()
        self.deadlines = Deadlines(self.logged.put)

    def add(self, name: str, seconds: float) -> object:
        return self.deadlines.add(time.monotonic() + seconds, lambda: self.called.put(name))


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.deadlines.close()


def test_a_nearer_deadline_that_comes_later_is_met_first(watched: Watched) -> None:
    watched.add("far", FAR)
    watched.add("near", 0.05)
    assert watched.called.get(timeout=PATIENCE) == "near"
    assert watched.called.empty()


def test_what_is_overdue_together_is_called_in_order(watched: Watched) -> None:
    moment = time.monotonic() - 1.0
    for name in ("first", "second", "third"):
        watched.deadlines.add(moment, lambda name=name: watched.called.put(name))  # type: ignore[misc]
    assert [watched.called.get(timeout=PATIENCE) for _ in range(3)] == ["first", "second", "third"]


def test_a_forgotten_deadline_is_not_called_and_holds_nothing(watched: Watched) -> None:
    class Goal:
        def end(self) -> None:
            watched.called.put("forgotten")

    goal = Goal()
    forgotten = watched.deadlines.add(time.monotonic() + 0.05, goal.end)
    forgotten.forget()
    freed = weakref.ref(goal)
    del goal
    assert freed() is None
    watched.add("later", 0.1)
    assert watched.called.get(timeout=PATIENCE) == "later"


def test_a_call_that_fails_is_logged_and_the_next_deadline_is_met(watched: Watched) -> None:
    def fail() -> None:
        raise ValueError("a defect")

    watched.deadlines.add(time.monotonic(), fail)
    watched.add("next", 0.0)
    assert watched.called.get(timeout=PATIENCE) == "next"
    assert "ValueError: a defect" in watched.logged.get(timeout=PATIENCE)


def test_closing_ends_the_thread_and_calls_nothing() -> None:
    watched = Watched()
    watched.add("far", FAR)
    watched.deadlines.close()
    assert "deadlines" not in {thread.name for thread in threading.enumerate()}
    assert watched.called.empty()
