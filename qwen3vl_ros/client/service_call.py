"""Calls a service of a node, although the first reply to a new client may be lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.client.exceptions import NotSpinning, ServerUnavailable
from qwen3vl_ros.ros.fast_dds import about_other_users
from qwen3vl_ros.ros.requests import REQUESTS

if TYPE_CHECKING:
    from rclpy.node import Node

_REPLY_TIME = 2.0
"""Seconds to wait for a reply before asking again: the node's reply to an undiscovered client is lost."""

_SEARCH_PERIOD = 0.02
"""Seconds between two looks for the service, for which rclpy has no event; its wait_for_service() takes 0.25."""


class ServiceCaller:
    """A client of one service. It is kept, because the first reply to a new one may be lost.

    Args:
        node: the ROS node that the client lives in; the caller spins it.
        kind: the service's type, such as qwen3vl_ros.srv.ListTasks.
        name: the service's name, relative to the namespace of ``node`` or absolute.
        start: what starts a node that serves it, for the error.
    """

    def __init__(self, node: Node, kind: Any, name: str, *, start: str = "qwen3vl-ros node") -> None:
        self._node = node
        self._client: Any = node.create_client(kind, name, qos_profile=REQUESTS)
        self._start = start
        self.name: str = self._client.service_name

    @property
    def is_there(self) -> bool:
        """Whether a node serves it, as far as is known now."""
        return bool(self._client.service_is_ready())

    def call(self, request: Any, timeout: float, *, patience: float | None = None) -> Any:
        """Wait for the service, send ``request`` and return the response.

        Args:
            request: what is asked.
            timeout: seconds to wait for the service and, without ``patience``, for its response.
            patience: seconds to wait for the response to a request that must not be sent twice; None = send it again
                when a response is late.

        Raises:
            ServerUnavailable: no node serves it by then.
            NotSpinning: a node serves it, but its response did not arrive.
        """
        deadline = time.monotonic() + timeout
        while not self._client.service_is_ready():
            if time.monotonic() >= deadline:
                raise unavailable(
                    f"No node serves {self.name}; waited {timeout:g} s. Start one with `{self._start}`; if one runs, "
                    "give both sides the same ROS_DOMAIN_ID."
                )
            time.sleep(_SEARCH_PERIOD)
        if patience is not None:
            deadline = time.monotonic() + patience
        since = time.monotonic()
        while (left := deadline - time.monotonic()) > 0:
            arrived = threading.Event()
            future = self._client.call_async(request)
            future.add_done_callback(lambda _, arrived=arrived: arrived.set())
            if arrived.wait(left if patience is not None else min(left, _REPLY_TIME)):
                return future.result()
            self._client.remove_pending_request(future)
        raise NotSpinning(
            _and_other_users(
                f"A node serves {self.name}, but no reply came within {time.monotonic() - since:.1f} s: nobody spins "
                f"node {self._node.get_name()}, or the other one hangs."
            )
        )

    def close(self) -> None:
        """Remove the client from the node."""
        self._node.destroy_client(self._client)


def unavailable(sentence: str) -> ServerUnavailable:
    """Return the error with ``sentence``, and one about other users where they run nodes."""
    return ServerUnavailable(_and_other_users(sentence))


def _and_other_users(sentence: str) -> str:
    return " ".join(filter(None, (sentence, about_other_users())))
