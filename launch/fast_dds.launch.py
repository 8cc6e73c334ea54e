"""Gives Fast DDS room for camera images, unless the user has chosen a profile of their own."""

from __future__ import annotations

from launch.actions import SetEnvironmentVariable

from launch import LaunchDescription
from qwen3vl_ros.ros.fast_dds import package_profile


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([SetEnvironmentVariable(name, path) for name, path in package_profile().items()])
