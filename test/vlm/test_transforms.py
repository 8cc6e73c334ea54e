"""tf says where a camera was at the stamp of its image, or why nobody knows. Over real DDS, with the real tf2."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as RclpyTime

from node_in_process import nodes
from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.vision.poses import to_rpy
from qwen3vl_ros.vlm import transforms
from qwen3vl_ros.vlm.transforms import NoTf, NoTransform, Transforms

pytestmark = pytest.mark.ros
PATIENCE = 60.0
SECOND = 1_000_000_000


def stamp(seconds: float) -> Time:
    return RclpyTime(nanoseconds=round(seconds * SECOND)).to_msg()


def test_where_tf2_is_not_installed_that_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_py", None)
    with nodes() as start:
        nothing = Transforms(start(), listen=True)
        with pytest.raises(NoTf, match="tf2_py is not installed"):
            nothing.lookup("base_link", "lens", stamp(1), time.monotonic() + PATIENCE, Cancel())
        nothing.close()


class Robot:
    """Publishes tf, and asks for it on a node that nothing spins."""

    def __init__(self, node: Any, vlm: Any) -> None:
        from tf2_msgs.msg import TFMessage

        self._kind = TFMessage
        self._moving = node.create_publisher(TFMessage, "/tf", 100)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = node.create_publisher(TFMessage, "/tf_static", latched)
        self.clock = vlm.get_clock()
        self.is_at("odom", "marker", 0.0, x=5.0, static=True)  # before anybody listens
        self.transforms = Transforms(vlm, listen=True)
        for number in range(1, int(10 * PATIENCE)):  # until the two know each other: what is sent before is lost
            self.is_at("met", "each_other", number, x=0.0)
            with suppress(NoTransform):
                self.look("met", "each_other", number, patience=0.1)
                break
        else:
            pytest.fail("the node does not hear of /tf")

    def is_at(
        self, parent: str, child: str, seconds: float, *, x: float, yaw: float = 0.0, static: bool = False
    ) -> None:
        transform = TransformStamped(child_frame_id=child)
        transform.header.frame_id, transform.header.stamp = parent, stamp(seconds)
        transform.transform.translation.x = x
        transform.transform.rotation.z, transform.transform.rotation.w = np.sin(yaw / 2), np.cos(yaw / 2)
        (self._static if static else self._moving).publish(self._kind(transforms=[transform]))

    def look(self, target: str, source: str, seconds: float, patience: float = PATIENCE) -> Any:
        return self.transforms.lookup(target, source, stamp(seconds), time.monotonic() + patience, Cancel())

    def why_not(self, target: str, source: str, seconds: float) -> str:
        with pytest.raises(NoTransform) as raised:
            self.look(target, source, seconds, patience=0.1)
        return str(raised.value)


FEW = 20
"""Messages that wait for a question in these tests."""


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    pytest.importorskip("tf2_py", reason="tf2 is not among the ROS wheels")
    monkeypatch.setattr(transforms, "KEPT", FEW)
    with nodes() as start:
        robot = Robot(start(name="robot"), start(name="vlm"))
        yield robot
        robot.transforms.close()


def test_a_moving_frame_is_where_it_was_at_the_stamp_and_not_where_it_is_now(robot: Robot) -> None:
    for second in range(4):
        robot.is_at("base_link", "lens", 100 + second, x=float(second), yaw=0.2 * second)
    assert robot.look("base_link", "lens", 103)[0, 3] == pytest.approx(3.0)
    for seconds in (0.0, 0.25, 1.5, 2.9):
        pose = robot.look("base_link", "lens", 100 + seconds)
        assert pose[:3, 3] == pytest.approx((seconds, 0, 0), abs=1e-6)
        assert to_rpy(pose) == pytest.approx((0, 0, 0.2 * seconds), abs=1e-3)
        assert robot.look("lens", "base_link", 100 + seconds) @ pose == pytest.approx(np.eye(4), abs=1e-6)


def test_a_static_frame_is_known_at_every_stamp_also_if_it_was_published_before(robot: Robot) -> None:
    for seconds in (1.0, 1e9):
        assert robot.look("odom", "marker", seconds)[0, 3] == pytest.approx(5.0)
    robot.is_at("base_link", "odom", 10, x=1.0)
    robot.is_at("base_link", "odom", 12, x=2.0)
    assert robot.look("base_link", "marker", 11)[0, 3] == pytest.approx(6.5)


def test_a_transform_that_comes_later_than_its_image_is_waited_for(robot: Robot) -> None:
    robot.is_at("base_link", "lens", 20, x=0.0)
    robot.look("base_link", "lens", 20)
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(robot.look, "base_link", "lens", 20.5) for _ in range(2)]
        assert robot.look("odom", "marker", 20)[0, 3] == 5.0, "those that wait hold nobody up"
        robot.is_at("base_link", "lens", 21, x=1.0)
        assert [wait.result(PATIENCE)[0, 3] for wait in waits] == pytest.approx([0.5, 0.5])


def test_the_end_of_the_question_and_that_of_the_node_end_the_wait(robot: Robot) -> None:
    cancel = Cancel()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(NoTransform):
        robot.transforms.lookup("map", "odom", stamp(1), time.monotonic() + 10 * PATIENCE, cancel)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(robot.look, "map", "odom", 1, 10 * PATIENCE)
        robot.transforms.close()
        with pytest.raises(NoTransform, match="deactivated"):
            wait.result(PATIENCE)


def test_what_tf_does_not_know_is_said_with_the_reason(robot: Robot) -> None:
    now = robot.clock.now().nanoseconds / 1e9
    robot.is_at("base_link", "lens", now, x=0.0)
    robot.is_at("base_link", "lens", now + 1, x=1.0)
    robot.look("base_link", "lens", now + 1)
    assert robot.why_not("map", "lens", now).startswith("tf does not know 'map', only base_link, each_other, lens, ")
    assert robot.why_not("map", "moon", now).startswith("tf does not know 'map' and 'moon', only ")
    assert "nothing connects them" in robot.why_not("odom", "lens", now)
    assert "newest transform is 2.000 s older" in robot.why_not("base_link", "lens", now + 3)
    assert "same clock" in robot.why_not("base_link", "lens", 5.0)
    assert "same clock" in robot.why_not("base_link", "lens", now + 1000)
    assert "Ask again" in robot.why_not("base_link", "lens", now - 5)
    for later in (20, 21):  # tf2 forgets when the next one comes
        robot.is_at("base_link", "lens", now + later, x=1.0)
    robot.look("base_link", "lens", now + 21)
    assert "longer ago than tf2 remembers" in robot.why_not("base_link", "lens", now + 0.9)
    assert "no stamp" in robot.why_not("base_link", "lens", 0.0)
    with pytest.raises(NoTransform, match="no stamp"):
        robot.transforms.lookup("base_link", "lens", Time(sec=-5), time.monotonic(), Cancel())
    assert "no frame_id" in robot.why_not("base_link", "", now)
    assert "does not take the frames" in robot.why_not("/base_link", "lens", now)
    assert (robot.look("nowhere", "nowhere", 0.0) == np.eye(4)).all()


def test_over_a_gap_in_what_is_known_nothing_is_interpolated(robot: Robot) -> None:
    """The arm turned there and back while nobody asked, and more came than the middleware keeps."""
    now = robot.clock.now().nanoseconds / 1e9 + 1
    robot.is_at("base_link", "lens", now, x=0.0)
    robot.look("base_link", "lens", now)
    for number in range(1, 2 * FEW):
        robot.is_at("base_link", "lens", now + number / 10, x=float(number))
    last = now + (2 * FEW - 1) / 10
    assert robot.look("base_link", "lens", last - 0.05)[0, 3] == pytest.approx(2 * FEW - 1.5)
    assert f"the last {FEW} messages" in robot.why_not("base_link", "lens", now + 0.1)


@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "not asked before"])
@pytest.mark.parametrize("before", [1000, 3.4], ids=["long before", "shortly before"])
def test_after_simulated_time_went_back_the_new_transforms_count(robot: Robot, before: float, asked: bool) -> None:
    """Those of before count no more, whether a question took them before, or they wait in the queue until it comes."""
    robot.is_at("base_link", "lens", before, x=7.0)
    if asked:
        assert robot.look("base_link", "lens", before)[0, 3] == 7.0
    else:
        with robot.transforms._lock:
            robot.transforms._tf.wait(PATIENCE)
    robot.clock._set_ros_time_is_active(True)
    robot.clock.set_ros_time_override(RclpyTime(nanoseconds=1000 * SECOND, clock_type=robot.clock.clock_type))
    robot.clock.set_ros_time_override(RclpyTime(nanoseconds=3 * SECOND, clock_type=robot.clock.clock_type))
    robot.is_at("base_link", "lens", 3, x=1.0)
    robot.is_at("base_link", "lens", 4, x=2.0)
    assert robot.look("base_link", "lens", 3.5)[0, 3] == pytest.approx(1.5)
    assert robot.look("odom", "marker", 3.5)[0, 3] == 5.0
