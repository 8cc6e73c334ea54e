"""Settings of Fast DDS: room for camera images, which its default transport loses, and what other users' nodes need."""

from __future__ import annotations

import os
import pwd
import re
from contextlib import suppress
from pathlib import Path

_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
_JAZZYS, _NEWER = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"


def package_profile() -> dict[str, str]:
    """The environment variable that names config/fastdds.xml; {} where the user has chosen a profile or transports."""
    return {} if any(map(os.environ.get, (_JAZZYS, _NEWER, _TRANSPORTS))) else _profile()


def profile_assignment() -> str:
    """Return what starts a driver with the profile when it stands before its command: NAME=PATH."""
    ((name, path),) = _profile().items()
    return f"{name}={path}"


def _profile() -> dict[str, str]:
    from importlib.metadata import version  # imported here, because clients start faster without

    from ament_index_python.packages import get_package_share_directory

    # Jazzy reads the old name only. Never set both: Kilted would read the file twice and complain.
    name = _JAZZYS if int(version("rclpy").split(".")[0]) < 8 else _NEWER
    return {name: str(Path(get_package_share_directory("qwen3vl_ros")) / "config" / "fastdds.xml")}


def shared_memory_files() -> list[Path]:
    """Return the files of Fast DDS in /dev/shm."""
    folder = Path("/dev/shm")
    files = folder.iterdir() if folder.is_dir() else ()
    return [file for file in files if re.match(r"(sem\.)?(fastrtps|fastdds)_", file.name)]


def about_other_users() -> str:
    """Return a sentence if another user runs, or ran, nodes here that this one cannot ask; "" if not.

    A node of another user cannot write to the shared memory of this one's, as Fast DDS makes the files with mode 0644,
    and it takes no other way within a machine: https://github.com/eProsima/Fast-DDS/issues/5258.
    """
    if os.environ.get(_TRANSPORTS) == "UDPv4":
        return ""
    owners = set()
    for file in shared_memory_files():
        with suppress(FileNotFoundError):  # its process has just ended
            owners.add(file.stat().st_uid)
    users = ", ".join(sorted(_user_name(owner) for owner in owners - {os.geteuid()}))
    return users and (
        f"Fast DDS has shared memory of user {users} in /dev/shm, and nodes of another user cannot be asked through "
        f"it: run both sides as one user, or start both with {_TRANSPORTS}=UDPv4 and without a Fast DDS profile."
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of a container
        return f"number {uid}"
