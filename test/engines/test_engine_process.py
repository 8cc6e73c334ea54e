"""An engine's process is started, watched and restarted, whatever the engine does."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import third_party
from qwen3vl_ros.engines import process as process_module
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
    from pathlib import Path
    from qwen3vl_ros.engines.base import BadImage, Chunk, Description, ModelNotFound, Stage, Usage

    class TwoArguments(BadImage):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    class Scripted:
        def __init__(self, progress, dies="", starts="", model=""):
            self._model = model
            if model and "broken" in Path(model).read_text():
                raise ModelNotFound(f"{model} is broken")
            if starts:
                with open(starts, "a") as file:
                    file.write("x")
            if dies == "always" or (dies == "once" and os.path.getsize(starts) == 1) or (
                dies == "six times" and os.path.getsize(starts) <= 6
            ):
                os._exit(7)
            self._running = 0

        @staticmethod
        def files(model="", **_):
            return [Path(model)] if model else []

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
                if order == "overwrite the model":
                    Path(self._model).write_text("another one")
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


def test_a_process_that_dies_again_and_again_while_loading_is_out_and_tried_until_it_loads(
    start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_BACKOFF", (0.01,))
    monkeypatch.setattr(process_module, "_RETRY_LOADING", 0.02)
    process = start(dies="six times", starts=str(tmp_path / "starts"))
    out = process.wait_for(State.OUT)
    assert out.restarts == 5
    assert "exit status 7; loading failed 5 times, it is tried every 0.02 s" in out.message
    assert process.wait_for(State.OUT).restarts == 6
    assert process.wait_for(State.READY).message == ""
    assert isinstance(process.last("answer"), Chunk)


def test_what_a_person_has_to_change_is_not_tried_again(start: Callable[..., Process], tmp_path: Path) -> None:
    failed = start(mdoel="typo").wait_for(State.FAILED)
    assert failed.restarts == 0
    assert "mdoel" in failed.message
    model = tmp_path / "model"
    model.write_text("broken")
    process = start(model=str(model))
    failed = process.wait_for(State.FAILED)
    assert failed.restarts == 0
    assert str(model) in failed.message
    with pytest.raises(EngineNotReady):
        process.ask("answer")


# --- a model that is replaced while it is used -----------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.write_text("whole")
    return model


def test_a_model_that_is_overwritten_is_loaded_anew_although_nobody_asks(
    start: Callable[..., Process], model: Path
) -> None:
    process = start(model=str(model))
    first = process.wait_for(State.READY)
    running = process.ask("wait")
    model.write_text("another one")
    assert f"'{model}' was changed" in process.wait_for(State.RESTARTING).message
    assert isinstance(end_of(running), EngineNotReady)
    assert process.wait_for(State.READY).pid != first.pid


def test_an_answer_during_which_the_model_was_overwritten_is_none(start: Callable[..., Process], model: Path) -> None:
    process = start(model=str(model))
    process.wait_for(State.READY)
    error = process.last("overwrite the model")
    assert isinstance(error, EngineNotReady)
    assert f"'{model}' was changed" in str(error)
    process.wait_for(State.READY)
    assert isinstance(process.last("answer"), Chunk)


def test_a_model_that_is_half_replaced_is_tried_until_it_is_whole(start: Callable[..., Process], model: Path) -> None:
    process = start(model=str(model))
    process.wait_for(State.READY)
    model.write_text("still broken")
    assert "was changed" in process.wait_for(State.RESTARTING).message
    assert "is broken; restarting in" in process.wait_for(State.RESTARTING).message
    model.write_text("whole again")
    process.wait_for(State.READY)
    assert isinstance(process.last("answer"), Chunk)


def test_a_model_that_is_removed_answers_on(start: Callable[..., Process], model: Path) -> None:
    process = start(model=str(model))
    process.wait_for(State.READY)
    model.unlink()
    assert isinstance(process.last("answer"), Chunk)
    assert process.process.health.restarts == 0


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
