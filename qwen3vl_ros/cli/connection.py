"""The ROS node of a command, and what a command reads from a running node ``vlm``: its latched status.

Imports little, so that the middleware already looks for the node while a command imports the rest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.ros.background_node import BackgroundNode

if TYPE_CHECKING:
    from qwen3vl_ros.client import VlmClient


class Connection:
    """A ROS node of this process that talks to the node ``name``, in a ``with`` block.

    Args:
        name: of the other node, absolute or relative to the root namespace.
        wait: seconds to look for it.
    """

    def __init__(self, name: str, wait: float) -> None:
        self.name = f"/{name.strip('/')}"
        self.wait = wait
        self._background = BackgroundNode(f"qwen3vl_ros_command_{os.getpid()}")
        self.node = self._background.node
        self._client: VlmClient | None = None

    def vlm_client(self) -> VlmClient:
        """Return a client of the node, closed with the connection."""
        from qwen3vl_ros.client import VlmClient

        if self._client is None:
            self._client = VlmClient(self.node, node_name=self.name, server_timeout=self.wait)
        return self._client

    def call(
        self,
        kind: Any,
        service: str,
        request: Any,
        *,
        patience: float | None = None,
        start: str = "qwen3vl-ros node",
    ) -> Any:
        """Call the node's service ``~/SERVICE``; see :meth:`qwen3vl_ros.client.service_call.ServiceCaller.call`.

        With ``patience`` the request is sent once.
        """
        from rcl_interfaces.srv import GetParameters

        from qwen3vl_ros.client.service_call import ServiceCaller

        caller = ServiceCaller(self.node, kind, f"{self.name}/{service}", start=start)
        try:
            if patience is not None:  # endpoints are discovered in order: a reply to a later client can reach this one
                self.call(GetParameters, "get_parameters", GetParameters.Request(), start=start)
            return caller.call(request, self.wait, patience=patience)
        finally:
            caller.close()

    def __enter__(self) -> Connection:
        self._background.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
        self._background.stop()


class StatusReader:
    """Subscribes to the latched status of a node ``vlm``; ``status`` is the newest one, None before the first.

    Args:
        connection: to the node.
        on_change: called with each status, on the thread that spins the connection's node.
    """

    def __init__(self, connection: Connection, on_change: Callable[[], None] = lambda: None) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile

        from qwen3vl_ros.msg import VlmStatus

        self.status: Any = None
        self._connection = connection
        self._on_change = on_change
        self._arrived = threading.Event()
        self.topic = f"{connection.name}/status"
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        connection.node.create_subscription(VlmStatus, self.topic, self._take, latched)

    def _take(self, status: Any) -> None:
        self.status = status
        self._arrived.set()
        self._on_change()

    def publisher_is_there(self) -> bool:
        """Return whether a node publishes the status, according to the ROS graph."""
        return self._connection.node.count_publishers(self.topic) > 0

    def first(self) -> Any:
        """Wait for the first status and return it. Raises ServerUnavailable after the connection's ``wait``."""
        if not self._arrived.wait(self._connection.wait):
            from qwen3vl_ros.client.service_call import unavailable

            raise unavailable(
                f"No node publishes {self.topic}; waited {self._connection.wait:g} s. Start one with `qwen3vl-ros "
                "node`; if one runs, give both sides the same ROS_DOMAIN_ID."
            )
        return self.status
