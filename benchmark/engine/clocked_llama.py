"""The engine ``clocked_llama``: ``llama`` whose tokens say when they left, in place of their text.

A third-party engine: put this folder on PYTHONPATH and it is found by its entry point. CLOCK_MONOTONIC is one clock for
all processes of a machine, so whoever reads a token knows how long it was on its way. benchmark/streaming.py does.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

from qwen3vl_ros.engines.base import Cancel, Chunk, Description, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine

EVERY_SECOND = "Pass on every second token."
NONE = "Pass on no token."
"""Questions that are done as they say; of the answer to any other one every token is passed on."""


class ClockedLlama:
    """Implements :class:`qwen3vl_ros.engines.base.Engine`; configured like ``llama``."""

    def __init__(self, **configuration: Any) -> None:
        self._llama = LlamaEngine(**configuration)

    def describe(self) -> Description:
        """That of ``llama``."""
        return dataclasses.replace(self._llama.describe(), engine="clocked_llama")

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """The chunks of ``llama``: as a token's text, time.monotonic_ns() when it is yielded and a space.

        The last chunk's text is a JSON list of the seconds from each token to the next, null where no text came of a
        token: the first number is that of token 1. Of every second token, 2, 4, 6... are passed on.
        """
        question = request.messages[-1].content[-1]
        seconds: list[float | None] = []
        last = 0
        for chunk in self._llama.generate(request, cancel):
            now, tokens = time.monotonic_ns(), chunk.completion_tokens
            if chunk.finish_reason is not None:
                yield dataclasses.replace(chunk, text=json.dumps(seconds), reasoning="")
            elif not tokens:
                yield chunk
            elif tokens > len(seconds) + 1 or not last:  # the first one comes twice: as a number, and as text
                if last:
                    seconds += [None] * (tokens - len(seconds) - 2)
                    seconds.append((now - last) / 1e9 if tokens == len(seconds) + 2 else None)
                last = now
                if question != NONE and (question != EVERY_SECOND or tokens % 2 == 0):
                    yield dataclasses.replace(chunk, text=f"{time.monotonic_ns()} ", reasoning="")

    def close(self) -> None:
        """Free the model."""
        self._llama.close()
