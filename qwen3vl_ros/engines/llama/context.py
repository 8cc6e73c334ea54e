"""The language model in llama.cpp: its vocabulary, the sequences of its KV cache, and cancellable decoding."""

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


class CacheFullError(Exception):
    """The KV cache has no room for a batch, none of which was decoded. Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The place of one image, or of a pair of frames, in a prompt.

    ``key`` identifies the pixels and their size. The image takes ``n_tokens`` cells of the KV cache, ``columns`` in a
    row, and advances the position of the text after it by ``n_pos`` (M-RoPE: the longer side of the image in tokens).
    """

    key: str
    width: int
    height: int
    n_tokens: int
    n_pos: int
    columns: int


_ONE_THREADS_MODEL = 16_000_000
"""Bytes of weights below which one thread decodes a token in less than a millisecond. More threads would not be faster,
and many times slower while another program occupies one of their cores. docs/performance.md has figures."""

_NO_ROOM, _ABORTED = 1, 2  # what llama_decode returns
_TEXT_SIZE = 256

Piece: TypeAlias = int | ImageSpan
"""One element of a prompt: a token id or an image."""


def n_cells(pieces: Sequence[Piece]) -> int:
    """Return how many cells of the KV cache ``pieces`` take."""
    return sum(1 if isinstance(p, int) else p.n_tokens for p in pieces)


def n_positions(pieces: Sequence[Piece]) -> int:
    """Return the position of what follows ``pieces``."""
    return sum(1 if isinstance(p, int) else p.n_pos for p in pieces)


