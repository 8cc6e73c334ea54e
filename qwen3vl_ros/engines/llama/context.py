"""The language model in llama.cpp: its vocabulary, its KV cache and what is in it, decoding that can be cancelled."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.engines.base import EngineError, ModelNotFound, Progress
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.files import DOWNLOAD_COMMAND


class CancelledError(Exception):
    """The request was cancelled while the library was working. Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The place of one image in a prompt.

    ``key`` identifies the pixels and their size. ``n_tokens`` cells of the KV cache hold it; the text after it is
    ``n_pos`` positions further on (M-RoPE: the longer side of the image in tokens).
    """

    key: str
    width: int
    height: int
    n_tokens: int
    n_pos: int


_ONE_THREADS_MODEL = 16_000_000
"""Bytes of weights below which a token takes one thread less than a millisecond: several would not be sooner done, and
many times later where another program takes one of their cores. docs/performance.md has figures."""

Piece: TypeAlias = int | ImageSpan
"""What a prompt is made of: the id of a token, or an image."""


def n_cells(pieces: Sequence[Piece]) -> int:
    """Tokens that ``pieces`` take in the KV cache."""
    return sum(1 if isinstance(p, int) else p.n_tokens for p in pieces)


class LlamaContext:
    """One loaded language model with one conversation in its KV cache.

    ``pieces`` is what the cache holds, in order. It only ever names what was decoded completely; what a cancelled or
    failed call left behind it is removed by the next :meth:`keep_prefix`.
    """

    def __init__(self, path: Path, n_ctx: int, n_batch: int, n_threads: int, progress: Progress) -> None:
        """Raises :class:`ModelNotFound`. ``n_ctx`` is lowered to what the model was trained for.

        ``n_threads`` take in prompts, and make the tokens of a model that is not too small for that.
        """
        self._frees = contextlib.ExitStack()
        try:
            self._load(path, n_ctx, n_batch, n_threads, progress)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, n_ctx: int, n_batch: int, n_threads: int, progress: Progress) -> None:
        lib.llama_backend_init()
        tenth = 0

        @lib.llama_progress_callback  # type: ignore[untyped-decorator]
        def report(share: float, _: object) -> bool:
            nonlocal tenth
            if int(share * 10) > tenth:
                tenth = int(share * 10)
                progress(f"{path.name}: {tenth * 10} %")
            return True

        model_params = lib.llama_model_default_params()
        model_params.progress_callback = report
        self.model = lib.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise ModelNotFound(_broken(path))
        self._frees.callback(lib.llama_model_free, self.model)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)

        params = lib.llama_context_default_params()
        params.n_ctx = min(n_ctx, lib.llama_model_n_ctx_train(self.model))
        params.n_batch = params.n_ubatch = min(n_batch, params.n_ctx)
        params.n_threads_batch = n_threads
        params.n_threads = 1 if lib.llama_model_size(self.model) < _ONE_THREADS_MODEL else n_threads
        # The context keeps pointers to these: keep them alive.
        self._cancelled: Callable[[], bool] = threading.Event().is_set
        self._abort = lib.ggml_abort_callback(lambda _: self._cancelled())
        params.abort_callback = self._abort
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise ModelNotFound(_broken(path))
        self._frees.callback(lib.llama_free, self.ctx)
        self._memory = lib.llama_get_memory(self.ctx)
        self.n_ctx: int = lib.llama_n_ctx(self.ctx)
        self.n_batch: int = lib.llama_n_batch(self.ctx)

        # One batch serves every call: a new one per token costs more than filling this one.
        self._batch = lib.llama_batch_init(self.n_batch, 0, 1)
        self._frees.callback(lib.llama_batch_free, self._batch)
        shape = (self.n_batch,)
        self._batch_token = np.ctypeslib.as_array(self._batch.token, shape)
        self._batch_pos = np.ctypeslib.as_array(self._batch.pos, shape)
        self._batch_logits = np.ctypeslib.as_array(self._batch.logits, shape)
        np.ctypeslib.as_array(self._batch.n_seq_id, shape)[:] = 1
        for i in range(self.n_batch):
            self._batch.seq_id[i][0] = 0

        self.pieces: list[Piece] = []
        self._cells = 0
        self._pos = 0
        self._text = ctypes.create_string_buffer(256)

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._frees.close()

    def cancel_with(self, event: threading.Event) -> None:
        """From now on calls end with :class:`CancelledError` soon after ``event`` is set."""
        self._cancelled = event.is_set

    # The vocabulary.

    def tokenize(self, text: str) -> list[int]:
        """Tokens of plain text: control tokens written in it stay letters."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (lib.llama_token * size)()
        n = lib.llama_tokenize(self.vocab, data, len(data), tokens, size, False, False)
        if n < 0:
            raise EngineError(f"llama.cpp could not tokenize a text of {len(data)} bytes ({n}).")
        return tokens[:n]

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest text that a single token can stand for."""
        return max(len(lib.llama_vocab_get_text(self.vocab, token) or b"") for token in range(self.n_vocab))

    def token_bytes(self, token: int) -> bytes:
        """What ``token`` writes; b"" for a control token."""
        n = lib.llama_token_to_piece(self.vocab, token, self._text, len(self._text), 0, False)
        if n < 0:
            self._text = ctypes.create_string_buffer(-n)
            return self.token_bytes(token)
        return self._text.raw[:n]

    def control_tokens(self) -> dict[str, int]:
        """All control tokens, such as ``<|im_end|>``, by their text."""
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        ids = (t for t in range(self.n_vocab) if lib.llama_vocab_get_attr(self.vocab, t) & control)
        return {text: t for t in ids if (text := (lib.llama_vocab_get_text(self.vocab, t) or b"").decode())}

    def ends_answer(self, token: int) -> bool:
        """Whether ``token`` is an end of turn or of text."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def metadata(self, key: str) -> str | None:
        """A value of the GGUF file's metadata as text, None if it has none."""
        n = lib.llama_model_meta_val_str(self.model, key.encode(), self._text, len(self._text))
        return None if n < 0 else self._text.value.decode("utf-8", "replace")

    def description(self) -> str:
        """llama.cpp's words for the model, such as "qwen3vl 2B Q4_K - Medium"."""
        lib.llama_model_desc(self.model, self._text, len(self._text))
        return self._text.value.decode("utf-8", "replace")

    # The KV cache.

    @property
    def used(self) -> int:
        """Cells of the KV cache that are in use, at most ``n_ctx``."""
        return self._cells

    @property
    def position(self) -> int:
        """Position of the next token."""
        return self._pos

    def shared_prefix(self, prompt: Sequence[Piece]) -> int:
        """How many leading pieces of ``prompt`` are in the cache. The last never counts: its logits are needed."""
        limit = min(len(prompt) - 1, len(self.pieces))
        return next((i for i in range(limit) if prompt[i] != self.pieces[i]), limit)

    def keep_prefix(self, n: int) -> None:
        """Remove everything after the first ``n`` pieces, and whatever an unfinished call left."""
        del self.pieces[n:]
        self._cells = n_cells(self.pieces)
        self._pos = sum(1 if isinstance(p, int) else p.n_pos for p in self.pieces)
        if not lib.llama_memory_seq_rm(self._memory, 0, self._pos, -1):
            self.clear()

    def clear(self) -> None:
        """Forget everything."""
        lib.llama_memory_clear(self._memory, True)
        self.pieces.clear()
        self._cells = self._pos = 0

    def decode(self, tokens: Sequence[int]) -> None:
        """Append ``tokens``; the logits after the last are what is sampled next. Raises :class:`CancelledError`."""
        for start in range(0, len(tokens), self.n_batch):
            part = tokens[start : start + self.n_batch]
            n = len(part)
            self._batch.n_tokens = n
            self._batch_token[:n] = part
            self._batch_pos[:n] = range(self._pos, self._pos + n)
            self._batch_logits[:n] = 0
            self._batch_logits[n - 1] = start + n == len(tokens)
            self.check(lib.llama_decode(self.ctx, self._batch))
            self.pieces += part
            self._cells += n
            self._pos += n

    def logits(self) -> NDArray[np.float32]:
        """What the model gives for the next token: float32, shape [n_vocab]. Valid until the next decode."""
        logits: NDArray[np.float32] = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.ctx, -1), (self.n_vocab,))
        return logits

    def append_image(self, span: ImageSpan) -> None:
        """Note that ``span`` was decoded at :attr:`position`."""
        self.pieces.append(span)
        self._cells += span.n_tokens
        self._pos += span.n_pos

    def check(self, status: int) -> None:
        """Raise for what llama_decode returned: :class:`CancelledError`, :class:`EngineError`, or nothing for 0."""
        if self._cancelled():
            raise CancelledError
        if status != 0:
            raise EngineError(f"llama.cpp could not decode (status {status}): {log.last_error()}")


def _broken(path: Path) -> str:
    return (
        f"llama.cpp cannot load the model '{path}': {log.last_error() or 'it does not say why'}. "
        f"Get a whole one with `{DOWNLOAD_COMMAND}`."
    )
