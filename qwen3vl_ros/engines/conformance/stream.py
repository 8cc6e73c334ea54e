"""Answers that a test advances chunk by chunk, and helpers that read chunks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from qwen3vl_ros.engines.base import Cancel, Chunk, Engine, EngineError, Request

_END = object()


class Answer:
    """Runs ``engine.generate`` on its own thread, as the worker does, and advances by one chunk when told.

    So "after the second chunk" is the same moment for the fastest engine. Use it as a context manager, which closes the
    stream at the end. ``chunks`` has the chunks so far.
    """

    def __init__(self, engine: Engine, request: Request, patience: float) -> None:
        self.engine = engine
        self.cancel = Cancel()
        self.chunks: list[Chunk] = []
        self.ended = False
        self._patience = patience
        self._steps: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: close
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a chunk, an exception or _END
        threading.Thread(target=self._run, args=(engine, request), name="conformance-answer", daemon=True).start()

    def _run(self, engine: Engine, request: Request) -> None:
        stream: Iterator[Chunk] | None = None
        try:
            while self._steps.get():
                if stream is None:
                    stream = engine.generate(request, self.cancel)
                self._results.put(next(stream))
            result: Any = _END
            if isinstance(stream, Generator):
                stream.close()
        except StopIteration:
            result = _END
        except Exception as error:  # noqa: BLE001 handed to the test
            result = error
        # Free the stream on this thread, before the test checks for leftovers.
        del stream, engine, request
        self._results.put(result)

    def begin_step(self) -> None:
        """Let the engine compute its next chunk, which :meth:`end_step` returns."""
        self._steps.put(True)

    def end_step(self) -> Chunk | None:
        """Return the chunk that :meth:`begin_step` requested, None at the end; raise what the engine raised."""
        try:
            result = self._results.get(timeout=self._patience)
        except queue.Empty:
            self.ended = True
            pytest.fail(
                f"the engine did nothing for {self._patience:g} s, after {outline(self.chunks)}"
                + (", although it was cancelled" if self.cancel.is_set() else ""),
            )
        if isinstance(result, Chunk):
            self.chunks.append(result)
            return result
        self.ended = True
        if isinstance(result, Exception):
            raise result
        assert result is _END, f"generate() yields {type(result).__name__}, not Chunk"
        return None

    def step(self) -> Chunk | None:
        """Return the next chunk, None at the end; raise what the engine raised."""
        self.begin_step()
        return self.end_step()

    def until_text(self, count: int) -> None:
        """Advance until there are ``count`` chunks with text."""
        while sum(map(has_text, self.chunks)) < count:
            assert self.step() is not None, f"the answer ended after {outline(self.chunks)}"

    def rest(self) -> list[Chunk]:
        """Advance to the end and return all chunks of the answer."""
        while self.step() is not None:
            pass
        assert self.chunks and self.chunks[-1].finish_reason is not None, (
            f"an answer ends with a chunk that has a finish reason, not after {outline(self.chunks)}"
        )
        return self.chunks

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        error = self._close()
        if kind is None and error is not _END:
            pytest.fail(f"closing the stream of generate() early, after {outline(self.chunks)}, ended with {error!r}")

    def close(self) -> None:
        """Close the stream, as the end of the context does."""
        self.__exit__(None)

    def _close(self) -> object:
        if self.ended:
            return _END
        self.ended = True
        self._steps.put(False)
        try:
            return self._results.get(timeout=self._patience)
        except queue.Empty:
            return EngineError(f"closing the stream took more than {self._patience:g} s")


def text_of(chunks: list[Chunk]) -> str:
    """Return the concatenated answer text of ``chunks``."""
    return "".join(chunk.text for chunk in chunks)


def has_text(chunk: Chunk) -> bool:
    """Return whether ``chunk`` has text or reasoning."""
    return bool(chunk.text or chunk.reasoning)


def outline(chunks: list[Chunk]) -> str:
    """Return a summary of a stream for messages."""
    if not chunks:
        return "no chunk"
    texts, last = sum(map(has_text, chunks)), chunks[-1]
    return f"{len(chunks)} chunks, {texts} of them with text, the last one {last}"
