"""The ``openvino`` engine keeps the contract: the conformance suite, with a tiny model of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import openvino_export
from qwen3vl_ros.engines.base import Engine, Request
from qwen3vl_ros.engines.conformance import EngineConformance
from qwen3vl_ros.engines.openvino.engine import OpenvinoEngine

pytest_plugins = ["tiny_model_fixtures"]


class TestOpenvino(EngineConformance):
    """What it says is random, so a grammar makes it speak."""

    engine_class = OpenvinoEngine

    @pytest.fixture(scope="class")
    def config(self, exported: Path) -> Mapping[str, Any]:
        return {"model": str(exported), "properties": openvino_export.EXACT}

    def long_request(self, engine: Engine) -> Request:
        return self.request(engine, "Say it.", schema={"const": "Œuvre: 猫 und 🦊, ½ Żółw in the blue box"})

    def numbered_request(self, engine: Engine, number: int) -> Request:
        return self.request(engine, f"Question {number}", max_tokens=24, temperature=1.5, seed=number)

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)
