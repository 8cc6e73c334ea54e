"""Estimates the time to the first token about images of any size, from what earlier answers of one engine took."""

from __future__ import annotations

import collections
import hashlib
import itertools
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwen3vl_ros.engines.base import Image, Usage

_TYPICAL_CURVATURE = 1 / 550
"""Curvature of the encoder's time, seconds ~ n + n^2 * curvature for n tokens, until images of two sizes were measured:
Qwen3-VL-2B in llama.cpp on two cores (80 tokens 1.2 s, 300 tokens 5.9 s, 920 tokens 32 s). The square is attention."""

_MOST_CURVATURE = 1 / 100

_APART = 1.5
"""Least ratio of two sizes that say something about the curvature."""

_RECENT = 8
"""Measurements that an estimate is the median of: old enough to be robust, new enough to follow the machine's load."""

_SIZES = 12
_PER_SIZE = 5
"""Sizes of images whose times are kept for the curvature, and times of each."""

_LEAST_PREFILL = 16
"""Tokens of a prompt below which the time of its prefill is not one of its tokens."""

_REMEMBERED = 16
"""Images that count as known to the engine."""


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """The images of one question. ``new``: tokens of each that the engine has to encode. ``digests``: of all."""

    new: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()


class ImageCost:
    """The measured cost of one engine and model. Usable from any thread.

    Every estimate follows the median of the newest measurements, so that a single slow answer changes nothing and a
    machine that has become busy soon does. Images that the engine knows already cost it nothing, and say nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_size: collections.OrderedDict[int, collections.deque[float]] = collections.OrderedDict()
        self._encodings: collections.deque[tuple[int, float]] = collections.deque(maxlen=_RECENT)
        self._prefill: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._decode: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._lengths: collections.deque[int] = collections.deque(maxlen=2 * _RECENT)
        self._seen: collections.OrderedDict[bytes, None] = collections.OrderedDict()
        self._keeps_images = True

    def load_of(self, images: Sequence[Image], multiple: int) -> ImageLoad:
        """Return which of these images the engine has to encode.

        Args:
            images: Fitted, uint8 [height, width, 3].
            multiple: Side of a token in pixels.
        """
        digests = tuple(map(_digest, images))
        with self._lock:
            new = tuple(
                image.shape[0] * image.shape[1] // multiple**2
                for image, digest in zip(images, digests, strict=True)
                if digest not in self._seen or not self._keeps_images
            )
        return ImageLoad(new, digests)

    def observe(self, load: ImageLoad, usage: Usage) -> None:
        """Learn from an answer.

        Args:
            load: What :meth:`load_of` returned for its images.
            usage: Of the answer; one that did not reach its first token says nothing.
        """
        if usage.first_token_time is None:
            return
        with self._lock:
            for digest in load.digests:
                self._seen[digest] = None
                self._seen.move_to_end(digest)
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            encode = usage.encode_time
            if load.digests and encode is None:  # a server, which tells no more than the first token's time
                self._keeps_images = False
                if load.new:
                    self._add_encoding(load.new, usage.first_token_time)
            elif encode is not None:
                if load.new and encode > 0:
                    self._add_encoding(load.new, encode)
                elif load.digests:
                    self._keeps_images = encode == 0
                tokens = usage.prompt_tokens - usage.cached_tokens
                if tokens >= _LEAST_PREFILL:
                    self._prefill.append(max(0.0, usage.first_token_time - encode) / tokens)
            if usage.completion_tokens > 1 and usage.total_time is not None:
                seconds = max(0.0, usage.total_time - usage.first_token_time)
                self._decode.append(seconds / (usage.completion_tokens - 1))
                self._lengths.append(usage.completion_tokens)

    def _add_encoding(self, sizes: Sequence[int], seconds: float) -> None:
        """Record images that took so long together; those of a question usually have one size."""
        size, each = max(1, round(sum(sizes) / len(sizes))), seconds / len(sizes)
        self._encodings.append((size, each))
        self._by_size.setdefault(size, collections.deque(maxlen=_PER_SIZE)).append(each)
        self._by_size.move_to_end(size)
        while len(self._by_size) > _SIZES:
            self._by_size.popitem(last=False)

    def first_token_time(self, new: Sequence[int], text_tokens: int) -> float | None:
        """Return the expected seconds from the request to the first token; None before an image was measured.

        Args:
            new: Tokens of each image that the engine has to encode.
            text_tokens: Of the rest of the prompt, about.
        """
        with self._lock:
            if not self._encodings:
                return None
            curvature = self._curvature()
            scale = statistics.median(seconds / _work(size, curvature) for size, seconds in self._encodings)
            prefill = statistics.median(self._prefill) if self._prefill else 0.0
        return scale * sum(_work(size, curvature) for size in new) + prefill * (sum(new) + text_tokens)

    def answer_time(self, max_tokens: int | None) -> float:
        """Return the seconds that a rather long answer takes after its first token; 0.0 before one was measured.

        That is one as long as the longest quarter of the recent ones begins, and no longer than ``max_tokens``.
        """
        with self._lock:
            if not self._decode:
                return 0.0
            length = sorted(self._lengths)[len(self._lengths) * 3 // 4]
            return statistics.median(self._decode) * (length if max_tokens is None else min(length, max_tokens))

    def _curvature(self) -> float:
        """Return the curvature: the median over all pairs of sizes that are far enough apart (Theil-Sen)."""
        points = [(size, statistics.median(times) / size) for size, times in self._by_size.items()]
        pairs = [(low, high) for low, high in itertools.combinations(sorted(points), 2) if high[0] >= _APART * low[0]]
        if not pairs:
            return _TYPICAL_CURVATURE
        slope = statistics.median((high[1] - low[1]) / (high[0] - low[0]) for low, high in pairs)
        base = statistics.median(per_token - slope * size for size, per_token in points)
        if slope <= 0:
            return 0.0
        return _MOST_CURVATURE if base <= slope / _MOST_CURVATURE else slope / base


def _digest(image: Image) -> bytes:
    shape = repr(image.shape).encode()
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, person=shape[:16]).digest()


def _work(size: int, curvature: float) -> float:
    return size + curvature * size**2
