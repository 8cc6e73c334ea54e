"""The engine keeps the contract, and names colours."""

from __future__ import annotations

import numpy as np
import pytest
from mean_colour import COLOURS, MeanColourEngine

from qwen3vl_ros.engines.base import Engine, Request
from qwen3vl_ros.engines.conformance import EngineConformance, text_of


class TestMeanColour(EngineConformance):
    """Every promise of the contract, and one of its own."""

    engine_class = MeanColourEngine

    def non_ascii_request(self, engine: Engine) -> Request:
        """Every answer has a degree sign."""
        return self.request(engine)

    @pytest.mark.parametrize("name", COLOURS)
    def test_image_of_one_colour_is_called_that(self, engine: Engine, name: str) -> None:
        """Whatever its size."""
        image = np.full((24, 32, 3), COLOURS[name], np.uint8)
        assert f" {name}," in text_of(self.ask(engine, self.request(engine, images=(image,))))
