"""A publisher of sensor data."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

_SENSOR_QOS = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)


def sensor_publisher(node: Node, kind: type, topic: str) -> Publisher[Any]:
    """Return a publisher that keeps the last message and sends it best effort, unless ``qos_overrides`` say otherwise.

    Args:
        node: Publishes.
        kind: Of the messages.
        topic: Its name, relative to the node's namespace, private or absolute.
    """
    return node.create_publisher(
        kind, topic, _SENSOR_QOS, qos_overriding_options=QoSOverridingOptions.with_default_policies()
    )
