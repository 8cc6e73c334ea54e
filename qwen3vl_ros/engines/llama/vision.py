"""Qwen3-VL's vision encoder in llama.cpp (mtmd): measures and encodes images."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp import mtmd_cpp as mtmd
from numpy.typing import NDArray

from qwen3vl_ros.engines.base import BadImage, EngineError, Image
from qwen3vl_ros.engines.clips import FramePair
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.context import CancelledError, ImageSpan, LlamaContext
from qwen3vl_ros.engines.llama.files import DOWNLOAD_COMMAND, read_numbers

_PATCH, _MERGE, _MAX_PIXELS = "clip.vision.patch_size", "clip.vision.spatial_merge_size", "clip.vision.image_max_pixels"

Embedding = NDArray[np.float32]
"""The language model's input for one image: float32, shape [n_tokens, n_embd_inp], deepstack levels included."""

# The encoder checks for a cancel after this many nodes of its graph. Every check synchronises its threads; a layer has
# about 30 nodes.
_NODES_PER_CHECK = 4


class VisionTower:
    """The vision encoder in an mmproj file. ``multiple`` and ``max_tokens`` as in ImageInput.

    Any thread may measure; one at a time may encode, also while another one decodes in the language model.
    """

    def __init__(self, path: Path, context: LlamaContext, max_tokens: int, n_threads: int, *, use_gpu: bool) -> None:
        """Load the encoder.

        Args:
            path: The mmproj file.
            context: The language model that reads the embeddings.
            max_tokens: Limit for one image; the file's own may be lower.
            n_threads: Threads of the encoder.
            use_gpu: Whether it may run on a GPU, where there is one.

        Raises:
            ModelNotFound: llama.cpp cannot load the file.
            EngineNotReady: There is no memory for it now.
        """
        numbers = read_numbers(path, _PATCH, _MERGE, _MAX_PIXELS)
        self.multiple = numbers.get(_PATCH, 16) * numbers.get(_MERGE, 2)
        limit = numbers.get(_MAX_PIXELS, 0) // self.multiple**2
        self.max_tokens = min(max_tokens, limit) if limit else max_tokens

        self._n_embd = lib.llama_model_n_embd_inp(context.model)
        self._cancelled: Callable[[], bool] = threading.Event().is_set
        self._nodes = 0

        params = mtmd.mtmd_context_params_default()
        params.n_threads = n_threads
        params.use_gpu = use_gpu
        params.print_timings = params.warmup = False
        # mtmd would resize an image outside these limits, which the caller has fitted already.
        params.image_min_tokens, params.image_max_tokens = 1, self.max_tokens
        self._keep_going = lib.ggml_backend_sched_eval_callback(self._on_node)  # mtmd keeps the pointer only
        params.cb_eval = self._keep_going
        self._mtmd = mtmd.mtmd_init_from_file(str(path).encode(), context.model, params)
        if not self._mtmd:
            way_out = f"It must be the mmproj file of the same model; get both with `{DOWNLOAD_COMMAND}`."
            raise log.loading_error(f"the vision part '{path}'", way_out)

    def close(self) -> None:
        """Free everything. Idempotent."""
        if self._mtmd:
            mtmd.mtmd_free(self._mtmd)
            self._mtmd = None

    def measure(self, image: Image | FramePair) -> tuple[list[int], ImageSpan, list[int]]:
        """Tokenize an image, or a pair of frames, without encoding it.

        Returns:
            The text tokens before the image, its span, and the text tokens after it.

        Raises:
            BadImage: The image is not uint8 [height, width, 3], or the encoder would have to resize it.
        """
        frames = _frames(image)
        shape, dtype = frames[0].shape, frames[0].dtype  # those of a pair are alike
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise BadImage(f"An image must be uint8 [height, width, 3], not {dtype} {list(shape)}.")
        height, width = shape[:2]
        m = self.multiple
        tokens = (width // m) * (height // m)
        if width % m or height % m or not 1 <= tokens <= self.max_tokens:
            raise BadImage(
                f"An image of {width}x{height} pixels does not fit this model: width and height must be multiples of "
                f"{m}, with at most {self.max_tokens} squares of {m}x{m}. Fit it first (qwen3vl_ros.vision.fit)."
            )
        pixels = hashlib.blake2b(digest_size=16)
        for frame in frames:
            pixels.update(np.ascontiguousarray(frame).data)
        around: tuple[list[int], list[int]] = [], []
        with self._tokenized(width, height, [None] * len(frames)) as chunks:
            position, span = 0, None
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                    n = ctypes.c_size_t()
                    text = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
                    around[position].extend(text[: n.value])
                else:
                    n_tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
                    n_pos = mtmd.mtmd_input_chunk_get_n_pos(chunk)
                    key = f"{width}x{height}:{pixels.hexdigest()}"
                    span, position = ImageSpan(key, width, height, n_tokens, n_pos, width // m), 1
        if span is None or span.n_tokens != tokens:
            raise BadImage(f"llama.cpp did not take an image of {width}x{height} pixels as it is.")
        return around[0], span, around[1]

    def encode(self, span: ImageSpan, image: Image | FramePair, cancelled: Callable[[], bool]) -> Embedding:
        """Run the encoder, which is slow.

        Args:
            span: What :meth:`measure` returned for ``image``.
            image: uint8 RGB [height, width, 3], one or a pair.
            cancelled: Ends the call soon after it returns True; asked often.

        Returns:
            float32 [n_tokens, n_embd_inp].

        Raises:
            CancelledError: ``cancelled`` returned True.
            EngineError: llama.cpp failed.
        """
        self._cancelled = cancelled
        with self._tokenized(span.width, span.height, _frames(image)) as chunks:
            status = mtmd.mtmd_encode_chunk(self._mtmd, self._image_chunk(chunks))
            if cancelled():  # the encoder reports success when it was interrupted
                raise CancelledError
            if status != 0:
                raise EngineError(f"llama.cpp could not encode an image: {log.last_error()}")
            output: Any = mtmd.mtmd_get_output_embd(self._mtmd)
            embedding: Embedding = np.ctypeslib.as_array(output, (span.n_tokens, self._n_embd)).copy()
        return embedding

    @contextlib.contextmanager
    def _tokenized(self, width: int, height: int, frames: Sequence[Image | None]) -> Iterator[Any]:
        """Provide mtmd's chunks for one image, or two frames that it merges, within the block.

        Without pixels (None) they serve for all but encoding.
        """
        bitmaps = [mtmd.mtmd_bitmap_init(width, height, _pixels(frame)) for frame in frames]
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_set_mergeable(bitmap, len(bitmaps) > 1)
            marker = mtmd.mtmd_default_marker() * len(bitmaps)  # nothing between them: they would not be merged
            text = mtmd.mtmd_input_text(marker, len(marker), False, True)
            array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            status = mtmd.mtmd_tokenize(self._mtmd, chunks, ctypes.byref(text), array, len(bitmaps))
            if status != 0:
                raise BadImage(f"llama.cpp cannot use an image of {width}x{height} pixels: {log.last_error()}")
            yield chunks
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    @staticmethod
    def _image_chunk(chunks: Any) -> Any:
        every = (mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks)))
        return next(c for c in every if mtmd.mtmd_input_chunk_get_type(c) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE)

    def _on_node(self, _tensor: Any, ask: bool, _user_data: Any) -> bool:
        """Serve as ggml's eval callback.

        With ``ask``, return whether ggml shall report after this node; without, whether it may continue.
        """
        if not ask:
            return not self._cancelled()
        self._nodes += 1
        return self._nodes % _NODES_PER_CHECK == 0


def _frames(image: Image | FramePair) -> tuple[Image, ...]:
    return (image.first, image.second) if isinstance(image, FramePair) else (image,)


def _pixels(frame: Image | None) -> Any:
    return None if frame is None else np.ascontiguousarray(frame).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
