"""Somebody who looks at what a camera node publishes: real processes, real DDS."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image

import child_process

PATIENCE = 60.0  # seconds after which something that should have happened has not


class Viewer:
    """A node that keeps everything it receives, and a camera process to receive it from."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node("viewer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._cameras: list[subprocess.Popen[str]] = []
        self.received: dict[str, list[Any]] = {}

    def start(self, *ros_arguments: str, **parameters: object) -> subprocess.Popen[str]:
        command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args", *ros_arguments)
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        self._cameras.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return self._cameras[-1]

    def subscribe(self, kind: type, topic: str) -> list[Any]:
        messages = self.received.setdefault(topic, [])
        self.node.create_subscription(kind, topic, messages.append, qos_profile_sensor_data)
        return messages

    def wait_for(self, happened: Callable[[], bool]) -> None:
        assert self._happens(happened, PATIENCE), "it did not happen"

    def _happens(self, happened: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                return False
            assert all(camera.poll() is None for camera in self._cameras), "the camera has ended"
            self._executor.spin_once(timeout_sec=1.0)
        return True

    def next_image(self, topic: str = "/camera/image_raw") -> np.ndarray:
        """An image that is drawn after now: [height, width, 3] uint8."""
        messages, now = self.received[topic], self.node.get_clock().now().nanoseconds
        self.wait_for(lambda: bool(messages) and Time.from_msg(messages[-1].header.stamp).nanoseconds > now)
        return pixels(messages[-1])

    def call(self, kind: type, service: str, request: Any) -> Any:
        """The response; a camera that has not discovered us yet loses it, so it is asked again: twice does no harm."""
        client = self.node.create_client(kind, service)
        self.wait_for(client.service_is_ready)
        for _ in range(int(PATIENCE / 5)):
            future = client.call_async(request)
            if self._happens(future.done, 5.0):
                return future.result()
        raise AssertionError(f"{service} does not answer")

    def close(self) -> None:
        for camera in self._cameras:
            if camera.poll() is None:
                camera.send_signal(signal.SIGINT)
                camera.communicate(timeout=PATIENCE)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


def pixels(message: Image) -> np.ndarray:
    kinds = {"rgb8": (np.uint8, 3), "32FC1": (np.float32, 1)}
    dtype, channels = kinds[message.encoding]
    assert not message.is_bigendian
    assert message.step == message.width * channels * np.dtype(dtype).itemsize
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width, channels)


def seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec * 1e-9
