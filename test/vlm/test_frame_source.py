"""A frame is as old as it is, whatever its stamp says and whatever the clock does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from qwen3vl_ros.ros import clock_watch
from qwen3vl_ros.ros.spinning import SpinThread
from qwen3vl_ros.vlm.cameras import Camera
from qwen3vl_ros.vlm.frame_source import Frame, FrameSource, NoFrame, Samples
from qwen3vl_ros.vlm.parameters import CameraSettings, Settings

pytestmark = pytest.mark.ros

PATIENCE = 60.0
SECOND = 1_000_000_000
SENSOR_DATA = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


SETTINGS = CameraSettings(**{one.name: getattr(Settings(), one.name) for one in fields(CameraSettings)})


class Graph:
    """A node that looks, spun in the background, a camera, and a clock."""

    def __init__(self, context: rclpy.Context, simulated: bool) -> None:
        self.node = Node("looking", context=context, parameter_overrides=[Parameter("use_sim_time", value=simulated)])
        self._other = Node("camera", context=context)
        self._images = self._other.create_publisher(Image, "/image", SENSOR_DATA)
        self._clock = self._other.create_publisher(Clock, "/clock", 10)
        self._arrived = threading.Event()
        self.node.create_subscription(Image, "/image", lambda _: self._arrived.set(), SENSOR_DATA)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(self.node)
        self._spinning = SpinThread(executor, "looking")
        self._spinning.start()
        self._sources: list[FrameSource] = []

    def source(self, age_by: str = "stamp") -> FrameSource:
        source = FrameSource(self.node, "/image", age_by)
        self._sources.append(source)
        self._until(lambda: self._images.get_subscription_count() == 1 + len(self._sources))
        return source

    @property
    def camera(self) -> Node:
        """The node of the camera, for other publishers."""
        return self._other

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
    frame = Frame.from_sample(
        (serialized, {"received_timestamp": now - 50 * SECOND, "publication_sequence_number": 3}), Image
    )
    assert 50.0 <= time.monotonic() - frame.arrived < 50.0 + PATIENCE
    untold = Frame.from_sample((serialized, {"received_timestamp": 0, "publication_sequence_number": None}), Image)
    assert time.monotonic() - untold.arrived < PATIENCE


def test_a_camera_that_stamps_by_another_clock_is_of_use_by_arrival(graph: Callable[..., Graph]) -> None:
    graph = graph()
    by_stamp, by_arrival = graph.source(), graph.source("arrival")
    graph.publish(12.0)
    with pytest.raises(NoFrame, match="age_by: arrival"):
        wait(by_stamp)
    assert wait(by_arrival, max_age=PATIENCE).stamp == 12 * SECOND
    since = graph.node.get_clock().now().nanoseconds
    with pytest.raises(NoFrame, match=r"no frame on .* came at or after not_before .* too early"):
        wait(by_arrival, not_before=since, max_age=PATIENCE)
    graph.publish(13.0)
    assert wait(by_arrival, not_before=since, max_age=PATIENCE, timeout=PATIENCE).stamp == 13 * SECOND


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


def test_a_stamp_ahead_of_simulated_time_stays_ahead_while_that_stands_still(
    graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph(simulated=True)
    source = graph.source()
    monkeypatch.setattr(clock_watch, "_STANDS_STILL", 0.0)
    graph.publish(99.0)  # no message came on /clock
    with pytest.raises(NoFrame, match="simulated time has stood at 0"):
        wait(source)


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


def newest(samples: Samples) -> Any:
    """The message that comes; waits for it."""
    deadline = time.monotonic() + PATIENCE
    while not (frames := samples.take()):
        assert time.monotonic() < deadline
        samples.wait(PATIENCE)
    return frames[-1].message()


def test_what_was_published_once_before_this_node_came_arrives(graph: Callable[..., Graph]) -> None:
    graph = graph()
    publisher = graph.camera.create_publisher(CameraInfo, "/camera_info", LATCHED)
    publisher.publish(CameraInfo(width=7))
    samples = Samples(graph.node, "/camera_info", CameraInfo, 1)
    assert newest(samples).width == 7
    # A driver that does not latch takes over: its messages arrive, too.
    graph.camera.destroy_publisher(publisher)
    publisher = graph.camera.create_publisher(CameraInfo, "/camera_info", SENSOR_DATA)
    deadline = time.monotonic() + PATIENCE
    while not (frames := samples.take()):
        assert time.monotonic() < deadline
        publisher.publish(CameraInfo(width=8))
        samples.wait(0.05)
    assert frames[-1].message().width == 8
    samples.close()


def test_no_more_is_taken_than_is_kept_however_fast_it_comes(
    graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Samples(graph().node, "/fast", Image, 3)
    sample = (bytes(12), {"received_timestamp": 0, "publication_sequence_number": 1})
    monkeypatch.setattr(samples._subscription, "take", lambda: sample)
    assert len(samples.take()) == 3
    samples.close()


def test_a_latched_still_image_answers_a_question(graph: Callable[..., Graph]) -> None:
    graph = graph()
    still = Image(height=1, width=1, encoding="mono8", step=1, data=b"\x00")
    graph.camera.create_publisher(Image, "/still", LATCHED).publish(still)
    source = FrameSource(graph.node, "/still", "arrival")
    assert source.wait(0, PATIENCE, time.monotonic() + PATIENCE) is not None
    source.close()


def test_who_takes_the_newest_frame_takes_none_away_from_a_question_that_waits(graph: Callable[..., Graph]) -> None:
    graph = graph()
    source = graph.source()
    assert source.newest() is None
    for stamp in range(100, 110):
        with ThreadPoolExecutor(1) as question:
            got = question.submit(source.wait, stamp * SECOND, 1e12, time.monotonic() + PATIENCE)
            graph.publish(stamp)
            while (newest := source.newest()) is None or newest.stamp < stamp * SECOND:
                pass
            frame = got.result(PATIENCE / 2)
        assert frame is not None
        assert frame.stamp == stamp * SECOND
    source.close()
    assert source.newest() is None


def test_a_topic_that_is_closed_while_it_is_waited_for_ends_the_wait(graph: Callable[..., Graph]) -> None:
    source = FrameSource(graph().node, "/nothing")
    threading.Timer(0.1, source.close).start()
    assert source.wait(0, 1.0, time.monotonic() + PATIENCE) is None


def test_the_qos_is_as_the_parameters_say(graph: Callable[..., Graph]) -> None:
    context = graph().node.context
    prefix = "qos_overrides./camera_info.subscription."
    given = [word for rule in ("reliability:=reliable", "durability:=volatile") for word in ("-p", prefix + rule)]
    node = Node("overridden", context=context, cli_args=["--ros-args", *given])
    samples = Samples(node, "/camera_info", CameraInfo, 1)
    node.create_publisher(CameraInfo, "/camera_info", LATCHED)
    samples.follow_publishers()
    assert (samples.qos.reliability, samples.qos.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
    samples.close()
    node.destroy_node()


def test_a_publisher_of_a_wrong_type_beside_a_good_one_is_no_problem(graph: Callable[..., Graph]) -> None:
    graph = graph()
    source = graph.source()
    elsewhere = rclpy.Context()  # no participant of DDS may have two types of one topic
    rclpy.init(context=elsewhere)
    other = Node("mistaken", context=elsewhere)
    other.create_publisher(CameraInfo, "/image", SENSOR_DATA)
    deadline = time.monotonic() + PATIENCE
    while source.health().publishers < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    graph.publish(graph.node.get_clock().now().nanoseconds // SECOND)
    assert source.health().problem == ""
    with pytest.raises(NoFrame, match="younger than"):
        wait(source, max_age=1e-9)
    other.destroy_node()
    elsewhere.shutdown()


def test_two_cameras_on_one_topic_are_odd(graph: Callable[..., Graph]) -> None:
    graph = graph()
    source = graph.source()
    graph.publish(0.0)
    assert source.health().doubt == ""
    graph.camera.create_publisher(Image, "/image", SENSOR_DATA)
    assert "2 nodes publish /image" in source.health().doubt


def test_frames_that_get_lost_on_the_way_are_told_with_what_helps(
    graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph()
    source = graph.source()
    graph.publish(0.0)
    assert source.health().doubt == ""
    monkeypatch.setattr(Samples, "lost", 158)
    source._newest = Frame(0, b"", Image, 0.0, number=225)
    assert "of 224 frames that were sent 158 got lost on the way" in source.health().doubt
    with pytest.raises(NoFrame, match=r"got lost .*_DEFAULT_PROFILES_FILE=.*fastdds\.xml"):
        wait(source)
    monkeypatch.setattr(Samples, "lost", 100)
    assert source.health().doubt == ""


@pytest.mark.parametrize(
    ("remapped", "settings", "topics"),
    [
        ((), {}, ("/image", "/camera_info", "/depth", "/depth_info")),
        (
            ("image:=/front/image_raw",),
            {},
            ("/front/image_raw", "/front/camera_info", "/front/depth", "/front/depth_info"),
        ),
        (
            ("image:=/front/image_raw", "depth:=/aligned", "camera_info:=/info"),
            {"image_transport": "compressed", "depth_transport": "compressedDepth"},
            ("/front/image_raw/compressed", "/info", "/aligned/compressedDepth", "/front/depth_info"),
        ),
        (
            ("image:=/front/image_raw/compressed",),
            {"image_transport": "compressed"},
            ("/front/image_raw/compressed", "/front/image_raw/camera_info"),
        ),
        (("image/compressed:=/jpegs/compressed",), {"image_transport": "compressed"}, ("/jpegs/compressed",)),
    ],
)
def test_what_belongs_to_a_camera_moves_with_its_image_unless_it_is_remapped_itself(
    graph: Callable[..., Graph], remapped: tuple[str, ...], settings: dict[str, str], topics: tuple[str, ...]
) -> None:
    rules = [word for rule in remapped for word in ("-r", rule)]
    node = Node("remapped", context=graph().node.context, cli_args=["--ros-args", *rules])
    camera = Camera(node, "", replace(SETTINGS, **settings), Settings().history)
    found = (camera.frames.topic, camera._info.topic, camera._depth.topic, camera._depth_info.topic)
    assert found[: len(topics)] == topics
    camera.close()
    node.destroy_node()
