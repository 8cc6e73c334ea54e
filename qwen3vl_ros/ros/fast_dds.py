"""Enlarges Fast DDS's buffers for camera images: its default transport loses frames of VGA size and up."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

_JAZZYS, _NEWER = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"


def package_profile() -> dict[str, str]:
    """The environment variable that names config/fastdds.xml; {} where the user has chosen a profile of their own."""
    return {} if os.environ.get(_JAZZYS) or os.environ.get(_NEWER) else _profile()


def profile_assignment() -> str:
    """Return what starts a driver with the profile when it stands before its command: NAME=PATH."""
    ((name, path),) = _profile().items()
    return f"{name}={path}"


def _profile() -> dict[str, str]:
    from ament_index_python.packages import get_package_share_directory

    # Jazzy reads the old name only. Never set both: Kilted would read the file twice and complain.
    name = _JAZZYS if int(version("rclpy").split(".")[0]) < 8 else _NEWER
    return {name: str(Path(get_package_share_directory("qwen3vl_ros")) / "config" / "fastdds.xml")}
