"""The two layers with which a model that knows images learns to read clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from training.comparing import WIDE, widen
from training.foreign_images import made_image
from training.model import build_model
from training.packing import Packed, pack_clips
from training.questions import Question
from training.tokenizer import build_tokenizer
from training.train_clips import clip_loss
from training.vision import encode

TIMES = (0.0, 0.5, 1.0)
ASKED = [[Question("What happened?", "Nothing happened.", "what_happened")]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def narrow(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(0)
    model = build_model(tokenizer)
    model.model.language_model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def wide(
    narrow: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> Qwen3VLForConditionalGeneration:
    model = widen(narrow, tokenizer)
    model.model.language_model.set_attn_implementation("eager")
    return model


def test_a_widened_model_answers_as_before(
    narrow: Qwen3VLForConditionalGeneration,
    wide: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(wide.model.language_model.layers) == WIDE == len(narrow.model.language_model.layers) + 2
    seen = _seen(narrow, (9, 12))
    with torch.no_grad():
        losses = [clip_loss(model, *seen, _packed(tokenizer, (9, 12)))[0].item() for model in (narrow, wide)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def _packed(tokenizer: PreTrainedTokenizerFast, grid: tuple[int, int]) -> Packed:
    return pack_clips(tokenizer, ASKED, grid, [TIMES], None)


def _seen(model: Qwen3VLForConditionalGeneration, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the vision tower makes of frames that show something: tokens and places [1, N, D]."""
    rng = np.random.default_rng(0)
    rows, columns = grid
    images = np.stack([made_image(rng, (columns * 32, rows * 32)) for _ in TIMES])
    with torch.no_grad():
        tokens, places, _ = encode(model.model.visual, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    return tokens.flatten(0, 1)[None], places[0].flatten(0, 1)[None]
