"""An executor's thread ends without a trace, and callbacks know that they are run by it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.task import Future

from qwen3vl_ros.ros.spinning import SpinThread, is_spun_here

pytestmark = pytest.mark.ros
PATIENCE = 60.0


def many_threads(*, context: Any) -> Executor:
    return MultiThreadedExecutor(num_threads=2, context=context)


executors = pytest.mark.parametrize("kind", [SingleThreadedExecutor, many_threads])


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("spun", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def spin(executor: Executor, node: Any, **arguments: Any) -> SpinThread:
    executor.add_node(node)
    spinning = SpinThread(executor, "spinning", **arguments)
    spinning.start()
    return spinning


@executors
def test_the_executor_is_shut_down_once_its_callbacks_and_its_thread_have_ended_and_nothing_is_said(
    kind: Any, node: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    still: list[bool] = []
    for _ in range(10):
        running, left = threading.Event(), threading.Event()

        def work(running: threading.Event = running, left: threading.Event = left) -> None:
            left.clear()
            running.set()
            sum(range(100_000))
            left.set()

        executor = kind(context=node.context)
        shutdown = executor.shutdown
        timer = node.create_timer(0.0001, work)
        spinning = spin(executor, node)

        def note(spinning: SpinThread = spinning, left: Any = left, shutdown: Callable[[], Any] = shutdown) -> None:
            still.append(spinning._thread.is_alive() or not left.is_set())
            shutdown()

        monkeypatch.setattr(executor, "shutdown", note)
        assert running.wait(PATIENCE)
        spinning.stop()
        node.destroy_timer(timer)
    assert (still, died) == ([False] * 10, [])
    assert "never retrieved" not in capfd.readouterr().err


def test_an_executor_that_nothing_happens_on_stops_too(node: Any) -> None:
    spinning = spin(SingleThreadedExecutor(context=node.context), node)
    spinning.stop(PATIENCE)
    assert not spinning._thread.is_alive()


def test_stopping_waits_no_longer_than_it_is_told_to_for_a_callback_that_hangs(node: Any) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        let_go.wait(PATIENCE)

    spinning = spin(executor, node)
    executor.create_task(hang)
    assert hangs.wait(PATIENCE)
    spinning.stop(0.01)
    assert spinning._thread.is_alive()
    let_go.set()
    spinning.stop(PATIENCE)
    assert not spinning._thread.is_alive()


def test_the_end_of_ros_ends_the_thread(node: Any) -> None:
    failed = threading.Event()
    spinning = spin(SingleThreadedExecutor(context=node.context), node, on_failure=failed.set)
    node.context.shutdown()
    spinning._thread.join(PATIENCE)
    assert not spinning._thread.is_alive() and not failed.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_is_told(node: Any) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    failed = threading.Event()
    spinning = spin(executor, node, on_failure=failed.set)
    executor.create_task(lambda: 1 / 0)
    assert failed.wait(PATIENCE)
    spinning.stop()


def test_a_callback_is_known_to_be_run_by_its_executor_and_by_no_other(node: Any) -> None:
    executor, other = (SingleThreadedExecutor(context=node.context) for _ in range(2))
    answers: queue.Queue[tuple[bool, bool]] = queue.Queue()
    spinning = spin(executor, node)
    timer = node.create_timer(0.001, lambda: answers.put((is_spun_here(executor), is_spun_here(other))))
    assert answers.get(timeout=PATIENCE) == (True, False)
    assert not is_spun_here(executor)
    spinning.stop()
    node.destroy_timer(timer)
    executor.shutdown()


@pytest.mark.parametrize(
    ("function", "arguments"), [("spin", ()), ("spin_once", ()), ("spin_until_future_complete", (Future(),))]
)
def test_that_is_known_whichever_way_it_is_spun(function: str, arguments: tuple[Any, ...], node: Any) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    answers: queue.Queue[bool] = queue.Queue()

    def ask() -> None:
        answers.put(is_spun_here(executor))
        node.context.shutdown()

    executor.create_task(ask)
    with contextlib.suppress(ExternalShutdownException):
        getattr(executor, function)(*arguments)
    assert answers.get_nowait()
