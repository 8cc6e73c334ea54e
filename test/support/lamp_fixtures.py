"""Fixtures of the tests of watches, a plugin that they load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import third_party
from lamp import LAMP, Lamp, Room
from ros_client import RosClient
from vlm_process import VlmProcess


@pytest.fixture
def lamp(ros: RosClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Lamp:
    package = third_party.install(tmp_path / "installed", LAMP, {"lamp": "Lamp"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return Lamp(ros, tmp_path, start_vlm)


@pytest.fixture
def room(ros: RosClient) -> Iterator[Room]:
    room = Room(ros)
    yield room
    room.close()
