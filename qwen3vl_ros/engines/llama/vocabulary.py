"""Finds tokens of llama.cpp by their text: those that begin an answer with a given word, those that end a list."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.engines.choices import Choices, bare, beginnings
from qwen3vl_ros.engines.llama.context import LlamaContext


class Vocabulary:
    """The vocabulary of ``context``, indexed by the first :meth:`prepare` in about 2 us per token."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context
        self._closed: dict[bytes, int | None] = {}

    @cached_property
    def _tokens(self) -> dict[str, list[int]]:
        """Tokens by their bare text, without those that have none or hold a part of a character."""
        tokens: dict[str, list[int]] = {}
        for token in range(self._context.n_vocab):
            if text := bare(self._context.token_bytes(token).decode("utf-8", "ignore")):
                tokens.setdefault(text, []).append(token)
        return tokens

    def prepare(self) -> None:
        """Index the vocabulary, so that :meth:`probabilities` is fast."""
        _ = self._tokens

    def probabilities(self, logits: NDArray[np.float32], choices: Choices) -> tuple[float, ...]:
        """Return the probability of each choice; ``logits`` [n_vocab] are those of the answer's first token."""
        weights = np.exp(logits.astype(np.float64) - logits.max())
        sums = [0.0] * len(choices)
        for begin, number in beginnings(choices).items():
            sums[number] += float(weights[self._tokens.get(begin, [])].sum())
        return tuple(sum_ / float(weights.sum()) for sum_ in sums)

    def closed(self, text: bytes) -> int | None:
        """Return the token that is ``text`` and the bracket ``]`` in one, None if there is none."""
        if text not in self._closed:
            tokens = self._context.tokenize(text.decode("utf-8", "replace") + "]")
            whole = len(tokens) == 1 and self._context.token_bytes(tokens[0]) == text + b"]"
            self._closed[text] = tokens[0] if whole else None
        return self._closed[text]
