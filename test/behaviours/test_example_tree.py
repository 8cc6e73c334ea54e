"""The example tree and a watch, in the built-in world: camera, node and shipped model, over DDS."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("py_trees", reason="py_trees, which the leaves are for, is not installed here")
pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")

from geometry_msgs.msg import Point, Pose, Quaternion
from py_trees.blackboard import Blackboard
from py_trees.common import Status
from qwen3vl_ros.srv import ListWatches, MoveObject, PointCamera

import camera_viewer
from qwen3vl_ros.behaviours import WatchFor
from qwen3vl_ros.client import VlmClient
from ros_client import PATIENCE, RosClient
from vlm_process import VlmProcess

pytestmark = pytest.mark.once

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "behaviour_tree.py"
TOLERANCE = 0.1
"""Metres by which the shipped model's boxes put the middle of a thing wrong at most."""


@pytest.fixture(scope="module")
def world(dds_profile: None) -> Iterator[camera_viewer.Viewer]:
    """The built-in camera, on the topics where the node looks by itself."""
    viewer = camera_viewer.Viewer()
    topics = ("~/image_raw:=/image", "~/camera_info:=/camera_info", "~/depth/image_raw:=/depth")
    viewer.start(*(word for topic in topics for word in ("-r", topic)))
    yield viewer
    viewer.close()


def move(world: camera_viewer.Viewer, name: str, x: float, y: float, z: float) -> None:
    pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(w=1.0))
    assert world.call(MoveObject, "/camera/move_object", MoveObject.Request(name=name, pose=pose)).success


@pytest.mark.parametrize("place", [(0.55, -0.95, 0.84), (0.7, 0.9, 0.84)], ids=["far right", "left"])
def test_the_example_tree_turns_until_it_sees_the_thing_and_ends_with_its_position(
    world: camera_viewer.Viewer, vlm: VlmProcess, place: tuple[float, float, float]
) -> None:
    move(world, "red_box", *place)  # out of the image of a camera that looks straight on
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "red box"], capture_output=True, text=True, timeout=PATIENCE, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = re.findall(r"^red box: (\S+) (\S+) (\S+) in world$", done.stdout, re.MULTILINE)
    assert math.dist(map(float, found), place) < TOLERANCE, done.stdout


def test_the_example_tree_fails_where_the_thing_is_nowhere(world: camera_viewer.Viewer, vlm: VlmProcess) -> None:
    move(world, "blue_ball", -50.0, 0.0, 0.8)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "blue ball"], capture_output=True, text=True, timeout=PATIENCE, env=os.environ
    )
    assert done.returncode == 1 and "in world" not in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Turn: success") == 5


def test_watch_for_ends_with_the_event_and_a_stopped_one_leaves_no_watch(
    world: camera_viewer.Viewer, vlm: VlmProcess, ros: RosClient
) -> None:
    assert world.call(PointCamera, "/camera/point_camera", PointCamera.Request()).success  # straight on again
    Blackboard.clear()
    with VlmClient(server_timeout=PATIENCE) as client:
        there = WatchFor("there", "Is there a green cylinder?", client=client)
        never = WatchFor("never", "Is there a white ball?", client=client)
        for leaf in (there, never):
            leaf.setup()
            leaf.tick_once()
        assert there._waiting.ended.wait(PATIENCE)
        there.tick_once()
        never.tick_once()
        assert (there.status, never.status) == (Status.SUCCESS, Status.RUNNING), there.feedback_message
        assert Blackboard.get("event").answer.probability > 0.7
        never.stop(Status.INVALID)
        for leaf in (there, never):
            leaf.shutdown()
    assert not ros.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches
    Blackboard.clear()
