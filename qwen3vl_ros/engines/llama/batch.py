"""What one call of llama_decode gets: tokens of several sequences, or the rows of an image of one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

_SECTIONS = 4
"""Positions of a row with M-RoPE: time, vertical, horizontal and one that is not used."""


class Batch:
    """The arrays of a llama_batch, made once: new ones for every token would cost more than filling these.

    llama.cpp takes tokens and rows of images in separate calls only.
    """

    def __init__(self, size: int) -> None:
        """Make room for ``size`` tokens."""
        self.size = size
        self.n = 0
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._row_pos = np.zeros(_SECTIONS * size, np.int32)
        self._output = np.zeros(size, np.int8)
        self._seq = np.zeros(size, np.int32)
        self._n_seq = np.ones(size, np.int32)
        self._seq_pointers = self._seq.ctypes.data + self._seq.itemsize * np.arange(size, dtype=np.uintp)
        same = {
            "n_seq_id": _pointer(self._n_seq, ctypes.c_int32),
            "seq_id": _pointer(self._seq_pointers, ctypes.POINTER(lib.llama_seq_id)),
            "logits": _pointer(self._output, ctypes.c_int8),
        }
        token, pos = _pointer(self._token, lib.llama_token), _pointer(self._pos, lib.llama_pos)
        self._tokens = lib.llama_batch(token=token, pos=pos, **same)
        self._rows = lib.llama_batch(pos=_pointer(self._row_pos, lib.llama_pos), **same)

    def clear(self) -> None:
        """Remove all tokens."""
        self.n = 0

    def add(self, seq: int, position: int, tokens: Sequence[int], *, output: bool) -> int:
        """Append ``tokens`` of sequence ``seq``, the first at ``position``.

        Args:
            seq: The sequence.
            position: Of the first token.
            tokens: At most as many as there is room for.
            output: Whether the logits after the last one are wanted.

        Returns:
            The index of the last token, by which its logits are read.
        """
        begin, end = self.n, self.n + len(tokens)
        self._token[begin:end] = tokens
        self._pos[begin:end] = range(position, position + len(tokens))
        self._seq[begin:end] = seq
        self._output[begin:end] = 0
        self._output[end - 1] = output
        self.n = end
        return end - 1

    def tokens(self) -> lib.llama_batch:
        """Return the tokens for llama_decode; valid until the batch is changed."""
        self._tokens.n_tokens = self.n
        return self._tokens

    def rows(
        self, seq: int, position: int, embedding: NDArray[np.float32], first: int, columns: int
    ) -> lib.llama_batch:
        """Return rows of an image's embedding for llama_decode, in place of the tokens.

        Args:
            seq: The sequence.
            position: Of the image.
            embedding: The rows, float32 [n, n_embd_inp], C-contiguous; must live until they are decoded.
            first: Number of the first of them in the image.
            columns: Image tokens from its left to its right.
        """
        n = len(embedding)
        y, x = np.divmod(np.arange(first, first + n, dtype=np.int32), columns)
        positions = self._row_pos[: _SECTIONS * n].reshape(_SECTIONS, n)
        positions[:] = (np.full(n, position), position + y, position + x, np.zeros(n))
        self._seq[:n] = seq
        self._output[:n] = 0
        self.n = 0
        self._rows.embd = _pointer(embedding, ctypes.c_float)
        self._rows.n_tokens = n
        return self._rows


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
