"""What the robot itself saw, over real DDS: the built-in camera, the shipped model, the memory and ``where_last``."""

from __future__ import annotations

import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, Pose, Quaternion
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import VlmStatus
from qwen3vl_ros.srv import MoveObject
from sensor_msgs.msg import Image

import child_process
from qwen3vl_ros.index.store import Store
from ros_client import PATIENCE, SENSOR_DATA, RosClient
from vlm_process import SharedVlm

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")
pytestmark = pytest.mark.ros
Code = AskImage.Result

# worlds/tabletop.sdf: the camera stands at EYE and looks down by PITCH; the table's top is at z = 0.75.
EYE, PITCH = np.array([0.30, 0.0, 1.50]), 0.6
BALL_RADIUS = 0.10
HOME = (1.08, -0.18)
CLOSE = 0.05
"""Metres within which a place counts as found."""

PERIOD = 0.5
"""Seconds between two looks."""


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


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("robot") / "memory"


@pytest.fixture
def robot(world: RosClient, shared_vlm: SharedVlm, directory: Path) -> RosClient:
    """A node that remembers, one for all tests of this file."""
    shared_vlm.get(
        memory__enabled=True, memory__directory=str(directory), memory__period=PERIOD, diagnostics_period=0.2
    )
    with world.listen(Image, "/image", SENSOR_DATA) as frames:
        frames.wait_for()
    return world


def move_ball(ros: RosClient, x: float, y: float) -> np.ndarray:
    """Put the blue ball at a place; returns its centre in the camera's optical frame."""
    centre = np.array([x, y, 0.75 + BALL_RADIUS])
    pose = Pose(position=Point(x=x, y=y, z=centre[2]), orientation=Quaternion(w=1.0))
    assert ros.call(MoveObject, "/camera/move_object", MoveObject.Request(name="blue_ball", pose=pose)).success
    sin, cos = np.sin(PITCH), np.cos(PITCH)
    ahead, left, up = centre - EYE
    forward, upward = cos * ahead - sin * up, sin * ahead + cos * up
    return np.array([-left, -upward, forward])


def nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def counts(ros: RosClient, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """The values of the memory's diagnostics, once they are as wanted."""

    def of(array: DiagnosticArray) -> dict[str, str]:
        found = [status for status in array.status if status.name == "vlm: memory"]
        return {pair.key: pair.value for status in found for pair in status.values}

    with ros.listen(DiagnosticArray, "/diagnostics") as diagnostics:
        return of(diagnostics.wait_for(lambda array: (values := of(array)) and wanted(values)))


def looks(ros: RosClient, more: int, which: str = "left out, as the image had not changed") -> None:
    """Wait for so many more looks at a still scene."""
    now = int(counts(ros, lambda _: True)[which])
    counts(ros, lambda values: int(values[which]) >= now + more)


def where_last(ros: RosClient, what: str, **fields: Any) -> AskImage.Result:
    """Asked without an option, as people do."""
    return ros.ask(what, task="where_last", options={"temperature": -1.0}, **fields).result()


def after_asking(ros: RosClient, what: str) -> tuple[VlmStatus, AskImage.Result]:
    """The status that the end of a goal brings, and the goal's result."""
    with ros.status() as status:
        before = status.wait_for()
        result = where_last(ros, what)
        return status.wait_for(lambda s: s.goals_succeeded > before.goals_succeeded), result


def place(region: Any) -> np.ndarray:
    assert region.has_position, region.position_error
    return np.array([region.position.point.x, region.position.point.y, region.position.point.z])


def test_what_has_left_the_table_was_seen_last_within_a_period_of_that_at_its_true_place(
    robot: RosClient, directory: Path
) -> None:
    truth = move_ball(robot, *HOME)
    looks(robot, 2)
    there = where_last(robot, "the blue ball")
    assert there.error_code == Code.NONE, there.error_msg
    assert there.text.startswith("blue ball: in view now"), there.text
    (region,) = there.regions
    assert np.linalg.norm(place(region) - truth) < CLOSE
    before = robot.node.get_clock().now().nanoseconds
    move_ball(robot, -20.0, 0.0)
    after = robot.node.get_clock().now().nanoseconds
    looks(robot, 1)
    gone = where_last(robot, "blue ball")
    assert gone.error_code == Code.NONE and gone.text.startswith("blue ball: last seen"), gone.text
    assert " ago (" in gone.text and "m in camera_optical_frame" in gone.text
    (moment,) = gone.moments
    seen = nanoseconds(moment.end_stamp)
    with Store(directory / "memory.index") as store:
        with_ball, without = list(store.windows())[-2:]
    assert seen == with_ball.end_ns <= after and before <= without.start_ns  # it left between two looks
    assert nanoseconds(moment.stamp) <= seen and moment.label == "blue ball"
    (region,), (header,) = gone.regions, gone.image_headers
    assert (region.label, region.image_index, header.frame_id) == ("blue ball", 0, "camera_optical_frame")
    assert region.position.header == header and nanoseconds(header.stamp) <= seen
    assert np.linalg.norm(place(region) - truth) < CLOSE
    assert region.roi.width > 20
    assert (gone.model, gone.usage.prompt_tokens) == ("", 0)


def test_a_still_scene_costs_no_tokens_and_what_was_never_seen_is_said(robot: RosClient, directory: Path) -> None:
    move_ball(robot, *HOME)
    looks(robot, 3)
    before, _ = after_asking(robot, "red box")
    asked = counts(robot, lambda _: True)["asked"]
    looks(robot, 10)
    assert counts(robot, lambda _: True)["asked"] == asked
    after, never = after_asking(robot, "purple elephant")
    assert (after.prompt_tokens, after.completion_tokens) == (before.prompt_tokens, before.completion_tokens)
    assert before.prompt_tokens > 0
    assert never.error_code == Code.NONE and not never.regions and not never.moments
    assert never.text.startswith("purple elephant: never seen; the memory begins at 2")
    with Store(directory / "memory.index") as store:  # while the node writes it
        newest = list(store.windows())[-1]
        assert "blue ball" in newest.caption and "blue ball" in [thing.name for thing in newest.things]
        assert newest.id in [window.id for window in store.search("blue ball")]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_frame_that_shows_it_is_published_and_people_get_a_sentence(robot: RosClient) -> None:
    move_ball(robot, *HOME)
    looks(robot, 2)
    with robot.listen(Image, "/vlm/annotated", 1) as annotated:
        answer = where_last(robot, "red box")
        shown = annotated.wait_for()
    assert shown.header == answer.image_headers[0] and shown.width >= 448
    command = child_process.command("qwen3vl_ros.cli.main", "ask", "--task", "where_last", "red box")
    said = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=True).stdout
    assert said.startswith("red box: in view now (2")


def test_a_goal_that_only_a_model_could_answer_is_refused(robot: RosClient) -> None:
    refused = robot.ask("red box", task="where_last").result()  # with a temperature
    assert refused.error_code == Code.UNSUPPORTED and refused.error_msg.startswith("temperature: ")
