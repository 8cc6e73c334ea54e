"""What a node usually does with a camera: a spinning executor and a callback, which here only counts.

Prints "ready" at the first image and, when interrupted, how many came.
"""

from __future__ import annotations

import signal
import threading

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
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    while not interrupted.is_set():
        executor.spin_once()
    print(received, flush=True)
    rclpy.shutdown()  # takes leave of the camera, which would go on sending to a reader that only disappeared


if __name__ == "__main__":
    main()
