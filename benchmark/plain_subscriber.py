"""What a node usually does with a camera: rclpy.spin and a callback, which here only counts.

Prints "ready" at the first picture and, when interrupted, how many came.
"""

from __future__ import annotations

import os
import signal

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from camera_publisher import TOPIC


def main() -> None:
    """Subscribe and spin."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("plain_subscriber")
    received = 0

    def on_image(_: Image) -> None:
        nonlocal received
        received += 1
        if received == 1:
            print("ready", flush=True)

    node.create_subscription(Image, TOPIC, on_image, qos_profile_sensor_data)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def stop(*_: object) -> None:
        """Shutting the executor down from within one of its callbacks raises in rclpy; nothing here needs order."""
        print(received, flush=True)
        os._exit(0)

    signal.signal(signal.SIGINT, stop)
    executor.spin()


if __name__ == "__main__":
    main()
