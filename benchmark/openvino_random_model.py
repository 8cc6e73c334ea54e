"""Makes an OpenVINO model with random weights and the shapes of a real Qwen3-VL.

    python benchmark/openvino_random_model.py build/benchmark/qwen3-vl-2b-random-openvino

What random_model.py is for llama.cpp: the same shapes, exported with int4 weights by the command of docs/openvino.md.
The exporting tools are requirements/openvino-export.txt and openvino-bench.txt, each in a directory of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from qwen3vl_ros.engines.llama.random_vocabulary import CHAT_TEMPLATE, add_vocabulary
from qwen3vl_ros.engines.shapes import Shapes

TOOLS = (Path(sys.prefix) / "openvino-export", Path(sys.prefix) / "openvino-bench")

_BLOCK = 1 << 20


def make(folder: Path) -> Path:
    """Export one to ``folder``, unless it is there; returns it. Raises RuntimeError."""
    if folder.exists():
        return folder
    for tools in TOOLS:
        if not tools.is_dir():
            raise RuntimeError(f"exporting an OpenVINO model needs what `make test-tools` installs in {tools}")
    source, partial = folder.with_suffix(".source"), folder.with_suffix(".partial")
    for leftover in (source, partial):
        shutil.rmtree(leftover, ignore_errors=True)
    export = ["-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", source, "--weight-format", "int4"]
    for arguments in ([__file__, "--source", source], [*export, "--task", "image-text-to-text", partial]):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, TOOLS)), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"making the random OpenVINO model failed (it needs 10 GB of memory): {done.stderr[-1000:]}"
            )
    shutil.rmtree(source)
    partial.rename(folder)
    return folder


class _Vocabulary:
    """Takes what :func:`add_vocabulary` gives a GGUFWriter."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.merges: list[str] = []

    def add_token_list(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def add_token_merges(self, merges: list[str]) -> None:
        self.merges = merges

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def _make_source(folder: Path, shapes: Shapes) -> None:
    """The Hugging Face model that is exported, in the exporting process."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vocabulary = _Vocabulary()
    add_vocabulary(vocabulary, shapes.vocabulary)  # type: ignore[arg-type]
    control = [token for token in vocabulary.tokens if token.startswith("<|")]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    bpe = models.BPE(vocab=ids, merges=[tuple(merge.split(" ")) for merge in vocabulary.merges])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)

    rope = {"rope_type": "default", "rope_theta": shapes.rope_base, "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": shapes.vocabulary,
            "hidden_size": shapes.embedding,
            "intermediate_size": shapes.feed_forward,
            "num_hidden_layers": shapes.layers,
            "num_attention_heads": shapes.heads,
            "num_key_value_heads": shapes.kv_heads,
            "head_dim": shapes.head,
            "max_position_embeddings": shapes.context,
            "rope_parameters": {**rope, "mrope_section": list(shapes.rope_sections)},
            "tie_word_embeddings": True,
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": shapes.vision_layers,
            "hidden_size": shapes.vision_embedding,
            "intermediate_size": shapes.vision_feed_forward,
            "num_heads": shapes.vision_heads,
            "out_hidden_size": shapes.embedding,
            "patch_size": shapes.patch,
            "spatial_merge_size": shapes.merge,
            "temporal_patch_size": 2,
            "num_position_embeddings": shapes.vision_positions,
            "deepstack_visual_indexes": list(shapes.deepstack),
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    model.to_empty(device="cpu").tie_weights()
    # Drawing each weight would take most of the time. No two tensors are equal: OpenVINO would keep one of them.
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            values, flat = block.roll(index), parameter.view(-1)
            for start in range(0, flat.numel(), _BLOCK):
                part = flat[start : start + _BLOCK]
                part.copy_(values[: part.numel()])
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": shapes.patch,
        "merge_size": shapes.merge,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def main() -> int:
    """Make one in the folder that is named."""
    parser = argparse.ArgumentParser(description="Make an OpenVINO model with the shapes of Qwen3-VL-2B.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", action="store_true", help="only the model to export, with the exporting tools")
    arguments = parser.parse_args()
    begin = time.monotonic()
    if arguments.source:
        _make_source(arguments.folder, Shapes())
    else:
        make(arguments.folder)
        print(f"{arguments.folder}  {time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
