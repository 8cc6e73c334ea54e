"""The least that a ROS 2 node in Python can be: says on a latched topic that it is there, and spins."""

from __future__ import annotations

import contextlib

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

TOPIC = "/benchmark/plain_node"


def main() -> None:
    """Publish once and spin."""
    rclpy.init()
    node = rclpy.create_node("plain_node")
    publisher = node.create_publisher(String, TOPIC, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    publisher.publish(String(data="ready"))
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
