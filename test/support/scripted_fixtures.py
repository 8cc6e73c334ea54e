"""Fixtures of commands' tests, a plugin that they load: a node whose answers a test writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen3vl_ros.cli import arguments
from scripted_vlm import ScriptedVlm


@pytest.fixture(scope="module")
def scripted_server() -> Iterator[ScriptedVlm]:
    """The node, for all tests of a module."""
    server = ScriptedVlm()
    yield server
    server.close()


@pytest.fixture
def scripted(scripted_server: ScriptedVlm) -> ScriptedVlm:
    """The same, as new."""
    scripted_server.rewrite()
    return scripted_server


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process, whose signals are pytest's."""
    monkeypatch.setattr(arguments, "interrupt_on_signals", lambda: None)
