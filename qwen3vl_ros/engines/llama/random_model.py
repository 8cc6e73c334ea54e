"""Makes a GGUF model and mmproj with random weights and the shapes of a real Qwen3-VL.

    python -m qwen3vl_ros.engines.llama.random_model build/benchmark/qwen3-vl-2b-random

Speed and memory of a model depend on its shapes, not on what it has learnt: this stands in for Qwen3-VL-2B-Instruct
in Q4_K_M with a Q8_0 mmproj wherever the real one cannot be downloaded. What it answers is noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from qwen3vl_ros.engines.llama.random_blocks import random_weights
from qwen3vl_ros.engines.llama.random_vocabulary import add_vocabulary
from qwen3vl_ros.engines.shapes import Shapes

_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_Q4_K, _Q6_K, _Q8_0 = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K, GGMLQuantizationType.Q8_0


def make(folder: Path, shapes: Shapes | None = None) -> Path:
    """Write model and mmproj into ``folder``, unless they are there; returns it."""
    shapes = shapes or Shapes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("random-Q4_K_M.gguf", _write_text), ("mmproj-random-Q8_0.gguf", _write_vision)):
        file = folder / name
        if not file.exists():
            partial = file.with_suffix(".partial")
            write(partial, shapes)
            partial.rename(file)
    return folder


class _Tensors:
    """The tensors of one file."""

    def __init__(self, writer: GGUFWriter) -> None:
        self._writer = writer
        self._random = np.random.default_rng(0)

    def weight(self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> None:
        """Random values; ``shape`` as PyTorch has it: outputs, inputs."""
        self._writer.add_tensor(name, random_weights(self._random, shape, kind), raw_dtype=kind)

    def linear(self, name: str, outputs: int, inputs: int, kind: GGMLQuantizationType) -> None:
        """A weight and a bias of zero."""
        self.weight(f"{name}.weight", (outputs, inputs), kind)
        self._writer.add_tensor(f"{name}.bias", np.zeros(outputs, np.float32))

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        """A normalization that scales by one."""
        self._writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
        if bias:
            self._writer.add_tensor(f"{name}.bias", np.zeros(size, np.float32))


def _write_text(file: Path, shapes: Shapes) -> None:
    writer = GGUFWriter(file, "qwen3vl")
    writer.add_type("model")
    writer.add_name("Random Qwen3-VL")
    writer.add_block_count(shapes.layers)
    writer.add_context_length(shapes.context)
    writer.add_embedding_length(shapes.embedding)
    writer.add_feed_forward_length(shapes.feed_forward)
    writer.add_head_count(shapes.heads)
    writer.add_head_count_kv(shapes.kv_heads)
    writer.add_key_length(shapes.head)
    writer.add_value_length(shapes.head)
    writer.add_rope_dimension_sections([*shapes.rope_sections, 0])
    writer.add_rope_freq_base(shapes.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_num_deepstack_layers(len(shapes.deepstack))
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_quantization_version(2)
    add_vocabulary(writer, shapes.vocabulary)

    tensors = _Tensors(writer)
    width = shapes.embedding
    tensors.weight("token_embd.weight", (shapes.vocabulary, width), _Q6_K)  # the output layer too: they are tied
    tensors.norm("output_norm", width)
    for layer in range(shapes.layers):
        name = f"blk.{layer}"
        better = _Q6_K if _gets_more_bits(layer, shapes.layers) else _Q4_K
        tensors.norm(f"{name}.attn_norm", width)
        tensors.weight(f"{name}.attn_q.weight", (shapes.heads * shapes.head, width), _Q4_K)
        tensors.weight(f"{name}.attn_k.weight", (shapes.kv_heads * shapes.head, width), _Q4_K)
        tensors.weight(f"{name}.attn_v.weight", (shapes.kv_heads * shapes.head, width), better)
        tensors.weight(f"{name}.attn_output.weight", (width, shapes.heads * shapes.head), _Q4_K)
        tensors.norm(f"{name}.attn_q_norm", shapes.head)
        tensors.norm(f"{name}.attn_k_norm", shapes.head)
        tensors.norm(f"{name}.ffn_norm", width)
        tensors.weight(f"{name}.ffn_gate.weight", (shapes.feed_forward, width), _Q4_K)
        tensors.weight(f"{name}.ffn_up.weight", (shapes.feed_forward, width), _Q4_K)
        tensors.weight(f"{name}.ffn_down.weight", (width, shapes.feed_forward), better)
    _finish(writer)


def _gets_more_bits(layer: int, layers: int) -> bool:
    """Which layers Q4_K_M stores partly in Q6_K: use_more_bits() in llama.cpp's src/llama-quant.cpp."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _write_vision(file: Path, shapes: Shapes) -> None:
    writer = GGUFWriter(file, "clip")
    writer.add_type("mmproj")
    writer.add_name("Random Qwen3-VL")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen3vl_merger")
    writer.add_vision_projection_dim(shapes.embedding)
    writer.add_vision_image_size(int(shapes.vision_positions**0.5) * shapes.patch)
    writer.add_vision_patch_size(shapes.patch)
    writer.add_vision_spatial_merge_size(shapes.merge)
    writer.add_vision_embedding_length(shapes.vision_embedding)
    writer.add_vision_feed_forward_length(shapes.vision_feed_forward)
    writer.add_vision_block_count(shapes.vision_layers)
    writer.add_vision_head_count(shapes.vision_heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    writer.add_vision_is_deepstack_layers([layer in shapes.deepstack for layer in range(shapes.vision_layers)])

    tensors = _Tensors(writer)
    width, feed_forward, merged = (
        shapes.vision_embedding,
        shapes.vision_feed_forward,
        shapes.vision_embedding * shapes.merge**2,
    )
    for i in ("", ".1"):  # two successive frames; an image is two equal ones
        tensors.weight(f"v.patch_embd.weight{i}", (width, 3, shapes.patch, shapes.patch), _F16)
    writer.add_tensor("v.patch_embd.bias", np.zeros(width, np.float32))
    tensors.weight("v.position_embd.weight", (shapes.vision_positions, width), _F32)
    for layer in range(shapes.vision_layers):
        name = f"v.blk.{layer}"
        tensors.norm(f"{name}.ln1", width, bias=True)
        tensors.linear(f"{name}.attn_qkv", 3 * width, width, _Q8_0)
        tensors.linear(f"{name}.attn_out", width, width, _Q8_0)
        tensors.norm(f"{name}.ln2", width, bias=True)
        tensors.linear(f"{name}.ffn_up", feed_forward, width, _Q8_0)
        tensors.linear(f"{name}.ffn_down", width, feed_forward, _Q8_0)
    for layer in shapes.deepstack:
        name = f"v.deepstack.{layer}"
        tensors.norm(f"{name}.norm", merged, bias=True)
        tensors.linear(f"{name}.fc1", merged, merged, _Q8_0)
        tensors.linear(f"{name}.fc2", shapes.embedding, merged, _Q8_0)
    tensors.norm("v.post_ln", width, bias=True)
    tensors.linear("mm.0", merged, merged, _Q8_0)
    tensors.linear("mm.2", shapes.embedding, merged, _Q8_0)
    _finish(writer)


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> int:
    """Make one in the folder that is named."""
    parser = argparse.ArgumentParser(description="Make a model with random weights and the shapes of Qwen3-VL-2B.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    begin = time.monotonic()
    for file in sorted(make(folder).iterdir()):
        print(f"{file}  {file.stat().st_size / 1e6:.0f} MB")
    print(f"{time.monotonic() - begin:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
