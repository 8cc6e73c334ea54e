"""What Fast DDS is told, and what it cannot do, is known before a question gets lost."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen3vl_ros.ros import fast_dds


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_shared_memory_of_another_user_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fastdds_port7411"
    file.touch()
    gone = tmp_path / "fastdds_gone"
    monkeypatch.setattr(fast_dds, "shared_memory_files", lambda: [file, gone])
    assert fast_dds.about_other_users() == ""
    owner, other = os.geteuid(), os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    sentence = fast_dds.about_other_users()
    assert f"user {getpass.getuser() if owner else 'root'}" in sentence
    assert "FASTDDS_BUILTIN_TRANSPORTS=UDPv4" in sentence
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    assert fast_dds.about_other_users() == ""


def test_the_profile_leaves_a_choice_of_transports_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Path(path).name for path in fast_dds.package_profile().values()] == ["fastdds.xml"]
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    assert fast_dds.package_profile() == {}


@pytest.mark.ros
def test_a_process_with_the_profile_announces_itself_several_times_a_second() -> None:
    """A new process that loses the first reply to its own announcement learns of it by the next of these."""
    port = 7400 + 250 * int(os.environ["ROS_DOMAIN_ID"]) + 10 + 2 * 31  # of the last peer of a machine (RTPS 9.6)
    environment = {**os.environ, **fast_dds.package_profile()}
    command = [
        sys.executable,
        "-c",
        "import rclpy; rclpy.init(); node = rclpy.create_node('said'); print('made'); input()",
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", port))
        peer.settimeout(60.0)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"made\n"
            prefix = _new_prefix(peer)
            begin = time.monotonic()
            heard = 0
            while heard < 34:  # twice each; the first ones come in a burst, every 0.1 s
                heard += peer.recv(65536)[8:20] == prefix
            process.communicate(b"\n")
    # every 3 s, as by default, the twelve after the burst would take 36 s
    assert time.monotonic() - begin < 24.0


def _new_prefix(peer: socket.socket) -> bytes:
    """The prefix of the sender of the next announcement (RTPS 9.4.4)."""
    packet = peer.recv(65536)
    assert packet.startswith(b"RTPS")
    return packet[8:20]
