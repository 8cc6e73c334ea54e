"""The built-in world: its camera as a process, the ball that a test rolls, and when the ball was seen."""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from qwen3vl_ros.srv import MoveObject
from sensor_msgs.msg import Image

import child_process
from qwen3vl_ros.vision.compressed import pixels_of
from ros_client import PATIENCE, SENSOR_DATA, RosClient

# worlds/tabletop.sdf: the camera stands at EYE and looks down by PITCH; the table's top is at z = 0.75.
EYE, PITCH = np.array([0.30, 0.0, 1.50]), 0.6
BALL_RADIUS = 0.10

SECOND = 1_000_000_000


def nanoseconds(stamp: Any) -> int:
    """A stamp as a number."""
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def shows_ball(pixels: np.ndarray) -> bool:
    """Whether the blue ball is in an image of the built-in camera, in RGB of any size."""
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    return bool(((blue > 90) & (blue > 2 * red) & (blue > 1.5 * green)).mean() > 0.002)


class TableWorld:
    """The built-in camera runs, and sends to the topics of the node ``vlm``, which runs when the ball is moved."""

    def __init__(self, ros: RosClient) -> None:
        self._ros = ros
        topics = {"image_raw": "image", "camera_info": "camera_info", "depth/image_raw": "depth"}
        command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args")
        for ours, theirs in topics.items():
            command += ["-r", f"/camera/{ours}:=/{theirs}"]
        self._process = subprocess.Popen(command)

    def move_ball(self, x: float, y: float) -> np.ndarray:
        """Roll the blue ball to another place on the table; returns its centre in the camera's optical frame."""
        centre = np.array([x, y, 0.75 + BALL_RADIUS])
        pose = Pose(position=Point(x=x, y=y, z=centre[2]), orientation=Quaternion(w=1.0))
        request = MoveObject.Request(name="blue_ball", pose=pose)
        assert self._ros.call(MoveObject, "/camera/move_object", request).success
        sin, cos = np.sin(PITCH), np.cos(PITCH)
        ahead, left, up = centre - EYE
        forward, upward = cos * ahead - sin * up, sin * ahead + cos * up
        return np.array([-left, -upward, forward])

    def take_ball_away(self) -> None:
        """Out of the camera's sight."""
        self.move_ball(-20.0, 0.0)

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(PATIENCE) == 0


class Film:
    """Every frame that the camera sends while the block runs, as it came."""

    def __init__(self, ros: RosClient) -> None:
        self._ros = ros
        self._arrived = threading.Condition()
        self.frames: list[Image] = []

    def __enter__(self) -> Film:
        self._subscription = self._ros.node.create_subscription(Image, "/image", self._take, SENSOR_DATA)
        self.wait_for(lambda: self.frames)
        return self

    def __exit__(self, *_: object) -> None:
        self._ros.on_executor(lambda: self._ros.node.destroy_subscription(self._subscription))

    def _take(self, image: Image) -> None:
        with self._arrived:
            self.frames.append(image)
            self._arrived.notify_all()

    def wait_for(self, wanted: Any) -> None:
        """Wait until ``wanted()`` is true, asked with each frame."""
        with self._arrived:
            assert self._arrived.wait_for(wanted, PATIENCE), "the camera sends nothing more"

    def wait_until(self, stamp: Any) -> None:
        """Wait for the frame of this stamp, or a later one."""
        self.wait_for(lambda: nanoseconds(self.frames[-1].header.stamp) >= nanoseconds(stamp))

    def wait_seconds(self, seconds: float) -> None:
        """Wait until the frames of so many seconds more have come."""
        begin = nanoseconds(self.frames[-1].header.stamp)
        self.wait_for(lambda: nanoseconds(self.frames[-1].header.stamp) >= begin + seconds * SECOND)

    def ball_left(self) -> tuple[int, int]:
        """The stamps of the last frame with the ball and of the first one without it."""
        shown = [shows_ball(pixels_of(frame)) for frame in self.frames]
        first_without = shown.index(False)
        assert first_without and not any(shown[first_without:]), shown
        return tuple(nanoseconds(self.frames[index].header.stamp) for index in (first_without - 1, first_without))
