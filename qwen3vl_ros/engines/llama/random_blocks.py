"""Random weights as GGUF stores them: quantized blocks written directly, without quantizing anything.

Speed depends on shapes and on the kind of block, never on the values; so the bits that hold quantized values are
random, and scales are constants that give the weights zero mean and the wanted standard deviation. Layouts: struct
block_q8_0, block_q4_K and block_q6_K in llama.cpp's ggml/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

_Blocks = NDArray[np.uint8]


def random_weights(
    random: np.random.Generator, shape: tuple[int, ...], kind: GGMLQuantizationType, std: float = 0.02
) -> NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32]:
    """Weights of ``shape`` (the last axis is stored contiguously) as the array that GGUFWriter.add_tensor wants."""
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        weights: NDArray[np.float32] = random.standard_normal(shape, dtype=np.float32) * np.float32(std)
        return weights.astype(np.float16) if kind == GGMLQuantizationType.F16 else weights
    values, size = GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // values
    blocks: _Blocks = np.frombuffer(random.bytes(count * size), np.uint8).reshape(count, size).copy()
    _SET_SCALES[kind](blocks, std)
    return blocks.reshape(*shape[:-1], shape[-1] // values * size)


def _set_half(blocks: _Blocks, offset: int, value: float) -> None:
    blocks[:, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _q8_0(blocks: _Blocks, std: float) -> None:
    """Half d; int8 q[32]. Weight: d * q."""
    _set_half(blocks, 0, std / _uniform_std(256))


def _q4_k(blocks: _Blocks, std: float) -> None:
    """Half d, dmin; 8 scales and 8 minima of 6 bits; 4-bit q[256]. Weight: d * scale * q - dmin * minimum."""
    d = std / (32 * _uniform_std(16))
    _set_half(blocks, 0, d)
    _set_half(blocks, 2, d * 7.5)  # the mean of q
    blocks[:, 4:16] = [0b10_100000] * 8 + [0] * 4  # every scale and minimum 32


def _q6_k(blocks: _Blocks, std: float) -> None:
    """6-bit q[256]; int8 scale[16]; half d. Weight: d * scale * (q - 32)."""
    blocks[:, 192:208] = 32
    _set_half(blocks, 208, std / (32 * _uniform_std(64)))


def _uniform_std(levels: int) -> float:
    """Standard deviation of one of ``levels`` successive integers, each as likely."""
    return float(np.sqrt((levels**2 - 1) / 12))


_SET_SCALES: dict[GGMLQuantizationType, Callable[[_Blocks, float], None]] = {
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
