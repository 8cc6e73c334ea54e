"""Clips in the ``openvino`` engine: the answer of transformers' Qwen3-VL, in as many tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import openvino_export
import tiny_qwen3vl
from qwen3vl_ros.engines.base import BadImage, Clip, Options, Unsupported
from qwen3vl_ros.engines.openvino.engine import OpenvinoEngine
from tiny_model_tests import noise_image, stream, text_of, user
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_qwen3vl.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def exported(tiny: TinyModel, pytestconfig: pytest.Config) -> Path:
    assert pytestconfig.cache is not None
    return openvino_export.export(tiny.hf_dir, pytestconfig.cache.mkdir("openvino"))


@pytest.fixture(scope="module", params=["CPU", "AUTO"])  # with continuous batching, and without
def engine(exported: Path, request: pytest.FixtureRequest) -> Iterator[OpenvinoEngine]:
    engine = OpenvinoEngine(str(exported), device=request.param, properties=openvino_export.EXACT)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(tiny: TinyModel) -> Reference:
    return Reference(tiny.hf_dir)


def clip(n: int, width: int, height: int, seed: int) -> Clip:
    """Noise, at uneven times."""
    random = np.random.default_rng(seed)
    frames = tuple(random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(n))
    return Clip(frames, tuple(np.cumsum(random.integers(1, 900, n) / 1000).tolist()))


@pytest.mark.parametrize(
    ("n", "width", "height", "seed"),
    [(1, 64, 32, 10), (2, 96, 64, 7), (4, 96, 64, 12), (5, 128, 96, 8), (8, 160, 32, 1)],
)
def test_answer_and_token_counts_are_those_of_transformers(
    engine: OpenvinoEngine, reference: Reference, n: int, width: int, height: int, seed: int
) -> None:
    question = user("Before it.", clip(n, width, height, seed), "When?", noise_image(64, 64, 3))
    prompt, answer, lead = reference.answer((question,), 6)
    assert lead > 0.05
    chunks = stream(engine, question, options=Options(temperature=0.0, max_tokens=6))
    usage = chunks[-1].usage
    assert usage is not None
    expected = reference.tokenizer.decode(answer, skip_special_tokens=True)
    assert text_of(chunks).rstrip("\ufffd") == expected.rstrip("\ufffd")  # half a character at the end may be left out
    image_tokens = 4 + (n + 1) // 2 * (width // 32) * (height // 32)
    assert usage.image_tokens == image_tokens
    assert usage.prompt_tokens == len(prompt) + image_tokens


def test_a_clip_after_an_image_which_the_library_mixes_up_is_refused(engine: OpenvinoEngine) -> None:
    with pytest.raises(Unsupported, match=r"^video: .*Put the clip first"):
        stream(engine, user(noise_image(64, 64, 3), clip(2, 96, 64, 18), "When?"))


def test_frames_of_a_single_token_are_refused(engine: OpenvinoEngine) -> None:
    with pytest.raises(BadImage, match="too small"):
        stream(engine, user(clip(2, 32, 32, 0), "When?"))
