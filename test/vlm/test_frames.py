"""Positions come in the frame of the robot that a goal names, and depth of another camera counts. Over real DDS."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from qwen3vl_ros.action import AskImage
from rclpy.time import Time as RclpyTime
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

import third_party
from ros_client import SENSOR_DATA, RosClient, noise_image
from vlm_process import SharedVlm

pytestmark = pytest.mark.ros
WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
AWAY, SIDE = 1.0, 0.2  # of the thing, metres: how far ahead, and how wide and high
CUP = '[{"bbox_2d": [%d, %d, %d, %d], "label": "cup"}]'
MOUNT = "0.1 0.2 0.5 0 0 0"  # base_link: 10 cm ahead, 20 to the left, 50 up
WITH_TF2 = importlib.util.find_spec("tf2_py") is not None


@dataclass
class Camera:
    """Shows a thing ahead of the lens and a wall 2 m away; the depth camera is ``aside`` metres further to the right.

    Ten times a second, with a stamp of ``late`` seconds ago.
    """

    ros: RosClient
    name: str
    depth_frame: str = ""
    aside: float = 0.0
    late: float = 0.0

    def __enter__(self) -> Camera:
        kinds = {"camera_info": CameraInfo, "depth": Image, "image": Image}
        create = self.ros.node.create_publisher
        self._publishers = {topic: create(kind, f"/{self.name}/{topic}", SENSOR_DATA) for topic, kind in kinds.items()}
        image = noise_image(WIDTH, HEIGHT)
        info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
        info.k = [FOCAL, 0.0, WIDTH / 2 - 0.5, 0.0, FOCAL, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
        x, y = (np.arange(size) + 0.5 - size / 2 for size in (WIDTH, HEIGHT))
        half = SIDE / 2
        thing = (np.abs(x / FOCAL * AWAY + self.aside) <= half) & (np.abs(y / FOCAL * AWAY) <= half)[:, None]
        depth = Image(height=HEIGHT, width=WIDTH, encoding="32FC1", step=4 * WIDTH)
        depth.data = np.where(thing, AWAY, 2.0).astype(np.float32).tobytes()
        self._messages = {"camera_info": info, "depth": depth, "image": image}
        for message in self._messages.values():
            message.header.frame_id = f"{self.name}_lens"
        depth.header.frame_id = self.depth_frame or f"{self.name}_lens"
        self._timer = self.ros.node.create_timer(0.1, self._publish)
        return self

    def _publish(self) -> None:
        stamp = (self.ros.node.get_clock().now().nanoseconds / 1e9) - self.late
        for topic, message in self._messages.items():
            message.header.stamp = RclpyTime(nanoseconds=int(stamp * 1e9)).to_msg()
            self._publishers[topic].publish(message)

    def __exit__(self, *_: object) -> None:
        self.ros.on_executor(self._close)

    def _close(self) -> None:
        self.ros.node.destroy_timer(self._timer)
        for publisher in self._publishers.values():
            self.ros.node.destroy_publisher(publisher)


@pytest.fixture(scope="module")
def node(ros: RosClient, shared_vlm: SharedVlm, tmp_path_factory: pytest.TempPathFactory) -> RosClient:
    """A node with three cameras, whose model sees the thing where it is."""
    folder = tmp_path_factory.mktemp("reciter")
    package = third_party.install(folder / "installed", third_party.RECITER, {"reciter": "Reciter"})
    size = SIDE / AWAY * FOCAL
    x, y = 500 * size / WIDTH, 500 * size / HEIGHT
    (folder / "says").write_text(json.dumps([CUP % (500 - x, 500 - y, 500 + x, 500 + y)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
        shared_vlm.get(
            engine="reciter",
            **{f"reciter__{name}": str(folder / name) for name in ("says", "heard")},
            cameras=["front", "side", "wrist"],
            camera__front__mount=MOUNT,
            camera__side__mount="0 0 0 0 0 0",
            camera__side__depth_mount="0 -0.05 0 0 0 0",
        )
    return ros


def find(ros: RosClient, camera: str, **fields: Any) -> tuple[Any, Any]:
    result = ros.ask("cup", task="locate", cameras=[camera], **fields).result()
    assert result.error_code == AskImage.Result.NONE, result.error_msg
    (cup,) = result.regions
    assert cup.roi.width == pytest.approx(SIDE / AWAY * FOCAL, abs=3), "it keeps its box"
    return cup, result


def place(region: Any) -> tuple[float, float, float]:
    assert region.has_position, region.position_error
    point = region.position.point
    return point.x, point.y, point.z


def test_a_goals_target_frame_is_that_of_position_extent_and_marker(node: RosClient) -> None:
    with Camera(node, "front"), node.listen(MarkerArray, "/vlm/markers") as markers:
        cup, result = find(node, "front", target_frame="base_link")
        box, text = markers.wait_for(lambda array: len(array.markers) > 1).markers[1:3]
        plain, _ = find(node, "front")
    assert (cup.position.header.frame_id, cup.position.header.stamp) == ("base_link", result.image_headers[0].stamp)
    assert result.image_headers[0].frame_id == "front_lens"
    x, y, z = place(cup)
    assert (y, z) == pytest.approx((0.2, 0.5), abs=0.01)
    assert 0.1 + AWAY <= x <= 0.1 + AWAY + SIDE
    assert (cup.extent.y, cup.extent.z) == pytest.approx((SIDE, SIDE), abs=0.02)
    assert (plain.position.header.frame_id, plain.extent.z) == ("front_lens", pytest.approx(cup.extent.x, abs=1e-3))
    assert place(plain) == pytest.approx((0.2 - y, 0.5 - z, x - 0.1), abs=1e-6)
    assert (box.type, box.header) == (Marker.CUBE, cup.position.header)
    assert (box.pose.position.x, box.scale.y) == (x, cup.extent.y)
    assert (text.header, text.text) == (cup.position.header, "cup")
    assert text.pose.position.z > box.pose.position.z + box.scale.z / 2, "the name is above it"


def test_the_parameter_is_the_frame_of_goals_that_name_none_and_of_the_service(node: RosClient) -> None:
    assert node.set_parameter("target_frame", "base_link").successful
    try:
        with Camera(node, "front"):
            cup, _ = find(node, "front")
            in_lens, _ = find(node, "front", target_frame="/front_lens")
            called = node.ask_service(prompt="cup", task="locate", cameras=["front"])
    finally:
        node.set_parameter("target_frame", "")
    assert cup.position.header.frame_id == called.regions[0].position.header.frame_id == "base_link"
    assert in_lens.position.header.frame_id == "front_lens"
    assert place(in_lens)[2] == pytest.approx(place(cup)[0] - 0.1, abs=1e-6)


def test_a_frame_that_cannot_be_reached_costs_the_position_and_says_why(node: RosClient) -> None:
    with Camera(node, "front"):
        cup, result = find(node, "front", target_frame="nowhere")
    assert not cup.has_position and not any(cup.position_covariance)
    assert cup.position_error.startswith("NO_TRANSFORM: ")
    assert ("tf" in cup.position_error) and ("base_link" in cup.position_error or WITH_TF2)
    (note,) = [note for note in result.notes if "'nowhere'" in note]
    assert cup.position_error.removeprefix("NO_TRANSFORM: ") in note


def test_without_a_mount_the_error_names_the_parameter(node: RosClient) -> None:
    if WITH_TF2:
        pytest.skip("tf2 is installed")
    with Camera(node, "wrist"):
        cup, _ = find(node, "wrist", target_frame="base_link")
    assert "tf2_py is not installed" in cup.position_error
    assert "parameter camera.wrist.mount" in cup.position_error


def test_depth_of_a_camera_beside_is_registered_by_both_mounts(node: RosClient) -> None:
    with Camera(node, "side", depth_frame="side_depth", aside=0.05):
        cup, _ = find(node, "side")
    assert cup.position.header.frame_id == "side_lens"
    assert place(cup)[:2] == pytest.approx((0, 0), abs=0.01)
    assert AWAY <= place(cup)[2] <= AWAY + SIDE
    assert (cup.extent.x, cup.extent.y) == pytest.approx((SIDE, SIDE), abs=0.02)


def test_depth_in_a_frame_that_nobody_knows_is_no_depth_and_says_what_to_do(node: RosClient) -> None:
    with Camera(node, "wrist", depth_frame="depth_lens"):
        cup, _ = find(node, "wrist")
    assert cup.position_error.startswith("NO_DEPTH: the depth image is in frame 'depth_lens', ")
    assert "depth_registered" in cup.position_error and "depth_mount" in cup.position_error
    assert ("tf2_py is not installed" in cup.position_error) != WITH_TF2


def test_a_mount_that_is_none_is_refused(node: RosClient) -> None:
    refused = node.set_parameter("mount", "1 2 3")
    assert not refused.successful
    assert "mount: '1 2 3' is not x y z roll pitch yaw" in refused.reason or "is read when" in refused.reason


# --- with the real tf2 -----------------------------------------------------------------------------------------------


class Arm:
    """Says on /tf that the wrist moves away from the robot, a metre a second, fifty times a second."""

    def __init__(self, ros: RosClient) -> None:
        from tf2_msgs.msg import TFMessage

        self._ros, self._kind = ros, TFMessage
        self.begin = ros.node.get_clock().now().nanoseconds

    def __enter__(self) -> Arm:
        self._publisher = self._ros.node.create_publisher(self._kind, "/tf", 100)
        self._timer = self._ros.node.create_timer(0.02, self._publish)
        return self

    def _publish(self) -> None:
        now = self._ros.node.get_clock().now()
        away = (now.nanoseconds - self.begin) / 1e9
        transforms = []
        for parent, child, turn, x in (
            ("base_link", "wrist_lens", (-0.5, 0.5, -0.5, 0.5), away),
            ("wrist_lens", "wrist_depth", (0.0, 0.0, 0.0, 1.0), 0.05),
        ):
            transform = TransformStamped(child_frame_id=child)
            transform.header.frame_id, transform.header.stamp = parent, now.to_msg()
            transform.transform.translation.x = x
            rotation = transform.transform.rotation
            rotation.x, rotation.y, rotation.z, rotation.w = turn
            transforms.append(transform)
        self._publisher.publish(self._kind(transforms=transforms))

    def __exit__(self, *_: object) -> None:
        self._ros.on_executor(self._close)

    def _close(self) -> None:
        self._ros.node.destroy_timer(self._timer)
        self._ros.node.destroy_publisher(self._publisher)


@pytest.mark.skipif(not WITH_TF2, reason="tf2 is not among the ROS wheels")
def test_what_a_moving_arms_camera_sees_is_where_the_arm_was_at_the_images_stamp(node: RosClient) -> None:
    """With the depth of a camera 5 cm beside, both placed by tf. A tenth of a second would be ten centimetres."""
    with Arm(node) as arm, Camera(node, "wrist", depth_frame="wrist_depth", aside=0.05, late=0.4):
        for _ in range(20):  # until the node, which begins to listen now, has heard of tf for as long
            cup, result = find(node, "wrist", target_frame="base_link")
            if cup.has_position:
                break
            assert "NO_" in cup.position_error
        again, other = find(node, "wrist", target_frame="base_link")
    for region, answer in ((cup, result), (again, other)):
        stamp = RclpyTime.from_msg(answer.image_headers[0].stamp).nanoseconds
        x, y, z = place(region)
        assert region.position.header.frame_id == "base_link"
        ahead = x - (stamp - arm.begin) / 1e9
        assert AWAY - 0.01 <= ahead <= AWAY + SIDE
        assert (y, z) == pytest.approx((0, 0), abs=0.01)
    moved = place(again)[0] - place(cup)[0]
    assert moved > 0.01, "the arm moves"
