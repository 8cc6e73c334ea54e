"""The quality of service of the package's services and of their clients."""

from __future__ import annotations

from rclpy.qos import QoSProfile

REQUESTS = QoSProfile(depth=1000)
"""Keeps every request and reply of a burst: beyond ten, ROS's default, the middleware drops the oldest silently."""
