"""A tiny Qwen3-VL with random weights, made by the tests: the real architecture, a tokenizer of its own.

The weights are large enough that the likeliest next token is a clear one and changes from place to place: rounding
must not decide what a greedy answer is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from made_once import digest, made_once
from training import convert
from training.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, SPLIT

# Qwen3-VL-Thinking's opens the reasoning in the prompt.
THINKING_CHAT_TEMPLATE = CHAT_TEMPLATE.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")

_TURN = "{{- '<|im_start|>assistant\\n' }}"
_THINK, _AT_ONCE = "{{- '<think>\\n' }}", "{{- '<think>\\n\\n</think>\\n\\n' }}"
_IF_OFF = "{%- if enable_thinking is defined and enable_thinking is false %}"
_IF_ON = "{%- if enable_thinking is defined and enable_thinking is true %}"


def _switched(ending: str) -> str:
    return CHAT_TEMPLATE.replace(_TURN, f"{_TURN}{ending}{{%- endif %}}")


# Qwen3.5's: of the larger sizes, which think by themselves, and of the smaller ones, which do not.
THINKS_UNLESS_TOLD = _switched(f"{_IF_OFF}{_AT_ONCE}{{%- else %}}{_THINK}")
THINKS_IF_TOLD = _switched(f"{_IF_ON}{_THINK}{{%- else %}}{_AT_ONCE}")
# Qwen3's, whose model opens the reasoning itself.
OPENS_ITSELF = _switched(f"{_IF_OFF}{_AT_ONCE}")

_STD, _STD_OUT = 0.15, 0.25

_TEXT = (
    "What colour is the red box on the table? Is there a blue ball beside the green cylinder?",
    "How many objects are there in the picture, and which of them is the largest one?",
    "You are a robot. Answer in one word. Describe what you see, from left to right.",
    '{"name": "box", "count": 12, "visible": true, "list": ["a", "b"]}',
    "Grüße aus München, 你好世界, naïve café, 🙂",
)

_MAKERS = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
"""Packages of which another version may make another model."""

_MAX_PIXELS = 300 * 32 * 32
"""The image size that the metadata allows."""


@dataclass(frozen=True)
class TinyModel:
    """Where the parts are: the Hugging Face folder and what llama.cpp's converter made of it, all in float32."""

    hf_dir: Path
    model: Path
    mmproj: Path


def make(cache: Path) -> TinyModel:
    """Make one, or take the one that was made before and kept in ``cache``."""

    def new() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        tokenizer = tiny_tokenizer()
        return Qwen3VLForConditionalGeneration(_config(tokenizer)), tokenizer

    return kept(cache, new, Path(__file__))


def kept(
    cache: Path,
    new: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]],
    *sources: Path,
    options: tuple[str, ...] = (),
) -> TinyModel:
    """Give ``new`` random weights, or take from ``cache`` what was made of the same ``sources`` and libraries."""

    def save(folder: Path) -> None:
        convert.convert(save_random(*new(), folder / "hf"), folder / "gguf", "f32", name="tiny", options=options)

    makers = (
        Path(convert.__file__).with_name(name) for name in ("convert.py", "llama_cpp_converter.py", "tokenizer.py")
    )
    folder = made_once(cache / digest((*sources, *makers), _MAKERS), save)
    return TinyModel(folder / "hf", folder / "gguf" / "tiny-f32.gguf", folder / "gguf" / "mmproj-tiny-f32.gguf")


def save_random(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, hf_dir: Path) -> Path:
    """Give a model random weights and save it with all that the converter wants; returns ``hf_dir``."""
    tokenizer.save_pretrained(hf_dir)
    model = model.float().eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=_STD_OUT if name.startswith("lm_head") else _STD, generator=random)
    model.save_pretrained(hf_dir)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 32 * 32, "longest_edge": _MAX_PIXELS},
    }
    (hf_dir / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return hf_dir


def with_metadata(source: Path, target: Path, values: dict[str, str | int | float]) -> Path:
    """Copy a GGUF file and give the copy these metadata; returns ``target``."""
    types = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE)
    assert architecture is not None
    writer = gguf.GGUFWriter(target, arch=architecture.contents())
    new = {key: MetadataDetails(types[type(value)], value) for key, value in values.items()}
    copy_with_new_metadata(reader, writer, new, [])
    return target


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
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
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of some hundred tokens with Qwen3-VL's control tokens and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
