"""A ROS graph of its own for this process and those it starts."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

_claims: list[IO[str]] = []


def isolate() -> None:
    """Make this process and those it starts a graph of their own."""
    os.environ["ROS_DOMAIN_ID"] = claim()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def claim() -> str:
    """A ROS domain that no other test run or benchmark on this machine uses, until this process ends."""
    for domain in range(1, 102):  # those that every operating system can open ports for
        claim = (Path(tempfile.gettempdir()) / f"qwen3vl_ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        _claims.append(claim)
        return str(domain)
    raise RuntimeError("101 test runs use every ROS domain of this machine")
