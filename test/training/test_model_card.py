"""The shipped model is as good as its card says, on a fixed sample, through the package's own engine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from qwen3vl_ros.engines.llama.engine import LlamaEngine
from training.evaluate import GAZEBO, MODEL, score
from training.heldout import gazebo_frames, heldout_scenes

CARD = MODEL / "README.md"
SCENES = 30
LARGEST = 12_000_000
"""Bytes that the files may have: everybody who clones the repository carries them."""


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(str(MODEL), n_ctx=512)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def scores(engine: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, int]]:
    pytest.importorskip("pydrake")
    return score(engine, heldout_scenes(SCENES, tmp_path_factory.mktemp("textures")))


def test_answers_about_held_out_scenes_are_right_four_times_in_five(scores: dict[str, tuple[float, int]]) -> None:
    good, asked = (sum(scores[kind][i] for kind in ("colour", "shape", "exist", "count")) for i in (0, 1))
    assert asked > 3 * SCENES
    assert good / asked >= 0.8


@pytest.mark.parametrize("kind", ["locate", "point", "side", "distance", "caption"])
def test_answers_about_places_are_as_good_as_the_card_says(scores: dict[str, tuple[float, int]], kind: str) -> None:
    good, asked = scores[kind]
    (row,) = (line for line in CARD.read_text().splitlines() if line.startswith(f"| {kind} |") and "(" in line)
    stated = re.search(r"IoU ([\d.]+)|([\d.]+) %", row)
    assert stated is not None
    share = float(stated[1]) if stated[1] else float(stated[2]) / 100
    assert good / asked >= share - 0.2, "of a sample this small"


def test_answers_about_gazebo_frames_are_as_good_as_the_card_says(engine: LlamaEngine) -> None:
    good, asked = score(engine, gazebo_frames(GAZEBO))["all"]
    # Another CPU rounds differently: one or two answers may turn.
    assert good >= _on_card("all", asked) - 2


def test_the_card_states_the_size_that_the_files_have() -> None:
    size = sum(file.stat().st_size for file in MODEL.glob("*.gguf"))
    assert size <= LARGEST
    stated = re.search(r"([\d.]+) MB", CARD.read_text())
    assert stated is not None
    assert float(stated[1]) == pytest.approx(size / 1e6, abs=0.1)


def _on_card(kind: str, asked: int) -> int:
    """How many answers the card's table says are right about Gazebo's frames, of as many as were asked."""
    (row,) = (line for line in CARD.read_text().splitlines() if line.startswith(f"| {kind} |") and "(" in line)
    counts = re.findall(r"\((\d+)/(\d+)\)", row)
    right, of = counts[-1]
    assert int(of) == asked
    return int(right)
