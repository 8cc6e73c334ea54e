"""Turns the text of the ``maix`` engine into chunks, and estimates its tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import Chunk, FinishReason, Options, Stage, Usage
from qwen3vl_ros.engines.maix.request import MaixPayload
from qwen3vl_ros.engines.maix_http.tokens import likely_tokens


class Answer:
    """The state of a running answer: its text, estimated tokens and times."""

    def __init__(self, payload: MaixPayload, options: Options, context: int | None, encodes_here: bool) -> None:
        """``context``: in tokens. ``encodes_here``: MaixPy reports the end of encoding, which a service does not."""
        self._payload = payload
        self._max_tokens = options.max_tokens
        self._context = context
        self._text = AnswerText(options.stop)
        self._encodes_here = encodes_here
        self._stage = Stage.PREFILL if payload.image is None else Stage.ENCODE
        self._pieces = 0
        self._estimate = 0.0
        self._started = time.monotonic()
        self._encode_time: float | None = None
        self._first_token_time: float | None = None

    def chunk(self, text: str = "", reasoning: str = "") -> Chunk:
        """Return a chunk with the current stage and count, and with new text."""
        return Chunk(self._stage, text, reasoning, self._tokens)

    def encoded(self) -> Iterator[Chunk]:
        """Enter the stage PREFILL: the image is encoded, or was handed to the service."""
        if self._stage is Stage.ENCODE:
            if self._encodes_here:
                self._encode_time = time.monotonic() - self._started
            self._stage = Stage.PREFILL
            yield self.chunk()

    def text(self, text: str) -> Chunk:
        """Count ``text`` and return its chunk."""
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
        self._stage = Stage.DECODE
        self._pieces += 1
        self._estimate += likely_tokens(text)
        return self.chunk(*self._text.feed(text.encode()))

    def complete(self) -> FinishReason | None:
        """Return the finish reason if a stop string or max_tokens was reached, else None."""
        if self._text.stopped:
            return "stop"
        return "length" if self._max_tokens is not None and self._tokens >= self._max_tokens else None

    @property
    def full(self) -> bool:
        """Whether the context is full, by estimate."""
        return self._context is not None and self._payload.prompt_tokens + self._tokens >= self._context

    @property
    def _tokens(self) -> int:
        return max(self._pieces, round(self._estimate))

    def last(self, finish: FinishReason) -> Chunk:
        """Return the last chunk."""
        answer, reasoning = self._text.finish()
        usage = Usage(
            prompt_tokens=self._payload.prompt_tokens,
            image_tokens=self._payload.image_tokens,
            completion_tokens=self._tokens,
            encode_time=self._encode_time,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        return Chunk(self._stage, answer, reasoning, self._tokens, finish, usage)
