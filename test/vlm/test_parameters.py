"""The parameter file is what the node declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3vl_ros.vlm import parameters

pytestmark = pytest.mark.ros


def test_the_parameter_file_is_not_stale(share: Path) -> None:
    written = (share / "config" / "vlm.yaml").read_text(encoding="utf-8")
    assert written == parameters.as_yaml() + "\n", "run: python -m qwen3vl_ros.vlm.parameters > config/vlm.yaml"


def test_every_parameter_says_what_it_is_for() -> None:
    assert all(len(field.metadata["description"]) > 20 for field in parameters.described().values())
