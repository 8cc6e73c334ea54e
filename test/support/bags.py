"""Bags that a test writes on the spot, with rosbags."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

BEGIN = 1_700_000_000_000_000_000
"""When a bag begins, nanoseconds."""

_TYPES = get_typestore(Stores.ROS2_JAZZY)


def header(time: int) -> Header:
    return Header(stamp=Time(sec=time // 10**9, nanosec=time % 10**9), frame_id="camera_optical")


def nanoseconds(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def write_bag(path: Path, messages: Iterable[tuple[str, int, Any]], storage: str = "mcap") -> Path:
    """Write messages (topic, time of the recording, message) into a new bag; ``storage``: mcap or sqlite3."""
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    connections: dict[str, Any] = {}
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic, recorded, message in messages:
            if topic not in connections:
                kind = type(message).__name__
                package = "sensor_msgs" if isinstance(message, (Image, CompressedImage)) else "std_msgs"
                connections[topic] = writer.add_connection(topic, f"{package}/msg/{kind}", typestore=_TYPES)
            writer.write(connections[topic], recorded, serialize_message(message))
    return path
