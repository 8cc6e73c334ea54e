"""A cancel reaches whoever answers: by being looked at, and by calling, once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qwen3vl_ros.engines.base import Cancel

PATIENCE = 30.0


def test_callback_runs_on_the_thread_that_cancels() -> None:
    cancel = Cancel()
    threads: list[threading.Thread] = []
    with cancel.calling(lambda: threads.append(threading.current_thread())):
        assert not threads
        setter = threading.Thread(target=cancel.set)
        setter.start()
        setter.join(PATIENCE)
        assert cancel.is_set()
        assert threads == [setter]


def test_callback_comes_at_once_when_it_is_cancelled_already() -> None:
    cancel = Cancel()
    cancel.set()
    calls: list[str] = []
    with cancel.calling(lambda: calls.append("called")):
        assert calls == ["called"]
    cancel.set()
    assert calls == ["called"]


def test_cancelling_twice_calls_once() -> None:
    cancel = Cancel()
    calls: list[str] = []
    with cancel.calling(lambda: calls.append("called")):
        cancel.set()
        cancel.set()
    assert calls == ["called"]


def test_callback_is_forgotten_after_its_block_even_when_that_raises() -> None:
    cancel = Cancel()
    calls: list[str] = []
    with cancel.calling(lambda: calls.append("done")):
        pass
    with pytest.raises(ZeroDivisionError), cancel.calling(lambda: calls.append("raised")):
        raise ZeroDivisionError
    with cancel.calling(lambda: calls.append("still there")):
        cancel.set()
    assert calls == ["still there"]


def test_every_callback_is_called() -> None:
    cancel = Cancel()
    calls: list[str] = []
    with cancel.calling(lambda: calls.append("outer")), cancel.calling(lambda: calls.append("inner")):
        cancel.set()
    assert calls == ["outer", "inner"]


def test_callback_may_cancel_and_register_itself() -> None:
    cancel = Cancel()
    calls: list[str] = []

    def callback() -> None:
        calls.append("first")
        cancel.set()
        with cancel.calling(lambda: calls.append("second")):
            pass

    with cancel.calling(callback):
        cancel.set()
    assert calls == ["first", "second"]


class _CancelsBehind:
    """A lock after whose first release another thread cancels, before this one goes on."""

    def __init__(self, cancel: Cancel, lock: Any) -> None:
        self._cancel, self._lock, self._first = cancel, lock, True

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._first:
            self._first = False
            setter = threading.Thread(target=self._cancel.set)
            setter.start()
            setter.join(PATIENCE)


def test_cancel_in_the_moment_of_registering_calls_once() -> None:
    cancel = Cancel()
    cancel._callbacks_lock = _CancelsBehind(cancel, cancel._callbacks_lock)  # type: ignore[assignment]
    calls: list[str] = []
    with cancel.calling(lambda: calls.append("called")):
        assert calls == ["called"]


def test_many_threads_at_once_call_once_each_time() -> None:
    for _ in range(200):
        cancel = Cancel()
        calls: list[int] = []
        start = threading.Barrier(4)

        def set_it(start: threading.Barrier = start, cancel: Cancel = cancel) -> None:
            start.wait(PATIENCE)
            cancel.set()

        setters = [threading.Thread(target=set_it) for _ in range(3)]
        for setter in setters:
            setter.start()
        start.wait(PATIENCE)
        with cancel.calling(lambda calls=calls: calls.append(1)):
            for setter in setters:
                setter.join(PATIENCE)
        assert calls == [1]


def test_waiting_ends_when_it_is_cancelled() -> None:
    cancel = Cancel()
    waiter = threading.Thread(target=cancel.wait)
    waiter.start()
    cancel.set()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
