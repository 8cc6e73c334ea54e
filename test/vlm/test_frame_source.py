"""A frame is as old as it is, whatever its stamp says and whatever the clock does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from qwen3vl_ros.ros import clock_watch
from qwen3vl_ros.ros.spinning import SpinThread
from qwen3vl_ros.vlm.frame_source import NEWEST_ONLY, Frame, FrameSource, NoFrame

pytestmark = pytest.mark.ros

PATIENCE = 60.0
SECOND = 1_000_000_000


class Graph:
    """A node that looks, spun in the background, a camera, and a clock."""

    def __init__(self, context: rclpy.Context, simulated: bool) -> None:
        self.node = Node("looking", context=context, parameter_overrides=[Parameter("use_sim_time", value=simulated)])
        self._other = Node("camera", context=context)
        self._images = self._other.create_publisher(Image, "/image", NEWEST_ONLY)
        self._clock = self._other.create_publisher(Clock, "/clock", 10)
        self._arrived = threading.Event()
        self.node.create_subscription(Image, "/image", lambda _: self._arrived.set(), NEWEST_ONLY)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(self.node)
        self._spinning = SpinThread(executor, "looking")
        self._spinning.start()
        self._sources: list[FrameSource] = []

    def source(self, age_by: str = "stamp") -> FrameSource:
        source = FrameSource(self.node, "/image", "raw", age_by)
        self._sources.append(source)
        self._until(lambda: self._images.get_subscription_count() == 1 + len(self._sources))
        return source

    def publish(self, stamp: float) -> None:
        """Publish an image and wait until it has arrived."""
        message = Image(height=1, width=1, encoding="mono8", step=1, data=b"\x00")
        message.header.stamp.sec = int(stamp)
        self._arrived.clear()
        self._images.publish(message)
        assert self._arrived.wait(PATIENCE)

    def set_time(self, seconds: float) -> None:
        """Publish simulated time and wait until the node has it."""
        message = Clock()
        message.clock.sec = int(seconds)

        def arrived() -> bool:
            self._clock.publish(message)
            return bool(self.node.get_clock().now().nanoseconds == seconds * SECOND)

        self._until(arrived)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._spinning.stop(PATIENCE)
        self.node.destroy_node()
        self._other.destroy_node()


@pytest.fixture
def graph() -> Iterator[Callable[..., Graph]]:
    context = rclpy.Context()
    rclpy.init(context=context)
    started: list[Graph] = []

    def start(*, simulated: bool = False) -> Graph:
        started.append(Graph(context, simulated))
        return started[-1]

    yield start
    for graph in started:
        graph.close()
    context.try_shutdown()


def wait(source: FrameSource, not_before: int = 0, max_age: float = 2.0, timeout: float = 0.0) -> Frame:
    frame = source.wait(not_before, max_age, time.monotonic() + timeout)
    assert frame is not None
    return frame


def test_an_image_without_a_stamp_is_as_old_as_its_arrival_not_as_its_being_taken(graph: Callable[..., Graph]) -> None:
    graph = graph()
    source = graph.source()
    graph.publish(0.0)
    later = graph.node.get_clock().now().nanoseconds
    with pytest.raises(NoFrame, match="too early"):
        wait(source, not_before=later)
    assert wait(source, not_before=later - 30 * SECOND, max_age=30.0).stamp == 0
    with pytest.raises(NoFrame, match="younger than"):
        wait(source, max_age=1e-9)


def test_the_arrival_is_the_middlewares(graph: Callable[..., Graph]) -> None:
    serialized = b"\x00\x01\x00\x00" + bytes(8)
    now = time.time_ns()
    frame = Frame.from_sample((serialized, {"received_timestamp": now - 50 * SECOND}), Image)
    assert 50.0 <= time.monotonic() - frame.arrived < 50.0 + PATIENCE
    untold = Frame.from_sample((serialized, {"received_timestamp": 0}), Image)
    assert time.monotonic() - untold.arrived < PATIENCE


def test_a_camera_that_stamps_by_another_clock_is_of_use_by_arrival(graph: Callable[..., Graph]) -> None:
    graph = graph()
    by_stamp, by_arrival = graph.source(), graph.source("arrival")
    graph.publish(12.0)
    with pytest.raises(NoFrame, match="age_by: arrival"):
        wait(by_stamp)
    assert wait(by_arrival, max_age=PATIENCE).stamp == 12 * SECOND
    with pytest.raises(NoFrame, match="too early"):
        wait(by_arrival, not_before=graph.node.get_clock().now().nanoseconds, max_age=PATIENCE)


def test_simulated_time_that_stands_still_keeps_nothing_fresh(
    graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph(simulated=True)
    source = graph.source()
    graph.set_time(100.0)
    graph.publish(100.0)
    assert wait(source, max_age=PATIENCE).stamp == 100 * SECOND
    monkeypatch.setattr(clock_watch, "_STANDS_STILL", 0.0)
    with pytest.raises(NoFrame, match=r"simulated time has stood at 100\.0 s .* paused, or gone"):
        wait(source, max_age=1e-3, timeout=0.01)
    assert wait(source, max_age=PATIENCE).stamp == 100 * SECOND


def test_after_a_reset_the_sentence_says_so_and_the_next_image_is_taken(graph: Callable[..., Graph]) -> None:
    graph = graph(simulated=True)
    source = graph.source()
    graph.set_time(100.0)
    graph.publish(100.0)
    assert wait(source, max_age=PATIENCE).stamp == 100 * SECOND
    graph.set_time(3.0)
    with pytest.raises(NoFrame, match=r"simulated time went back by 97\.0 s"):
        wait(source)
    graph.publish(3.0)
    assert wait(source).stamp == 3 * SECOND


def test_frames_are_apart_by_their_stamps_or_else_by_their_arrival() -> None:
    early, late = Frame(10 * SECOND, b"", Image, 100.0), Frame(11 * SECOND, b"", Image, 100.25)
    assert (early.seconds_from(late), early.is_before(late)) == (1.0, True)
    unstamped = Frame(0, b"", Image, 99.5)
    assert (unstamped.seconds_from(early), unstamped.is_before(early), early.is_before(unstamped)) == (0.5, True, False)
