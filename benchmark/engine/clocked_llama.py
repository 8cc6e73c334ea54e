"""The engine ``clocked_llama``: ``llama`` whose every chunk says when it left, in place of its text.

A third-party engine: put this folder on PYTHONPATH and it is found by its entry point. The reader of the feedback takes
the difference to its own clock; CLOCK_MONOTONIC is one clock for all processes of a machine.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from qwen3vl_ros.engines.base import Cancel, Chunk, Description, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine


class ClockedLlama:
    """Implements :class:`qwen3vl_ros.engines.base.Engine`; configured like ``llama``."""

    def __init__(self, **configuration: Any) -> None:
        self._llama = LlamaEngine(**configuration)

    def describe(self) -> Description:
        """That of ``llama``."""
        return dataclasses.replace(self._llama.describe(), engine="clocked_llama")

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """The chunks of ``llama``: as text, time.monotonic_ns() when the chunk is yielded and a space."""
        for chunk in self._llama.generate(request, cancel):
            text = f"{time.monotonic_ns()} " if chunk.finish_reason is None else ""
            yield dataclasses.replace(chunk, text=text, reasoning="")

    def close(self) -> None:
        """Free the model."""
        self._llama.close()