class LlamaContext:
    """One loaded language model and its KV cache, with a sequence for each of ``n_sequences`` callers.

    ``n_ctx`` is the number of tokens that a sequence may have; there are cells for all sequences together, and a cell
    that several share counts once. The vocabulary may be used from any thread; memory and decoding from one at a time.
    """

    def __init__(
        self,
        path: Path,
        n_ctx: int,
        n_batch: int,
        n_threads: int,
        n_gpu_layers: int,
        n_sequences: int,
        progress: Progress,
    ) -> None:
        """Load the model.

        Args:
            path: A GGUF file.
            n_ctx: Tokens of a sequence; lowered to the context length that the model was trained with.
            n_batch: Tokens per call of llama_decode.
            n_threads: Threads for prefill, and for decoding unless the model is so small that one is faster.
            n_gpu_layers: Layers on a GPU, where there is one; -1 = all.
            n_sequences: Sequences; lowered to 1 for a model with a recurrent state, which no two can share.
            progress: Called with every tenth of the file that is loaded.

        Raises:
            ModelNotFound: llama.cpp cannot load the file.
            EngineNotReady: There is no memory for it now.
        """
        self._frees = contextlib.ExitStack()
        try:
            self._load(path, n_ctx, n_batch, n_threads, n_gpu_layers, n_sequences, progress)
        except BaseException:
            self.close()
            raise

    def _load(
        self,
        path: Path,
        n_ctx: int,
        n_batch: int,
        n_threads: int,
        n_gpu_layers: int,
        n_sequences: int,
        progress: Progress,
    ) -> None:
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
        model_params.n_gpu_layers = n_gpu_layers
        self.model = lib.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise _loading_error(path)
        self._frees.callback(lib.llama_model_free, self.model)
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)

        one_state = lib.llama_model_is_recurrent(self.model) or lib.llama_model_is_hybrid(self.model)
        self.n_sequences = 1 if one_state else n_sequences
        self._prompt_threads = n_threads
        self._token_threads = 1 if lib.llama_model_size(self.model) < _ONE_THREADS_MODEL else n_threads
        params = lib.llama_context_default_params()
        params.n_ctx = min(n_ctx, lib.llama_model_n_ctx_train(self.model)) * self.n_sequences
        params.n_seq_max = self.n_sequences
        params.kv_unified = True  # so that sequences can share the cells of a common prefix
        params.n_batch = params.n_ubatch = min(max(n_batch, self.n_sequences), params.n_ctx)
        params.n_threads, params.n_threads_batch = self._token_threads, self._prompt_threads
        self._cancelled: Callable[[], bool] = threading.Event().is_set
        self._abort = lib.ggml_abort_callback(lambda _: self._cancelled())  # llama.cpp keeps the pointer only
        params.abort_callback = self._abort
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise _loading_error(path)
        self._frees.callback(lib.llama_free, self.ctx)
        self._memory = lib.llama_get_memory(self.ctx)
        self.n_ctx: int = lib.llama_n_ctx(self.ctx) // self.n_sequences
        self.n_batch: int = lib.llama_n_batch(self.ctx)

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._frees.close()

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
        text = ctypes.create_string_buffer(_TEXT_SIZE)
        n = lib.llama_token_to_piece(self.vocab, token, text, len(text), 0, False)
        if n < 0:
            text = ctypes.create_string_buffer(-n)
            n = lib.llama_token_to_piece(self.vocab, token, text, len(text), 0, False)
        return text.raw[:n]

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
        text = ctypes.create_string_buffer(_TEXT_SIZE)
        n = lib.llama_model_meta_val_str(self.model, key.encode(), text, len(text))
        if n >= len(text):
            text = ctypes.create_string_buffer(n + 1)
            n = lib.llama_model_meta_val_str(self.model, key.encode(), text, len(text))
        return None if n < 0 else text.value.decode("utf-8", "replace")

    def description(self) -> str:
        """Return llama.cpp's description of the model, such as "qwen3vl 2B Q4_K - Medium"."""
        text = ctypes.create_string_buffer(_TEXT_SIZE)
        lib.llama_model_desc(self.model, text, len(text))
        return text.value.decode("utf-8", "replace")

    # The KV cache.

    def trim(self, seq: int, position: int) -> bool:
        """Remove from a sequence what is at ``position`` and after it.

        Returns:
            False where llama.cpp cannot remove a part, as of a recurrent state: the sequence is empty now.
        """
        if lib.llama_memory_seq_rm(self._memory, seq, position, -1):
            return True
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return False

    def share(self, source: int, target: int, position: int) -> None:
        """Have ``target``, which is empty, share the cells of ``source`` before ``position``; costs nothing."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, position)

    def saved_size(self, seq: int) -> int:
        """Return the bytes that :meth:`save` writes, about."""
        return int(lib.llama_state_seq_get_size(self.ctx, seq))

    def save(self, seq: int, file: Path) -> None:
        """Write a sequence to ``file``; raises OSError."""
        if not lib.llama_state_seq_save_file(self.ctx, str(file).encode(), seq, None, 0):
            raise OSError(f"llama.cpp could not write {file}")

    def load(self, seq: int, file: Path) -> bool:
        """Read what :meth:`save` wrote into a sequence, which is empty; return whether it did: else it stays empty."""
        if not file.is_file():
            return False
        tokens, n = (lib.llama_token * 1)(), ctypes.c_size_t()
        if lib.llama_state_seq_load_file(self.ctx, str(file).encode(), seq, tokens, 1, ctypes.byref(n)):
            return True
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return False

    def decode(self, batch: lib.llama_batch, cancelled: Callable[[], bool], *, prompt: bool) -> None:
        """Decode a batch; :meth:`logits` then returns those of its outputs.

        Args:
            batch: Of :class:`qwen3vl_ros.engines.llama.batch.Batch`.
            cancelled: Ends the call soon after it returns True; asked often.
            prompt: The batch has a part of a prompt, and not only the next token of each running answer.

        Raises:
            CancelledError: ``cancelled`` returned True. A part of the batch may be in the KV cache.
            CacheFullError: The KV cache has no room for the batch.
            EngineError: llama.cpp failed.
        """
        threads = self._prompt_threads if prompt else self._token_threads
        lib.llama_set_n_threads(self.ctx, self._token_threads, threads)
        self._cancelled = cancelled
        status = lib.llama_decode(self.ctx, batch)
        if status == _ABORTED:
            raise CancelledError
        if status == _NO_ROOM:
            raise CacheFullError
        if status != 0:
            raise EngineError(f"llama.cpp could not decode (status {status}): {log.last_error()}")

    def logits(self, output: int) -> NDArray[np.float32]:
        """Return the logits after token ``output`` of the last batch.

        Returns:
            float32 [n_vocab], a view that the next decode overwrites.
        """
        logits = lib.llama_get_logits_ith(self.ctx, output)
        values: NDArray[np.float32] = np.ctypeslib.as_array(logits, (self.n_vocab,))
        return values


def _loading_error(path: Path) -> EngineError:
    return log.loading_error(f"the model '{path}'", f"Get a whole one with `{DOWNLOAD_COMMAND}`.")
