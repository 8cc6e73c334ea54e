"""Finds out which goals the living servers of the action have, where one may be dead.

A server that was killed stays on the ROS graph until DDS misses it (20 s with Fast DDS's defaults), and one that was
started in its place knows none of its goals. A second server, which a robot with two nodes of one name has, looks the
same on the graph. What tells them apart is the latched status, which lists a server's goals: a new subscription gets it
from every living server, whatever that does at the moment, and from no dead one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rclpy.qos import DurabilityPolicy, QoSProfile

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.client.action_client import statuses_of
from qwen3vl_ros.ros.polling_subscription import PollingSubscription

if TYPE_CHECKING:
    from collections.abc import Set

    from rclpy.node import Node

_PATIENCE = 0.4
"""Seconds for the statuses to arrive: on one machine they take some milliseconds."""

_STATUSES = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Keeps the status of more than one server."""


class RollCall:
    """Waits for the latched status of every living server; nobody but the caller of :meth:`is_over` waits.

    Args:
        node: the ROS node that the client lives in.
        topic: full name of the action's status topic.
        goals: ids of the goals that are looked for.
    """

    def __init__(self, node: Node, topic: str, goals: Set[bytes]) -> None:
        self.missing = set(goals)
        self._until = time.monotonic() + _PATIENCE
        self._statuses = PollingSubscription(node, AskImage.Impl.GoalStatusMessage, topic, _STATUSES, raw=True)

    def is_over(self) -> bool:
        """Read what has arrived; return whether ``missing`` is now what no living server has."""
        while (taken := self._statuses.take()) is not None:
            self.missing.difference_update(statuses_of(taken[0]))
        return not self.missing or time.monotonic() >= self._until

    def close(self) -> None:
        """Destroy the subscription."""
        self._statuses.close()
