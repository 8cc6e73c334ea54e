"""What the model that ships says about the built-in world is true, to the metre: real camera, node, engine and DDS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Watch, WatchEvent
from qwen3vl_ros.srv import AddWatch, ListWatches, RemoveWatch
from rclpy.qos import DurabilityPolicy, QoSProfile

import child_process
from qwen3vl_ros.client import VlmClient, image_of_bag
from ros_client import PATIENCE, RosClient
from table_world import SECOND, Film, TableWorld, nanoseconds
from vlm_process import VlmProcess

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")
pytestmark = pytest.mark.ros
pytest_plugins = ["table_world_fixtures"]

CLOSE = 0.05
"""Metres within which a place counts as found. The 3-D point hangs on the box, which is the model's own."""


@pytest.fixture
def robot(ros: RosClient, world: TableWorld, vlm: VlmProcess) -> RosClient:
    vlm.wait_connected()
    with Film(ros):
        return ros


def ask(ros: RosClient, prompt: str, task: str = "", **slots: str) -> AskImage.Result:
    """About a frame that is taken from now on."""
    now = ros.node.get_clock().now().to_msg()
    result = ros.ask(prompt, task=task, slots=json.dumps(slots) if slots else "", not_before=now).result()
    assert result.error_code == AskImage.Result.NONE, result.error_msg
    return result


def position(region: object) -> np.ndarray:
    assert region.has_position, region.position_error
    return np.array([region.position.point.x, region.position.point.y, region.position.point.z])


def test_the_3d_point_of_a_ball_follows_it_across_the_table(robot: RosClient, world: TableWorld) -> None:
    for x, y in ((1.08, -0.18), (0.95, 0.40), (1.30, -0.15)):
        truth = world.move_ball(x, y)
        (region,) = ask(robot, "blue ball", "locate").regions
        assert region.label == "blue ball"
        assert np.linalg.norm(position(region) - truth) < CLOSE


def test_left_and_right_change_when_a_ball_changes_sides(robot: RosClient, world: TableWorld) -> None:
    for y, side in ((-0.45, "right"), (0.55, "left")):
        world.move_ball(0.95, y)
        assert ask(robot, "Is the blue ball left or right of the red box?").text == side


def test_what_is_asked_in_chinese_is_answered_in_chinese(robot: RosClient, world: TableWorld) -> None:
    world.move_ball(1.08, -0.18)
    assert ask(robot, "图中有几个物体？").text == "四"
    assert ask(robot, "蓝色的物体是什么形状？").text == "球"


def test_tasks_have_answers_that_a_program_can_read(robot: RosClient, world: TableWorld) -> None:
    world.move_ball(1.08, -0.18)
    assert json.loads(ask(robot, "objects", "count").json) == {"count": 4}
    assert ask(robot, "Is there a blue ball?", "yes_no").text == "yes"
    points = ask(robot, "red box", "point").regions
    assert [region.label for region in points] == ["red box"]


def test_what_is_not_there_has_no_regions(robot: RosClient) -> None:
    result = ask(robot, "purple ball", "locate")
    assert list(result.regions) == []
    assert result.json == "[]"


PERIOD = SECOND // 2
"""Of the history, with the default history.rate, in nanoseconds."""


def test_a_watch_tells_when_the_ball_leaves_the_table_and_asks_nothing_while_it_lies_still(
    robot: RosClient, world: TableWorld
) -> None:
    world.move_ball(1.08, -0.18)
    watch = Watch(prompt="Is there a blue ball?", watch_id="ball")
    watch.min_period.nanosec, watch.max_period.sec = 200_000_000, 3600
    latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with robot.listen(WatchEvent, "/vlm/watch_events", latched) as events:
        assert robot.call(AddWatch, "/vlm/add_watch", AddWatch.Request(watch=watch)).success
        assert events.wait_for().kind == WatchEvent.ON

        def state() -> Any:
            return robot.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches[0]

        asked = state().asked
        while state().unchanged < 10:
            pass
        assert (state().asked, state().events) == (asked, 1)
        with Film(robot) as film:
            world.take_ball_away()
            gone = events.wait_for()
            film.wait_until(gone.header.stamp)
        assert (gone.kind, gone.answer.text.strip(" .").lower()) == (WatchEvent.OFF, "no")
        _, left = film.ball_left()
        assert left <= nanoseconds(gone.header.stamp) <= left + PERIOD
        assert state().since == gone.header.stamp
    assert robot.call(RemoveWatch, "/vlm/remove_watch", RemoveWatch.Request(watch_id="ball")).success


def test_a_bag_of_the_camera_gives_the_answers_that_were_given_live(
    robot: RosClient, world: TableWorld, tmp_path: Path
) -> None:
    bags = pytest.importorskip("bags", reason="rosbags, which reads bags, is not installed here")
    live: list[tuple[str, str, Time, str]] = []
    questions = [("Is the blue ball left or right of the red box?", ""), ("objects", "count"), ("blue ball", "locate")]
    with Film(robot) as film:
        for y in (-0.45, 0.55):
            world.move_ball(0.95, y)
            for prompt, task in questions:
                result = ask(robot, prompt, task)
                live.append((prompt, task, result.image_headers[0].stamp, result.text))
        film.wait_until(live[-1][2])
    bag = bags.write_bag(tmp_path / "live", (("/image", nanoseconds(one.header.stamp), one) for one in film.frames))
    assert len({text for *_, text in live}) > len(questions)  # they are about different frames
    with VlmClient() as client:
        for prompt, task, stamp, text in live:
            image = image_of_bag(bag, time=stamp)
            assert client.ask(prompt, task=task, images=image, temperature=0.0).text == text
    prompt, _, stamp, text = live[0]
    at = f"{stamp.sec}.{stamp.nanosec:09}"
    command = child_process.command("qwen3vl_ros.cli.main", "ask", prompt, "--bag", str(bag), "--at", at)
    said = subprocess.run(
        [*command, "--temperature", "0"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert said.stdout.strip() == text.strip()
