"""A tiny Qwen3.5 with random weights: three layers with a recurrent state, one with attention, Qwen3-VL's encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3_5Config, Qwen3_5ForConditionalGeneration

import tiny_qwen3vl
from tiny_qwen3vl import TinyModel, tiny_tokenizer


def make(cache: Path) -> TinyModel:
    """Make one, or take the one that was made before and kept in ``cache``."""
    # Without the layers that predict several tokens at once, which transformers does not have.
    return tiny_qwen3vl.kept(cache, _new, Path(__file__), Path(tiny_qwen3vl.__file__), options=("--no-mtp",))


def _new() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    torch.manual_seed(0)  # for what the architecture itself draws: decays and time steps
    tokenizer = tiny_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3_5Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "full_attention_interval": 4,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
            "tie_word_embeddings": False,
            "eos_token_id": token("<|im_end|>"),
            "bos_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return Qwen3_5ForConditionalGeneration(config), tokenizer
