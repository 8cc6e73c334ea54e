"""The node `camera`: publishes images where no camera with a ROS driver does.

Its parameter `source` says where they come from. Empty: a simulated camera draws them (sim/simulated_camera.py).
Else: a webcam, a video file, a network stream or a folder of images (sim/source_camera.py).

Topics are private to the node, so `/camera/image_raw` and `/camera/camera_info` unless it is renamed. Images are sensor
data: best effort, keep last, which `qos_overrides` parameters can change.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Protocol

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.task import Future

from qwen3vl_ros.ros.parameters import ParameterError, declare
from qwen3vl_ros.sim.motion import MotionError
from qwen3vl_ros.sim.opengl import RenderError
from qwen3vl_ros.sim.sdf import WorldError
from qwen3vl_ros.sim.settings import OF_SIMULATION, OF_SOURCES, Settings
from qwen3vl_ros.sim.sources import SourceError
from qwen3vl_ros.vision.camera_model import CalibrationError


class Camera(Protocol):
    """What publishes images through the node."""

    finished: Future[int]
    """Its result is the exit status of a camera that has come to an end."""

    def close(self) -> None:
        """Stop publishing; the node is destroyed after that."""


def _camera(node: Node) -> Camera:
    """Start what the parameters say. Each import only where it is needed: Drake may not be installed, nor PyAV."""
    settings = declare(node, Settings, read_only=True)
    for name in OF_SIMULATION if settings.source else OF_SOURCES:
        if getattr(settings, name) != getattr(Settings(), name):
            why = "there is a source" if settings.source else "there is no source, so the camera is simulated"
            node.get_logger().warning(f"the parameter {name} has no effect: {why}")
    if settings.source:
        from qwen3vl_ros.sim.source_camera import SourceCamera

        return SourceCamera(node, settings)
    from qwen3vl_ros.sim.simulated_camera import SimulatedCamera

    return SimulatedCamera(node, settings)


def _end_on_hang_up() -> None:
    """Have SIGHUP end the node as SIGINT does, unless it is ignored, as by `nohup`.

    rclpy handles SIGINT and SIGTERM alone. A handler of Python's runs when the main thread comes back from the
    middleware, which may be never; so a thread waits for what Python writes when the signal comes.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, lambda *_: None)

    def wait() -> None:
        while os.read(reader, 1)[0] != signal.SIGHUP:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, name="hang-up", daemon=True).start()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop, or its source has come to an end.

    Returns:
        0; 1 if it could not start; 2 if that is because of the source or its calibration.
    """
    _end_on_hang_up()
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # such as a parameter that ROS cannot read
        print(f"camera: {error}", file=sys.stderr)
        return 1
    try:
        node = Node("camera")
        try:
            camera = _camera(node)
            try:
                rclpy.spin_until_future_complete(node, camera.finished)
            finally:
                camera.close()
        finally:
            node.destroy_node()
        return camera.finished.result() or 0
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except (WorldError, RenderError, MotionError, ParameterError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    except (SourceError, CalibrationError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 2
    except RuntimeError:
        # A signal shuts ROS down while a callback may be publishing, which then fails.
        if rclpy.ok():
            raise
        return 0
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
