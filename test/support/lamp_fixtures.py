"""Fixtures of the tests of watches, a plugin that they load."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import third_party
from lamp import ENGINES, LAMP, FastRoom, Lamp, Room
from ros_client import RosClient
from vlm_process import VlmProcess


@pytest.fixture
def lamp(ros: RosClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Lamp:
    package = third_party.install(tmp_path / "installed", LAMP, dict.fromkeys(ENGINES, "Lamp"))
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return Lamp(ros, tmp_path, start_vlm)


@pytest.fixture
def fast_room(ros: RosClient) -> Iterator[FastRoom]:
    room = FastRoom(ros)
    yield room
    room.close()


@pytest.fixture
def room(ros: RosClient) -> Iterator[Room]:
    room = Room(ros)
    yield room
    room.close()
