"""A ROS node for programs without one: in its own context, spun by a background thread."""

from __future__ import annotations

from types import TracebackType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.ros.spinning import SpinThread


class BackgroundNode:
    """Spins ``node`` between :meth:`start` and :meth:`stop`, or in a ``with`` block. Leaves signals to the process.

    The middleware looks for other nodes from the construction on, on threads of its own.
    """

    def __init__(self, name: str, namespace: str = "") -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(
            name,
            context=self._context,
            namespace=namespace,
            enable_rosout=False,
            start_parameter_services=False,
        )
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        self._spinning = SpinThread(executor, name)

    def start(self) -> None:
        """Start the thread that spins the node."""
        self._spinning.start()

    def stop(self) -> None:
        """Stop spinning and free everything. Idempotent."""
        if self._context.ok():
            self._spinning.stop()
            self.node.destroy_node()
            self._context.shutdown()

    def __enter__(self) -> BackgroundNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
