"""Clips in the ``llama`` engine: the prompt and the answer of transformers' Qwen3-VL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import BadImage, BadRequest, Clip, Message, Options, Unsupported
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from tiny_model_tests import noise_image, stream, user
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference

pytest_plugins = ["tiny_model_fixtures"]


@pytest.fixture(scope="module")
def engine(tiny: TinyModel) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(str(tiny.model), mmproj=str(tiny.mmproj), n_threads=1, slots=1)
    yield engine
    engine.close()


def clip(n: int, width: int, height: int, seed: int = 0) -> Clip:
    """Noise, at uneven times."""
    random = np.random.default_rng(seed)
    frames = tuple(random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(n))
    return Clip(frames, tuple(np.cumsum(random.integers(1, 900, n) / 1000).tolist()))


def greedy(tokens: int) -> Options:
    return Options(temperature=0.0, max_tokens=tokens)


def read(engine: LlamaEngine) -> list[int]:
    """The tokens of prompt and answer in the context, without those of frames."""
    (slot,) = engine._scheduler.slots
    return [piece for piece in slot.pieces if isinstance(piece, int)]


@pytest.mark.parametrize(
    ("n", "width", "height", "seed"), [(2, 96, 64, 0), (4, 96, 64, 1), (5, 128, 96, 0), (8, 160, 32, 0)]
)
def test_prompt_and_greedy_answer_are_those_of_transformers(
    engine: LlamaEngine, reference: Reference, n: int, width: int, height: int, seed: int
) -> None:
    question = user(clip(n, width, height, seed), "When?")
    prompt, answer, lead = reference.answer((question,), 16)
    assert lead > 0.05
    chunks = stream(engine, question, options=greedy(16))
    assert read(engine) == prompt + answer[:-1]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.image_tokens == (n + 1) // 2 * (width // 32) * (height // 32)


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.integers(0, 100_000), min_size=1, max_size=9).map(sorted))
def test_times_are_written_as_transformers_does(engine: LlamaEngine, reference: Reference, times: list[int]) -> None:
    frame = noise_image(32, 32)
    question = user("Watch.", Clip((frame,) * len(times), tuple(time / 1000 for time in times)), "When?")
    prompt, _, _ = reference.answer((question,), 1)
    stream(engine, question, options=greedy(1))
    assert read(engine) == prompt


def test_clips_and_images_stand_where_the_message_has_them(engine: LlamaEngine, reference: Reference) -> None:
    messages = (
        user(noise_image(64, 96), "Is this", clip(3, 64, 64), "in there?"),
        Message("assistant", ("Yes.",)),
        user(clip(2, 32, 64, 5), "And here?"),
    )
    prompt, _, _ = reference.answer(messages, 1)
    stream(engine, *messages, options=greedy(1))
    assert read(engine) == prompt


def test_known_pairs_are_not_encoded_again(engine: LlamaEngine) -> None:
    seen = clip(4, 96, 64, 7)
    stream(engine, user(seen, "When?"), options=greedy(1))
    longer = Clip((*seen.frames, noise_image(96, 64)), (*seen.times, seen.times[-1] + 1))
    again = stream(engine, user(seen, "Where?"), options=greedy(1))[-1].usage
    more = stream(engine, user(longer, "Where?"), options=greedy(1))[-1].usage
    assert again is not None and more is not None
    assert again.encode_time == 0
    assert more.encode_time > 0
    assert more.cached_tokens > again.image_tokens


def test_the_order_of_frames_matters(engine: LlamaEngine) -> None:
    a, b = noise_image(64, 96, 1), noise_image(64, 96, 2)
    spans = [engine._prompts.build((user(Clip(pair, (0.0, 0.0)), "?"),)).images for pair in ((a, b), (b, a))]
    assert spans[0].keys() != spans[1].keys()


@pytest.mark.parametrize(
    ("frames", "times"),
    [(0, ()), (2, (0.0,)), (2, (1.0, 0.5)), (1, (-1.0,)), (1, (float("nan"),)), (1, (float("inf"),))],
)
def test_a_clip_that_makes_no_sense_is_refused(frames: int, times: tuple[float, ...]) -> None:
    with pytest.raises(BadRequest):
        Clip((noise_image(32, 32),) * frames, times)


def test_frames_of_several_sizes_are_refused(engine: LlamaEngine) -> None:
    with pytest.raises(BadRequest, match="one size"):
        Clip((noise_image(32, 32), noise_image(64, 32)), (0.0, 1.0))
    with pytest.raises(BadImage, match="32x33"):
        stream(engine, user(Clip((noise_image(32, 33),) * 2, (0.0, 1.0)), "?"))


def test_a_model_without_a_vision_part_refuses_clips(tiny: TinyModel, tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    alone.symlink_to(tiny.model)
    engine = LlamaEngine(str(alone), n_threads=1)
    try:
        with pytest.raises(Unsupported, match="no vision part"):
            stream(engine, user(clip(2, 32, 32), "?"))
    finally:
        engine.close()
