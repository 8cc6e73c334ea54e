"""What the model that ships says about the built-in world is true, to the metre: real camera, node, engine and DDS."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose, Quaternion
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Watch, WatchEvent
from qwen3vl_ros.srv import AddWatch, ListWatches, MoveObject, RemoveWatch
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

import child_process
from ros_client import PATIENCE, SENSOR_DATA, RosClient
from vlm_process import VlmProcess

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")
pytestmark = pytest.mark.ros

# worlds/tabletop.sdf: the camera stands at EYE and looks down by PITCH; the table's top is at z = 0.75.
EYE, PITCH = np.array([0.30, 0.0, 1.50]), 0.6
BALL_RADIUS = 0.10
CLOSE = 0.05
"""Metres within which a place counts as found. The 3-D point hangs on the box, which is the model's own."""


@pytest.fixture(scope="module")
def world(ros: RosClient) -> Iterator[RosClient]:
    """The built-in camera runs."""
    topics = {"image_raw": "image", "camera_info": "camera_info", "depth/image_raw": "depth"}
    command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args")
    for ours, theirs in topics.items():
        command += ["-r", f"/camera/{ours}:=/{theirs}"]
    camera = subprocess.Popen(command)
    yield ros
    camera.send_signal(signal.SIGINT)
    assert camera.wait(PATIENCE) == 0


@pytest.fixture
def robot(world: RosClient, vlm: VlmProcess) -> RosClient:
    vlm.wait_connected()
    with world.listen(Image, "/image", SENSOR_DATA) as frames:
        frames.wait_for()
    return world


def ask(ros: RosClient, prompt: str, task: str = "", **slots: str) -> AskImage.Result:
    """About a frame that is taken from now on."""
    now = ros.node.get_clock().now().to_msg()
    result = ros.ask(prompt, task=task, slots=json.dumps(slots) if slots else "", not_before=now).result()
    assert result.error_code == AskImage.Result.NONE, result.error_msg
    return result


def move_ball(ros: RosClient, x: float, y: float) -> np.ndarray:
    """Roll the blue ball to another place on the table; returns its centre in the camera's optical frame."""
    centre = np.array([x, y, 0.75 + BALL_RADIUS])
    pose = Pose(position=Point(x=x, y=y, z=centre[2]), orientation=Quaternion(w=1.0))
    assert ros.call(MoveObject, "/camera/move_object", MoveObject.Request(name="blue_ball", pose=pose)).success
    sin, cos = np.sin(PITCH), np.cos(PITCH)
    ahead, left, up = centre - EYE
    forward, upward = cos * ahead - sin * up, sin * ahead + cos * up
    return np.array([-left, -upward, forward])


def position(region: object) -> np.ndarray:
    assert region.has_position, region.position_error
    return np.array([region.position.point.x, region.position.point.y, region.position.point.z])


def test_the_3d_point_of_a_ball_follows_it_across_the_table(robot: RosClient) -> None:
    for x, y in ((1.08, -0.18), (0.95, 0.40), (1.30, -0.15)):
        truth = move_ball(robot, x, y)
        (region,) = ask(robot, "blue ball", "locate").regions
        assert region.label == "blue ball"
        assert np.linalg.norm(position(region) - truth) < CLOSE


def test_left_and_right_change_when_a_ball_changes_sides(robot: RosClient) -> None:
    for y, side in ((-0.45, "right"), (0.55, "left")):
        move_ball(robot, 0.95, y)
        assert ask(robot, "Is the blue ball left or right of the red box?").text == side


def test_what_is_asked_in_chinese_is_answered_in_chinese(robot: RosClient) -> None:
    move_ball(robot, 1.08, -0.18)
    assert ask(robot, "图中有几个物体？").text == "四"
    assert ask(robot, "蓝色的物体是什么形状？").text == "球"


def test_tasks_have_answers_that_a_program_can_read(robot: RosClient) -> None:
    move_ball(robot, 1.08, -0.18)
    assert json.loads(ask(robot, "objects", "count").json) == {"count": 4}
    assert ask(robot, "Is there a blue ball?", "yes_no").text == "yes"
    points = ask(robot, "red box", "point").regions
    assert [region.label for region in points] == ["red box"]


def test_what_is_not_there_has_no_regions(robot: RosClient) -> None:
    result = ask(robot, "purple ball", "locate")
    assert list(result.regions) == []
    assert result.json == "[]"


def test_a_watch_tells_when_the_ball_leaves_the_table_and_asks_nothing_while_it_lies_still(robot: RosClient) -> None:
    move_ball(robot, 1.08, -0.18)
    watch = Watch(prompt="Is there a blue ball?", watch_id="ball")
    watch.min_period.nanosec, watch.max_period.sec = 200_000_000, 3600
    latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with robot.listen(WatchEvent, "/vlm/watch_events", latched) as events:
        assert robot.call(AddWatch, "/vlm/add_watch", AddWatch.Request(watch=watch)).success
        assert events.wait_for().kind == WatchEvent.ON

        def state() -> object:
            return robot.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches[0]

        asked = state().asked
        while state().unchanged < 10:
            pass
        assert (state().asked, state().events) == (asked, 1)
        leaves = robot.node.get_clock().now()
        move_ball(robot, -20.0, 0.0)
        gone = events.wait_for()
        assert (gone.kind, gone.answer.text.strip(" .").lower()) == (WatchEvent.OFF, "no")
        assert leaves.nanoseconds < gone.header.stamp.sec * 10**9 + gone.header.stamp.nanosec
        assert state().since == gone.header.stamp
    assert robot.call(RemoveWatch, "/vlm/remove_watch", RemoveWatch.Request(watch_id="ball")).success
    move_ball(robot, 1.08, -0.18)
