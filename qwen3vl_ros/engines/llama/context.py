"""The language model in llama.cpp: its vocabulary, the KV cache and its contents, and cancellable decoding."""

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

from qwen3vl_ros.engines.base import EngineError, Progress
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.files import DOWNLOAD_COMMAND


class CancelledError(Exception):
    """The request was cancelled while the library was working. Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The place of one image in a prompt.

    ``key`` identifies the pixels and their size. The image takes ``n_tokens`` cells of the KV cache and advances the
    position of the text after it by ``n_pos`` (M-RoPE: the longer side of the image in tokens).
    """

    key: str
    width: int
    height: int
    n_tokens: int
    n_pos: int


_ONE_THREADS_MODEL = 16_000_000
"""Bytes of weights below which one thread decodes a token in less than a millisecond. More threads would not be faster,
and many times slower while another program occupies one of their cores. docs/performance.md has figures."""

Piece: TypeAlias = int | ImageSpan
"""One element of a prompt: a token id or an image."""


def n_cells(pieces: Sequence[Piece]) -> int:
    """Return how many cells of the KV cache ``pieces`` take."""
    return sum(1 if isinstance(p, int) else p.n_tokens for p in pieces)


class LlamaContext:
    """One loaded language model with one conversation in its KV cache.

    ``pieces`` lists the contents of the cache in order, and only those that were decoded completely. The next
    :meth:`keep_prefix` removes what a cancelled or failed call left behind them.
    """

    def __init__(self, path: Path, n_ctx: int, n_batch: int, n_threads: int, progress: Progress) -> None:
        """Load the model.

        Args:
            path: A GGUF file.
            n_ctx: Cells of the KV cache; lowered to the context length that the model was trained with.
            n_batch: Tokens per call of llama_decode.
            n_threads: Threads for prefill, and for decoding unless the model is so small that one is faster.
            progress: Called with every tenth of the file that is loaded.

        Raises:
            ModelNotFound: llama.cpp cannot load the file.
            EngineNotReady: There is no memory for it now.
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
            raise _loading_error(path)
        self._frees.callback(lib.llama_model_free, self.model)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)

        params = lib.llama_context_default_params()
        params.n_ctx = min(n_ctx, lib.llama_model_n_ctx_train(self.model))
        params.n_batch = params.n_ubatch = min(n_batch, params.n_ctx)
        params.n_threads_batch = n_threads
        params.n_threads = 1 if lib.llama_model_size(self.model) < _ONE_THREADS_MODEL else n_threads
        # The context stores pointers to these two, so they must live as long as it does.
        self._cancelled: Callable[[], bool] = threading.Event().is_set
        self._abort = lib.ggml_abort_callback(lambda _: self._cancelled())
        params.abort_callback = self._abort
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise _loading_error(path)
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
        """Make later calls raise :class:`CancelledError` soon after ``event`` is set."""
        self._cancelled = event.is_set

    # The vocabulary.

    def tokenize(self, text: str) -> list[int]:
        """Tokenize plain text; the text of a control token becomes letters, not the control token."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8
        tokens = (lib.llama_token * size)()
        n = lib.llama_tokenize(self.vocab, data, len(data), tokens, size, False, False)
        if n < 0:
            raise EngineError(f"llama.cpp could not tokenize a text of {len(data)} bytes ({n}).")
        return tokens[:n]

    @cached_property
    def longest_token(self) -> int:
        """Length in bytes of the longest token's text."""
        return max(len(lib.llama_vocab_get_text(self.vocab, token) or b"") for token in range(self.n_vocab))

    def token_bytes(self, token: int) -> bytes:
        """Return the text of ``token`` as UTF-8, possibly a part of a character; b"" for a control token."""
        n = lib.llama_token_to_piece(self.vocab, token, self._text, len(self._text), 0, False)
        if n < 0:
            self._text = ctypes.create_string_buffer(-n)
            return self.token_bytes(token)
        return self._text.raw[:n]

    def control_tokens(self) -> dict[str, int]:
        """Return the ids of all control tokens by their text, such as ``<|im_end|>``."""
        control = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        ids = (t for t in range(self.n_vocab) if lib.llama_vocab_get_attr(self.vocab, t) & control)
        return {text: t for t in ids if (text := (lib.llama_vocab_get_text(self.vocab, t) or b"").decode())}

    def ends_answer(self, token: int) -> bool:
        """Return whether ``token`` is an end-of-turn or end-of-text token."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def metadata(self, key: str) -> str | None:
        """Return the value of ``key`` in the GGUF file's metadata as text, None without such a key."""
        n = lib.llama_model_meta_val_str(self.model, key.encode(), self._text, len(self._text))
        if n >= len(self._text):
            self._text = ctypes.create_string_buffer(n + 1)
            n = lib.llama_model_meta_val_str(self.model, key.encode(), self._text, len(self._text))
        return None if n < 0 else self._text.value.decode("utf-8", "replace")

    def description(self) -> str:
        """Return llama.cpp's description of the model, such as "qwen3vl 2B Q4_K - Medium"."""
        lib.llama_model_desc(self.model, self._text, len(self._text))
        return self._text.value.decode("utf-8", "replace")

    # The KV cache.

    @property
    def used(self) -> int:
        """Occupied cells of the KV cache, at most ``n_ctx``."""
        return self._cells

    @property
    def position(self) -> int:
        """Position of the next token."""
        return self._pos

    def shared_prefix(self, prompt: Sequence[Piece]) -> int:
        """Return how many leading pieces of ``prompt`` are cached, without the last, whose logits must be computed."""
        limit = min(len(prompt) - 1, len(self.pieces))
        return next((i for i in range(limit) if prompt[i] != self.pieces[i]), limit)

    def keep_prefix(self, n: int) -> int:
        """Remove everything after the first ``n`` pieces, including the leftovers of an unfinished call.

        Returns:
            How many pieces are left: ``n``, or 0 where llama.cpp cannot remove a part, as of a recurrent state.
        """
        del self.pieces[n:]
        self._cells = n_cells(self.pieces)
        self._pos = sum(1 if isinstance(p, int) else p.n_pos for p in self.pieces)
        if not lib.llama_memory_seq_rm(self._memory, 0, self._pos, -1):
            self.clear()
        return len(self.pieces)

    def clear(self) -> None:
        """Empty the KV cache."""
        lib.llama_memory_clear(self._memory, True)
        self.pieces.clear()
        self._cells = self._pos = 0

    def decode(self, tokens: Sequence[int]) -> None:
        """Decode ``tokens`` and append them to the cache; :meth:`logits` then returns those after the last token.

        Raises:
            CancelledError: The event of :meth:`cancel_with` was set.
            EngineError: llama.cpp failed.
        """
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
        """Return the logits of the next token: float32, shape [n_vocab], a view that the next decode overwrites."""
        logits: NDArray[np.float32] = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.ctx, -1), (self.n_vocab,))
        return logits

    def append_image(self, span: ImageSpan) -> None:
        """Record that ``span`` was decoded at :attr:`position`."""
        self.pieces.append(span)
        self._cells += span.n_tokens
        self._pos += span.n_pos

    def check(self, status: int) -> None:
        """Check the ``status`` that llama_decode returned, 0 for success.

        Raises:
            CancelledError: The event of :meth:`cancel_with` was set.
            EngineError: ``status`` is not 0.
        """
        if self._cancelled():
            raise CancelledError
        if status != 0:
            raise EngineError(f"llama.cpp could not decode (status {status}): {log.last_error()}")


def _loading_error(path: Path) -> EngineError:
    return log.loading_error(f"the model '{path}'", f"Get a whole one with `{DOWNLOAD_COMMAND}`.")
