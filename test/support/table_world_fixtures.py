"""Fixtures of the tests in the built-in world, a plugin that they load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ros_client import RosClient
from table_world import TableWorld


@pytest.fixture(scope="module")
def world(ros: RosClient) -> Iterator[TableWorld]:
    """The built-in camera runs."""
    world = TableWorld(ros)
    yield world
    world.close()
