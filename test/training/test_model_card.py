"""The shipped model is as good as its card says, on a fixed sample, through the package's own engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import skimage.data

from qwen3vl_ros.engines.llama.engine import LlamaEngine
from training.evaluate import GAZEBO, MODEL, score
from training.foreign_images import image_files
from training.heldout import gazebo_frames, heldout_scenes, photographs

CARD = MODEL / "README.md"
SCENES = 20
PHOTOGRAPHS = 20
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
    assert good / asked >= _stated(kind) - 0.2, "of a sample this small"


@pytest.mark.parametrize("kind", ["absent", "absent_places", "foreign", "foreign_places"])
def test_what_it_does_not_know_and_what_is_not_there_it_says(scores: dict[str, tuple[float, int]], kind: str) -> None:
    good, asked = scores[kind]
    assert good / asked >= _stated(kind) - 0.1


def test_photographs_are_refused(engine: LlamaEngine) -> None:
    files = image_files([Path(skimage.data.__file__).parent])
    scores = score(engine, islice(photographs(files), PHOTOGRAPHS))
    good, asked = (sum(scores[kind][i] for kind in ("foreign", "foreign_places")) for i in (0, 1))
    assert asked > 8 * PHOTOGRAPHS
    stated = float(re.findall(r"([\d.]+) %", _row("all"))[-1]) / 100
    assert good / asked >= stated - 0.1


def test_questions_that_follow_others_are_answered_as_well(
    engine: LlamaEngine, scores: dict[str, tuple[float, int]], tmp_path: Path
) -> None:
    pytest.importorskip("pydrake")
    good, asked = score(engine, heldout_scenes(SCENES // 2, tmp_path, history=True))["all"]
    assert good / asked >= scores["all"][0] / scores["all"][1] - 0.05


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


def _stated(kind: str) -> float:
    """Which share of the answers about held-out scenes the card's table says is right; of locate the IoU."""
    stated = re.search(r"IoU ([\d.]+)|([\d.]+) %", _row(kind))
    assert stated is not None
    return float(stated[1]) if stated[1] else float(stated[2]) / 100


def _row(kind: str) -> str:
    (row,) = re.findall(rf"^\| {kind} \| (?:IoU )?\d.*", CARD.read_text(), re.MULTILINE)
    return row


def _on_card(kind: str, asked: int) -> int:
    """How many answers the card's table says are right about Gazebo's frames, of as many as were asked."""
    counts = re.findall(r"\((\d+)/(\d+)\)", _row(kind))
    (right,) = (right for right, of in counts if int(of) == asked)
    return int(right)
