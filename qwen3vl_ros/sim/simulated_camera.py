"""The simulated camera: publishes what the built-in camera sees in an SDF world, in place of a real one.

Topics, all private to the node, so `/camera/...` unless it is renamed:
    ~/image_raw          sensor_msgs/Image, rgb8
    ~/camera_info        sensor_msgs/CameraInfo, plumb_bob without distortion
    ~/depth/image_raw    sensor_msgs/Image, 32FC1, metres along the optical axis, registered to
                         ~/image_raw (same stamp, same ~/camera_info); +inf beyond the clip
                         range, -inf before it (REP 118, as in Gazebo)
    /clock               rosgraph_msgs/Clock, only if `publish_clock` is set
Service: ~/move_object (qwen3vl_ros/srv/MoveObject).

Images are drawn only for topics that somebody subscribes to, and only when the scene has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ament_index_python.packages import PackageNotFoundError, get_package_share_path
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from qwen3vl_ros.ros.sensor_publisher import sensor_publisher
from qwen3vl_ros.sim.motion import Motion, MotionError, read_motions
from qwen3vl_ros.sim.scene import Scene
from qwen3vl_ros.sim.sdf import Camera, WorldError, read_world
from qwen3vl_ros.sim.settings import Settings
from qwen3vl_ros.srv import MoveObject
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.poses import from_xyz_quaternion

_CLOCK_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_CLOCK_PERIOD = 0.01  # seconds of simulated time between two /clock messages


class SimulatedCamera:
    """Draws the scene at the camera's rate. Raises WorldError, RenderError and MotionError."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self.finished: Future[int] = Future()  # never: it has no end
        self._node = node
        self._started = time.monotonic_ns()
        self._clock_publisher: Publisher[ClockMessage] | None = None
        self._scene = Scene(read_world(settings.world or default_world()), settings.sensor)
        self._homes = {name: self._scene.pose(name) for name in self._scene.objects}
        self._motions: tuple[Motion, ...] = ()
        self._set_motion(settings.motion)
        self._drawn: dict[str, tuple[int, Image]] = {}
        self._info = camera_info(self._scene.camera)

        self._image_publisher = sensor_publisher(node, Image, "~/image_raw")
        self._info_publisher = sensor_publisher(node, CameraInfo, "~/camera_info")
        self._depth_publisher = sensor_publisher(node, Image, "~/depth/image_raw") if self._scene.depth_camera else None
        node.create_service(MoveObject, "~/move_object", self._move_object)
        node.add_on_set_parameters_callback(self._on_set_parameters)
        # Steady timers: the source of the time, or of images, must not wait for /clock.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._rate = settings.rate or self._scene.camera.rate or 10.0
        node.create_timer(1.0 / self._rate, self._publish, clock=steady)
        if settings.publish_clock:
            self._clock_publisher = node.create_publisher(ClockMessage, "/clock", _CLOCK_QOS)
            node.create_timer(_CLOCK_PERIOD, self._publish_clock, clock=steady)
        node.get_logger().info(
            f"Looking at {self._scene.world.path} through '{self._scene.camera.name}', "
            f"{self._scene.camera.width}x{self._scene.camera.height} at {self._rate:g} Hz. "
            f"Objects that can be moved: {', '.join(self._scene.objects)}."
        )

    def close(self) -> None:
        """Do nothing: all that there is belongs to the node."""

    def _seconds(self) -> float:
        return (time.monotonic_ns() - self._started) * 1e-9

    def _now(self) -> Time:
        if self._clock_publisher is None:
            return self._node.get_clock().now().to_msg()
        seconds, nanoseconds = divmod(time.monotonic_ns() - self._started, 10**9)
        now = Time(sec=seconds, nanosec=nanoseconds)
        # First, so that nobody who keeps this clock gets an image from its future.
        self._clock_publisher.publish(ClockMessage(clock=now))
        return now

    def _publish_clock(self) -> None:
        self._now()

    def _publish(self) -> None:
        stamp = self._now()
        for motion in self._motions:
            self._scene.set_pose(motion.name, motion.pose(self._homes[motion.name], self._seconds()))
        if self._image_publisher.get_subscription_count() > 0:
            self._publish_image(self._image_publisher, "rgb8", self._scene.colour, stamp)
        if self._depth_publisher and self._depth_publisher.get_subscription_count() > 0:
            self._publish_image(self._depth_publisher, "32FC1", self._scene.depth, stamp)
        if self._info_publisher.get_subscription_count() > 0:
            self._info.header.stamp = stamp
            self._info_publisher.publish(self._info)

    def _publish_image(
        self,
        publisher: Publisher[Image],
        encoding: str,
        draw: Callable[[], npt.NDArray[np.uint8] | npt.NDArray[np.float32]],
        stamp: Time,
    ) -> None:
        changes, message = self._drawn.get(encoding, (-1, None))
        if message is None or changes != self._scene.changes:
            message = image_message(draw(), Header(frame_id=self._info.header.frame_id))
            self._drawn[encoding] = (self._scene.changes, message)
        message.header.stamp = stamp
        publisher.publish(message)

    def _move_object(self, request: MoveObject.Request, response: MoveObject.Response) -> MoveObject.Response:
        position, turn = request.pose.position, request.pose.orientation
        try:
            pose = from_xyz_quaternion((position.x, position.y, position.z), (turn.x, turn.y, turn.z, turn.w))
            self._scene.set_pose(request.name, pose)
        except KeyError as error:
            response.message = str(error.args[0])
        except ValueError as error:
            response.message = str(error)
        else:
            # An object on a path goes on with it around its new place.
            self._homes[request.name] = pose
            response.success = True
        return response

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "motion":
                try:
                    self._set_motion(parameter.value)
                except MotionError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _set_motion(self, script: str) -> None:
        """Start the paths of `script` and put everything else back in its place."""
        motions = read_motions(script)
        for motion in motions:
            if motion.name not in self._homes:
                raise MotionError(
                    f"The motion script moves '{motion.name}', which this world does not have or "
                    f"calls static; what can be moved: {', '.join(self._homes)}."
                )
        for name in {motion.name for motion in self._motions}:
            self._scene.set_pose(name, self._homes[name])
        self._motions = motions


def default_world() -> Path:
    """The package's own world file. Raises WorldError if the package is not installed."""
    try:
        return get_package_share_path("qwen3vl_ros") / "worlds" / "tabletop.sdf"
    except PackageNotFoundError as error:
        raise WorldError(
            "The package's own world file cannot be found, because qwen3vl_ros is not in "
            "AMENT_PREFIX_PATH: source the workspace's setup file, or set the parameter 'world'."
        ) from error


def camera_info(camera: Camera) -> CameraInfo:
    """The calibration of `camera` without a stamp: a pinhole, no distortion, no rectification."""
    fx, fy, cx, cy = camera.intrinsics
    info = CameraInfo()
    info.header.frame_id = camera.frame_id
    info.width, info.height = camera.width, camera.height
    info.distortion_model = "plumb_bob"
    info.d = [0.0] * 5
    info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info
