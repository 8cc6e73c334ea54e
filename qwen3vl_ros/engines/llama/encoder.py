"""Encodes images on a thread of its own, while answers are read and written; keeps recent embeddings."""

from __future__ import annotations

import collections
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qwen3vl_ros.engines.base import Image
from qwen3vl_ros.engines.clips import FramePair
from qwen3vl_ros.engines.llama.context import CancelledError, ImageSpan
from qwen3vl_ros.engines.llama.vision import Embedding, VisionTower


@dataclass(eq=False)
class Encoding:
    """The images of one answer that are to be encoded, and what came of it.

    ``embeddings``: of the images encoded so far. ``seconds`` that this took. ``error``: why it ended early. ``done``:
    the encoder changes nothing any more.
    """

    images: dict[ImageSpan, Image | FramePair]
    cancelled: Callable[[], bool]
    embeddings: dict[ImageSpan, Embedding] = field(default_factory=dict)
    seconds: float = 0.0
    error: Exception | None = None
    done: bool = False


class ImageEncoder:
    """The encoder's thread and its cache. Encodes one image at a time, those of the first answer first."""

    def __init__(self, vision: VisionTower, cache_bytes: int, on_done: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            vision: Runs the encoder; nothing else may have it encode.
            cache_bytes: Limit of the cached embeddings; the newest always stays.
            on_done: Called on the encoder's thread whenever an :class:`Encoding` is done.
        """
        self._vision = vision
        self._cache: collections.OrderedDict[str, Embedding] = collections.OrderedDict()
        self._cache_bytes = cache_bytes
        self._cache_lock = threading.Lock()
        self._on_done = on_done
        self._waiting: queue.SimpleQueue[Encoding | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="llama-encoder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after what is submitted: cancel it first. Idempotent."""
        self._waiting.put(None)
        self._thread.join()

    def submit(self, encoding: Encoding) -> None:
        """Encode the images of ``encoding``; returns at once."""
        self._waiting.put(encoding)

    def cached(self, span: ImageSpan) -> Embedding | None:
        """Return the cached embedding of an image, None for a new or evicted one."""
        with self._cache_lock:
            embedding = self._cache.get(span.key)
            if embedding is not None:
                self._cache.move_to_end(span.key)
            return embedding

    def _keep(self, span: ImageSpan, embedding: Embedding) -> None:
        with self._cache_lock:
            self._cache[span.key] = embedding
            while len(self._cache) > 1 and sum(e.nbytes for e in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)

    def _run(self) -> None:
        while (encoding := self._waiting.get()) is not None:
            try:
                for span, image in encoding.images.items():
                    self._encode(encoding, span, image)
            except Exception as error:  # noqa: BLE001 ends one answer, not the thread
                encoding.error = error
            encoding.images = {}  # the pixels may be large
            encoding.done = True
            self._on_done()

    def _encode(self, encoding: Encoding, span: ImageSpan, image: Image | FramePair) -> None:
        if encoding.cancelled():
            raise CancelledError
        embedding = self.cached(span)  # another answer may have been about the same image
        if embedding is None:
            begin = time.monotonic()
            embedding = self._vision.encode(span, image, encoding.cancelled)
            encoding.seconds += time.monotonic() - begin
            self._keep(span, embedding)
        encoding.embeddings[span] = embedding
