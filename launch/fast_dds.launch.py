"""Gives Fast DDS room for camera pictures, unless the user has chosen a profile of their own."""

from __future__ import annotations

import os
from pathlib import Path

from launch.actions import SetEnvironmentVariable

from launch import LaunchDescription

# Jazzy reads the old name only; its successors complain about it.
OLD, NEW = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"


def generate_launch_description() -> LaunchDescription:
    if os.environ.get(OLD) or os.environ.get(NEW):
        return LaunchDescription()
    profile = Path(__file__).resolve().parent.parent / "config" / "fastdds.xml"
    name = OLD if os.environ.get("ROS_DISTRO") == "jazzy" else NEW
    return LaunchDescription([SetEnvironmentVariable(name, str(profile))])
