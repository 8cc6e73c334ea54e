"""What Fast DDS is told, and what it cannot do, is known before a question gets lost."""

from __future__ import annotations

import getpass
import os
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
