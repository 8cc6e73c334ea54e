"""The shipped model is as good as its card says, on a fixed sample, through the package's own engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3vl_ros.engines.llama import LlamaEngine
from training.evaluate import GAZEBO, MODEL, score
from training.heldout import gazebo_frames, heldout_scenes

CARD = MODEL / "README.md"
SCENES = 40


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(str(MODEL), n_ctx=512)
    yield engine
    engine.close()


def test_answers_about_held_out_scenes_are_right_four_times_in_five(engine: LlamaEngine, tmp_path: Path) -> None:
    pytest.importorskip("pydrake")
    right, asked = score(engine, heldout_scenes(SCENES, tmp_path))["all"]
    assert asked > 3 * SCENES
    assert right / asked >= 0.8


def test_answers_about_gazebo_frames_are_as_good_as_the_card_says(engine: LlamaEngine) -> None:
    right, asked = score(engine, gazebo_frames(GAZEBO))["all"]
    # Another CPU rounds differently: one or two answers may turn.
    assert right >= _on_card("Gazebo", asked) - 2


def test_the_card_states_the_size_that_the_files_have() -> None:
    size = sum(file.stat().st_size for file in MODEL.glob("*.gguf"))
    stated = re.search(r"([\d.]+) MB", CARD.read_text())
    assert stated is not None
    assert float(stated[1]) == pytest.approx(size / 1e6, abs=0.1)


def _on_card(pictures: str, asked: int) -> int:
    """How many answers the card's table says are right, of as many as were asked."""
    (row,) = (line for line in CARD.read_text().splitlines() if line.startswith("|") and pictures in line)
    counts = re.findall(r"\((\d+)/(\d+)\)", row)
    right, of = counts[-1]
    assert int(of) == asked
    return int(right)
