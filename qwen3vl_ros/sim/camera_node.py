"""The node `camera`: publishes images where no camera with a ROS driver does.

Its parameter `source` says where they come from. Empty: a simulated camera draws them (sim/simulated_camera.py).
Else: a webcam, a video file, a network stream or a folder of images (sim/source_camera.py).

Topics are private to the node, so `/camera/image_raw` and `/camera/camera_info` unless it is renamed. Images are sensor
data: best effort, keep last, which `qos_overrides` parameters can change.
"""

from __future__ import annotations

import sys
import threading
from typing import Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from qwen3vl_ros.ros.parameters import ParameterError, declare
from qwen3vl_ros.ros.stop_signal import StopSignal
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


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop, or its source has come to an end.

    Returns:
        0; 1 if it could not start; 2 if that is because of the source or its calibration.
    """
    stop = StopSignal()
    try:
        # rclpy's own handlers shut ROS down at once, while threads log and publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # such as a parameter that ROS cannot read
        print(f"camera: {error}", file=sys.stderr)
        return 1
    node = Node("camera")
    try:
        return _run(node, stop)
    except (WorldError, RenderError, MotionError, ParameterError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    except (SourceError, CalibrationError) as error:
        print(f"camera: {error}", file=sys.stderr)
        return 2
    finally:
        node.destroy_node()
        rclpy.shutdown()


def _run(node: Node, stop: StopSignal) -> int:
    """Spin on this thread, which made the renderer's OpenGL context and has to draw with it."""
    camera = _camera(node)
    camera.finished.add_done_callback(lambda _: stop.fail())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended: Future[int] = Future()

    def wait() -> None:
        status = stop.wait()
        executor.create_task(ended.set_result, status)  # on the executor, which that wakes

    threading.Thread(target=wait, name="stop", daemon=True).start()
    try:
        executor.spin_until_future_complete(ended)
    finally:
        camera.close()
        executor.shutdown()
    return (camera.finished.result() or 0) if camera.finished.done() else ended.result() or 0


if __name__ == "__main__":
    sys.exit(main())
