"""The model's shape: Qwen3-VL's architecture, about a thousandth of its size."""

import math

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from training.places import line_up
from training.tokenizer import NUMBERS

# One token per 32x32 pixels; more than this many pixels it has never seen.
MAX_PIXELS = 144 * 32 * 32
MIN_PIXELS = 16 * 32 * 32
LAYERS = 5  # of the language tower


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int = LAYERS) -> Qwen3VLForConditionalGeneration:
    """With random weights, float32; `layers` of the language tower."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 32) * 32,
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": layers,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
            "eos_token_id": token("<|im_end|>"),
            "bos_token_id": token("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 6,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "out_hidden_size": 192,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [5],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    look_around(model)
    line_up(model, [token(number) for number in NUMBERS])
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    # Its answers are one word: always the likeliest. Engines read this from the GGUF file.
    model.generation_config.do_sample = True
    model.generation_config.top_k = 1
    return model


def look_around(model: Qwen3VLForConditionalGeneration, strength: float = 3.0) -> None:
    """Let all but the last head of each vision layer begin with its attention on one neighbouring patch.

    Random heads look everywhere alike, and take most of an hour to find that shapes are made of neighbours. Like
    ConViT (https://arxiv.org/abs/2103.10697), but by what Qwen3-VL has: constant parts of queries and keys, which the
    rotary embedding turns with the patch's row and column, so that they agree best at a fixed offset.
    """
    visual = model.model.visual
    frequencies = visual.rotary_pos_emb.inv_freq[:3]
    offsets = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 0))
    number = 0
    for block in visual.blocks:
        attention = block.attn
        half = attention.head_dim // 2  # the rotary embedding pairs dimension i with i + half
        size = math.sqrt(strength / attention.scaling)
        with torch.no_grad():
            query, key, _ = attention.qkv.bias.view(3, attention.num_heads, 2, 2, half // 2)
            for head in range(attention.num_heads - 1):
                for axis, offset in enumerate(offsets[number % len(offsets)]):
                    angle = frequencies * offset
                    query[head, 0, axis, :3] += size * angle.cos()
                    query[head, 1, axis, :3] += size * angle.sin()
                    key[head, 0, axis, :3] += size
                number += 1
