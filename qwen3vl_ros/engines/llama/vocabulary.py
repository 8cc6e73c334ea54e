"""Which tokens of a llama.cpp vocabulary begin an answer with some word, and how likely they are."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.engines.choices import Choices, bare, beginnings
from qwen3vl_ros.engines.llama.context import LlamaContext


class Vocabulary:
    """The vocabulary of ``context``; looked through when it is first asked, which takes about 2 us a token."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context

    @cached_property
    def _tokens(self) -> dict[str, list[int]]:
        """Tokens by their bare text, those without one or with parts of characters left out."""
        tokens: dict[str, list[int]] = {}
        for token in range(self._context.n_vocab):
            if text := bare(self._context.token_bytes(token).decode("utf-8", "ignore")):
                tokens.setdefault(text, []).append(token)
        return tokens

    def probabilities(self, logits: NDArray[np.float32], choices: Choices) -> tuple[float, ...]:
        """The probability of each choice; ``logits`` [n_vocab] are for the first token of an answer."""
        weights = np.exp(logits.astype(np.float64) - logits.max())
        sums = [0.0] * len(choices)
        for begin, number in beginnings(choices).items():
            sums[number] += float(weights[self._tokens.get(begin, [])].sum())
        return tuple(sum_ / float(weights.sum()) for sum_ in sums)
