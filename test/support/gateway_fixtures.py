"""Fixtures of the gateway's tests, a plugin that they load: it runs, in front of a backend whose answers they write."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gateway_server import Server, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """The gateway, for all tests of a module; those that set parameters have one of their own."""
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """The same, with answers as new."""
    running.backend.rewrite()
    return running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as client:
        yield client
