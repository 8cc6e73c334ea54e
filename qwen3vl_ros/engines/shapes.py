"""The sizes of a Qwen3-VL's layers, and what follows from them: bytes on disk, bytes and operations per token."""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 151936

QUANTS = ("Q4_K_M", "Q8_0", "F16")
"""Quantisations of the official GGUF repositories, in order of preference."""

_BITS = {"Q4_K_M": (4.5, 6.5625), "Q8_0": (8.5, 8.5), "F16": (16.0, 16.0)}
"""Bits of a weight: of most tensors, and of those that llama.cpp gives more (Q4_K and Q6_K in Q4_K_M)."""


@dataclass(frozen=True)
class Shapes:
    """The numbers of a Qwen3-VL's config.json, under llama.cpp's names.

    The defaults are those of https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/config.json.
    ``experts``: of each layer, 0 = dense; a token uses ``active_experts`` of them, each ``feed_forward`` wide.
    ``tied``: the output layer is the embedding table.
    """

    embedding: int = 2048
    layers: int = 28
    heads: int = 16
    kv_heads: int = 8
    head: int = 128
    feed_forward: int = 6144
    experts: int = 0
    active_experts: int = 0
    tied: bool = True
    vocabulary: int = VOCABULARY
    context: int = 262144
    rope_base: float = 5_000_000.0
    rope_sections: tuple[int, int, int] = (24, 20, 20)
    vision_embedding: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vision_feed_forward: int = 4096
    vision_positions: int = 2304
    deepstack: tuple[int, ...] = (5, 11, 17)
    patch: int = 16
    merge: int = 2

    @property
    def head_weights(self) -> int:
        """Weights of the output layer, which also is or resembles the embedding table."""
        return self.vocabulary * self.embedding

    @property
    def weights(self) -> int:
        """Weights of the language model."""
        return self.layers * self.layer_weights() + self.head_weights * (1 if self.tied else 2)

    def layer_weights(self, *, active: bool = False) -> int:
        """Weights of a layer of the language model; ``active``: only those that one token uses."""
        return self._attention_weights + self._feed_forward_weights(active=active)

    @property
    def _attention_weights(self) -> int:
        return self.embedding * self.head * 2 * (self.heads + self.kv_heads)

    def _feed_forward_weights(self, *, active: bool) -> int:
        one = 3 * self.embedding * self.feed_forward
        if not self.experts:
            return one
        return one * (self.active_experts if active else self.experts) + self.embedding * self.experts

    def layer_bytes(self, quant: str, *, active: bool = False) -> float:
        """Bytes of a layer of the language model, the mean of all; ``active``: only those that one token reads."""
        most, better = _BITS[quant]
        # Q4_K_M stores the value and the down projections of half of the layers in Q6_K.
        improved = self.embedding * self.head * self.kv_heads + self._feed_forward_weights(active=active) / 3
        return (self.layer_weights(active=active) * most + improved * (better - most) / 2) / 8

    def head_bytes(self, quant: str) -> float:
        """Bytes of the output layer, all of which every token reads."""
        return self.head_weights * _BITS[quant][1] / 8

    def text_bytes(self, quant: str) -> float:
        """Size of the GGUF file of the language model."""
        table = 0.0 if self.tied else self.head_weights * _BITS[quant][0] / 8
        vocabulary = 40.0 * self.vocabulary  # tokens and merges, about
        return self.layers * self.layer_bytes(quant) + self.head_bytes(quant) + table + vocabulary

    def openvino_bytes(self, precision: str) -> float:
        """Size of an export of optimum-intel: "int4" in groups of 128, the vocabulary and the encoder "int8"."""
        layer_bits = {"int4": 4.25, "int8": 8.0}[precision]
        vision = self.vision_layers * self._vision_layer_weights + self._merger_weights
        return self.layers * self.layer_weights() * layer_bits / 8 + 2 * self.head_weights + vision

    def cache_bytes(self, tokens: int) -> int:
        """Memory of the KV cache, which stores F16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head * tokens

    @property
    def vision_bytes(self) -> int:
        """Size of the projector (mmproj) in F16 or BF16, one of which is downloaded by default."""
        width = self.vision_embedding
        weights = self.vision_layers * self._vision_layer_weights + self._merger_weights + 2 * width * 3 * self.patch**2
        return 2 * weights + 4 * self.vision_positions * width

    @property
    def _vision_layer_weights(self) -> int:
        return 4 * self.vision_embedding**2 + 2 * self.vision_embedding * self.vision_feed_forward

    @property
    def _merger_weights(self) -> int:
        """Weights of what takes image tokens from the encoder to the language model, once per DeepStack level more."""
        merged = self.vision_embedding * self.merge**2
        return (len(self.deepstack) + 1) * (merged**2 + merged * self.embedding)

    def vision_layer_work(self, image_tokens: int) -> float:
        """Multiplications of a layer of the encoder for one image."""
        patches = image_tokens * self.merge**2
        return patches * (self._vision_layer_weights + 2.0 * patches * self.vision_embedding)

    def vision_rest_work(self, image_tokens: int) -> float:
        """Multiplications of the encoder outside its layers for one image."""
        patches = image_tokens * self.merge**2
        return image_tokens * float(self._merger_weights) + patches * self.vision_embedding * 6.0 * self.patch**2
