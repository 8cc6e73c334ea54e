"""The engine ``alternating_llama``: ``llama`` that passes on every second token only, and says how long each one took.

A third-party engine: put this folder on PYTHONPATH and it is found by its entry point. What the last chunk says is
read by benchmark/streaming.py.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

from qwen3vl_ros.engines.base import Cancel, Chunk, Description, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine

SILENCE = "Say nothing."
"""The question whose answer is passed on at its end only."""


class AlternatingLlama:
    """Implements :class:`qwen3vl_ros.engines.base.Engine`; configured like ``llama``."""

    def __init__(self, **configuration: Any) -> None:
        self._llama = LlamaEngine(**configuration)

    def describe(self) -> Description:
        """That of ``llama``."""
        return dataclasses.replace(self._llama.describe(), engine="alternating_llama")

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """The chunks of ``llama``, without those of every second token; what the answer says is in the last one.

        It is a JSON list of the seconds from each token to the next, null where no text came of a token: the first
        number is that of token 1. Tokens 2, 4, 6... are passed on.
        """
        silent = request.messages[-1].content == (SILENCE,)
        seconds: list[float | None] = []
        last = 0.0
        for chunk in self._llama.generate(request, cancel):
            now, tokens = time.monotonic(), chunk.completion_tokens
            if chunk.finish_reason is not None:
                yield dataclasses.replace(chunk, text=json.dumps(seconds), reasoning="")
            elif not tokens:
                yield chunk
            elif tokens > len(seconds) + 1 or not last:  # the first one comes twice: as a number, and as text
                if last:
                    seconds += [None] * (tokens - len(seconds) - 2)
                    seconds.append(now - last if tokens == len(seconds) + 2 else None)
                last = now
                if not silent and tokens % 2 == 0:
                    yield dataclasses.replace(chunk, text=" ", reasoning="")

    def close(self) -> None:
        """Free the model."""
        self._llama.close()
