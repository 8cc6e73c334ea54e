"""An engine's process is started, watched and restarted, whatever the engine does."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import third_party
from qwen3vl_ros.engines.base import (
    BadImage,
    Chunk,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    Message,
    Request,
)
from qwen3vl_ros.engines.process import EngineProcess, EngineSpec, Health, State

PATIENCE = 60.0

# A third party's engine: what it does with a request is the request's text.
ENGINE = """
    import os, threading
    from qwen3vl_ros.engines.base import BadImage, Chunk, Description, EngineNotReady, Stage, Usage

    class TwoArguments(BadImage):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    class Scripted:
        def __init__(self, progress, dies="", starts=""):
            if starts:
                with open(starts, "a") as file:
                    file.write("x")
            if dies == "always" or (dies == "once" and os.path.getsize(starts) == 1):
                os._exit(7)
            self._running = 0

        def describe(self):
            return Description("scripted", "none", concurrency=2)

        def generate(self, request, cancel):
            order = request.messages[0].content[0]
            self._running += 1
            try:
                yield Chunk(Stage.PREFILL)
                if order == "die":
                    os._exit(9)
                if order == "raise":
                    raise ZeroDivisionError("nought")
                if order == "raise its own":
                    raise TwoArguments("two", "arguments")
                if order == "just end":
                    return
                if order == "wait":
                    cancel.wait()
                yield Chunk(Stage.DECODE, str(self._running), completion_tokens=1,
                            finish_reason="cancelled" if cancel.is_set() else "stop", usage=Usage(completion_tokens=1))
            finally:
                self._running -= 1

        def close(self):
            pass
"""


class Process:
    """An EngineProcess whose deliveries and changes are events."""

    def __init__(self, **config: str) -> None:
        self.changes: queue.Queue[Health] = queue.Queue()
        self.process = EngineProcess(EngineSpec("scripted", config), self.changes.put)

    def wait_for(self, state: State) -> Health:
        while True:
            health = self.changes.get(timeout=PATIENCE)
            if health.state is state:
                return health

    def ask(self, order: str) -> queue.Queue[Chunk | EngineError]:
        items: queue.Queue[Chunk | EngineError] = queue.Queue()
        self.call = self.process.submit(Request((Message("user", (order,)),)), items.put)
        return items

    def last(self, order: str) -> Chunk | EngineError:
        """What the answer to ``order`` ends with."""
        return end_of(self.ask(order))


def end_of(items: queue.Queue[Chunk | EngineError]) -> Chunk | EngineError:
    while True:
        item = items.get(timeout=PATIENCE)
        if isinstance(item, EngineError) or item.finish_reason is not None:
            return item


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    package = third_party.install(tmp_path / "installed", ENGINE, {"scripted": "Scripted"})
    monkeypatch.syspath_prepend(str(package))
    started: list[Process] = []

    def start(**config: str) -> Process:
        started.append(Process(**config))
        return started[-1]

    yield start
    for process in started:
        process.process.close()
    sys.modules.pop("scripted_engine", None)


def test_an_answer_arrives_and_the_next_is_as_good(start: Callable[..., Process]) -> None:
    process = start()
    assert process.wait_for(State.READY).description.engine == "scripted"
    for _ in range(3):
        last = process.last("answer")
        assert isinstance(last, Chunk)
        assert last.finish_reason == "stop"


def test_a_dead_process_ends_its_answers_and_comes_back(start: Callable[..., Process]) -> None:
    process = start()
    first = process.wait_for(State.READY).pid
    error = process.last("die")
    assert isinstance(error, EngineCrashed)
    assert "exit status 9" in str(error)
    again = process.wait_for(State.READY)
    assert again.pid != first
    assert again.restarts == 1
    assert isinstance(process.last("answer"), Chunk)


def test_whatever_an_engine_raises_arrives_as_an_error_of_the_contract(start: Callable[..., Process]) -> None:
    process = start()
    process.wait_for(State.READY)
    error = process.last("raise")
    assert type(error) is EngineError
    assert "ZeroDivisionError: nought" in str(error)
    own = process.last("raise its own")
    assert type(own) is BadImage
    assert str(own) == "two arguments"
    assert "finish reason" in str(process.last("just end"))
    assert isinstance(process.last("answer"), Chunk)


def test_cancel_ends_a_running_answer(start: Callable[..., Process]) -> None:
    process = start()
    process.wait_for(State.READY)
    items = process.ask("wait")
    items.get(timeout=PATIENCE)
    process.call.cancel()
    last = end_of(items)
    assert isinstance(last, Chunk)
    assert last.finish_reason == "cancelled"


def test_no_more_answers_run_at_once_than_the_engine_says(start: Callable[..., Process]) -> None:
    process = start()
    process.wait_for(State.READY)
    waiting = []
    for _ in range(2):
        items = process.ask("wait")
        items.get(timeout=PATIENCE)
        waiting.append((process.call, items))
    third = process.ask("answer")
    waiting[0][0].cancel()
    last = end_of(third)
    assert isinstance(last, Chunk)
    assert last.text in ("1", "2")
    waiting[1][0].cancel()
    assert all(isinstance(end_of(items), Chunk) for _, items in waiting)


def test_a_process_that_dies_once_while_loading_is_started_again(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start(dies="once", starts=str(tmp_path / "starts"))
    assert process.wait_for(State.READY).restarts == 1


def test_a_process_that_always_dies_while_loading_is_given_up(start: Callable[..., Process], tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    process = start(dies="always", starts=str(starts))
    assert "given up after 5 attempts" in process.wait_for(State.FAILED).message
    assert starts.stat().st_size == 5
    with pytest.raises(EngineNotReady):
        process.ask("answer")


def test_closing_ends_the_process_and_leaves_no_descriptor(start: Callable[..., Process]) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    process = start()
    pid = process.wait_for(State.READY).pid
    process.process.close()
    process.process.close()
    assert not Path(f"/proc/{pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(EngineNotReady):
        process.ask("answer")
