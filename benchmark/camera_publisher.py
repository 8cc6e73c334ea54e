"""A 1080p camera at 30 Hz, sensor-data QoS, topic /benchmark/image_raw; runs until it is interrupted."""

from __future__ import annotations

import array
import contextlib

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

WIDTH, HEIGHT, RATE = 1920, 1080, 30.0
TOPIC = "/benchmark/image_raw"


def main() -> None:
    """Publish one image again and again, with new stamps."""
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, TOPIC, qos_profile_sensor_data)
    message = Image(width=WIDTH, height=HEIGHT, encoding="rgb8", step=WIDTH * 3)
    message.data = array.array("B", bytes(WIDTH * HEIGHT * 3))

    def publish() -> None:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)

    node.create_timer(1.0 / RATE, publish)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
