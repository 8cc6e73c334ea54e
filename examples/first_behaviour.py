"""A first behaviour: look at the table again and again, and say when the red box comes or goes.

    qwen3vl-ros demo --keep             # in one terminal: a simulated camera and the node
    python examples/first_behaviour.py  # in another one

It never waits: a question is sent, and every tick looks whether its answer is there. So the robot's other callbacks
keep running while the model thinks, and Ctrl-C works at once.
"""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from qwen3vl_ros.client import AnswerFuture, Busy, NoFrame, Unreachable, VlmClient, VlmError


class WatchTheBox(Node):
    """Asks one question at a time, ten ticks a second."""

    def __init__(self) -> None:
        super().__init__("watch_the_box")
        self._vlm = VlmClient(self)
        self._future: AnswerFuture | None = None
        self._there: str | None = None
        self.create_timer(0.1, self._tick)

    def _tick(self) -> None:
        if self._future is None:
            self._future = self._vlm.send("Is there a red box?", temperature=0.0, max_tokens=8, timeout=20.0)
        elif self._future.done():
            future, self._future = self._future, None
            try:
                answer = future.result()
            except (Busy, NoFrame, Unreachable) as error:
                self.get_logger().warning(f"trying again: {error}", throttle_duration_sec=5.0)
            except VlmError as error:
                self.get_logger().error(f"{error.name}: {error}", throttle_duration_sec=5.0)
            else:
                if answer.text != self._there:
                    self._there = answer.text
                    seconds = answer.stamp.sec if answer.stamp else 0
                    self.get_logger().info(f"{answer.text} (in the frame of second {seconds})")


def main() -> None:
    """Spin until Ctrl-C."""
    rclpy.init()
    try:
        rclpy.spin(WatchTheBox())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
