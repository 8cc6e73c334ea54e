"""What can be made slow runs where it can be killed."""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.prompts.sandbox import Killed, Sandbox
from qwen3vl_ros.prompts.schema import validate_answer

ENDLESS = {"type": "string", "not": {"pattern": "^(.+)+\\u0001$"}}
ANSWER = f'"{"a" * 60}"'


class Watched(Cancel):
    """Tells when a call has begun that it can end; ``end`` is what it would call then."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def calling(self, callback: Callable[[], None]) -> AbstractContextManager[None]:
        self.end = callback
        self.begun.set()
        return super().calling(callback)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def pid(sandbox: Sandbox) -> int:
    return sandbox.run(os.getpid, timeout=30.0, cancel=Cancel())


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_call_returns_or_raises_what_the_function_does(sandbox: Sandbox) -> None:
    assert sandbox.run(validate_answer, '{"a":1}', {"type": "object"}, timeout=30.0, cancel=Cancel()) == '{"a": 1}'
    with pytest.raises(ValueError, match="not of type 'array'"):
        sandbox.run(validate_answer, '{"a":1}', {"type": "array"}, timeout=30.0, cancel=Cancel())
    with pytest.raises(RuntimeError, match="TypeError"):
        sandbox.run(len, 3, timeout=30.0, cancel=Cancel())


def test_one_process_serves_call_after_call(sandbox: Sandbox) -> None:
    sandbox.warm_up()
    assert pid(sandbox) == pid(sandbox) != os.getpid()


def test_an_endless_call_is_killed_when_its_time_is_up_and_the_next_one_works(sandbox: Sandbox) -> None:
    before = pid(sandbox)
    with pytest.raises(Killed, match="longer than"):
        sandbox.run(validate_answer, ANSWER, ENDLESS, timeout=0.2, cancel=Cancel())
    assert is_gone(before)
    assert pid(sandbox) != before


def test_an_endless_call_can_be_ended_from_another_thread_and_only_that_call(sandbox: Sandbox) -> None:
    cancel = Watched()
    failures: queue.Queue[Exception] = queue.Queue()

    def call() -> None:
        try:
            sandbox.run(validate_answer, ANSWER, ENDLESS, timeout=600.0, cancel=cancel)
        except Killed as error:
            failures.put(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert cancel.begun.wait(60.0)
    cancel.set()
    assert isinstance(failures.get(timeout=60.0), Killed)
    thread.join()
    after = pid(sandbox)
    cancel.end()
    assert pid(sandbox) == after


def test_an_endless_call_holds_nobody_up(sandbox: Sandbox) -> None:
    cancel = Watched()

    def call() -> None:
        with pytest.raises(Killed):
            sandbox.run(validate_answer, ANSWER, ENDLESS, timeout=600.0, cancel=cancel)

    thread = threading.Thread(target=call)
    thread.start()
    assert cancel.begun.wait(60.0)
    assert pid(sandbox) == pid(sandbox)
    assert thread.is_alive()
    cancel.set()
    thread.join()


def test_closing_ends_what_runs_and_leaves_no_process() -> None:
    sandbox = Sandbox()
    idle = pid(sandbox)
    cancel = Watched()
    killed = threading.Event()

    def call() -> None:
        try:
            sandbox.run(validate_answer, ANSWER, ENDLESS, timeout=600.0, cancel=cancel)
        except Killed:
            killed.set()

    thread = threading.Thread(target=call)
    thread.start()
    assert cancel.begun.wait(60.0)
    sandbox.close()
    thread.join()
    assert killed.is_set()
    assert is_gone(idle)
    with pytest.raises(Killed):
        sandbox.run(os.getpid, timeout=30.0, cancel=Cancel())


def test_a_process_that_was_killed_meanwhile_is_replaced(sandbox: Sandbox) -> None:
    first = pid(sandbox)
    descriptor = os.pidfd_open(first)
    os.kill(first, 9)
    assert select.select([descriptor], [], [], 60.0)[0]
    os.close(descriptor)
    assert pid(sandbox) != first


def test_an_endless_call_whose_caller_is_dead_ends_by_itself(sandbox: Sandbox) -> None:
    """Even though a regular expression hears nothing of a closed socket."""
    process = pid(sandbox)
    assert sandbox._idle is not None
    sandbox._idle._connection.send((validate_answer, (ANSWER, ENDLESS), 0.2))
    descriptor = os.pidfd_open(process)
    assert select.select([descriptor], [], [], 60.0)[0]
    os.close(descriptor)
