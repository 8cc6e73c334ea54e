"""Sends an answer as server-sent events: progress while it waits, text as it is generated, and its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any, Final

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.answer_future import Phase
from qwen3vl_ros.client.exceptions import InternalError, VlmError
from qwen3vl_ros.engines.text_buffer import TextBuffer
from qwen3vl_ros.gateway.async_answer import AsyncAnswer, ClientGone
from qwen3vl_ros.gateway.chat_request import ChatRequest
from qwen3vl_ros.gateway.chat_response import (
    STAGES,
    ChatResponse,
    JsonText,
    answer_of,
    call_deltas,
    comment,
    event,
    stage_of,
)
from qwen3vl_ros.gateway.errors import of_vlm
from qwen3vl_ros.gateway.metrics import Metrics
from qwen3vl_ros.gateway.tool_calls import Piece
from qwen3vl_ros.gateway.tool_request import calls_of

_KEEP_ALIVE: Final = 10.0
"""Seconds without an event after which a comment is sent: proxies close silent connections."""

_CERTAIN: Final = 1.0
"""Seconds after which a stream begins, with status 200, although the question may still be refused."""

_SLOW_READER: Final = 30.0
"""Seconds that a client may take to read a piece of a stream before it counts as disconnected."""


async def begun(async_answer: AsyncAnswer) -> None:
    """Wait until the node has queued or started the question, so that a refusal has its own HTTP status.

    Raises:
        VlmError: The question has failed already.
    """
    question = async_answer.question
    async for updated in async_answer.updates(_CERTAIN):
        if question.stage or question.queue_position or (not updated and question.phase is Phase.ACCEPTED):
            break
    if question.done():
        answer_of(question)


class EventStream(Response):
    """Sends the events of a question; closes ``held`` at any end, which cancels an unfinished question."""

    media_type = "text/event-stream"

    def __init__(
        self,
        async_answer: AsyncAnswer,
        response: ChatResponse,
        chat_request: ChatRequest,
        metrics: Metrics,
        held: ExitStack,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._async_answer = async_answer
        self._response = response
        self._usage = chat_request.stream_options.include_usage
        self._json = JsonText() if chat_request.response_schema is not None else None
        self._calls = calls_of(chat_request)
        self._told = 0
        self._metrics = metrics
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send all events."""
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async with aclosing(self._events()) as events:
                    async for data in events:
                        with anyio.fail_after(_SLOW_READER):
                            await send({"type": "http.response.body", "body": data, "more_body": True})
            except (ClientGone, TimeoutError, OSError):
                scope["state"]["gone"] = True
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        question = self._async_answer.question
        shown, sent, n_text, n_reasoning = (0, 0), TextBuffer(), 0, 0
        yield self._event({"role": "assistant", "content": ""})
        async for updated in self._async_answer.updates(_KEEP_ALIVE):
            # Read the text before the stage, which is then that of the text or a later one.
            done, text, thought = question.done(), question.text_since(n_text), question.reasoning_since(n_reasoning)
            stage = (question.stage, question.queue_position)
            if not done and stage != shown:
                shown = stage
                if stage[0] == 0:
                    yield comment(f"queued, position {stage[1]}")
                yield self._event({}, qwen3vl_ros=stage_of(*stage))
            elif not updated:
                yield comment(STAGES[stage[0]])
            n_text += len(text)
            n_reasoning += len(thought)
            if thought:
                yield self._event({"reasoning_content": thought})
            if self._json is not None:
                text = self._json.streamable(text)
            if self._calls is not None and not done:
                for data in self._pieces(self._calls.feed(text)):
                    yield data
            elif text and not done:
                sent.append(text)
                yield self._event({"content": text})
        for data in self._end(str(sent)):
            yield data
        yield b"data: [DONE]\n\n"

    def _end(self, text: str) -> list[bytes]:
        """Return the last events, after ``text`` was sent."""
        try:
            answer = answer_of(self._async_answer.question)
            whole = answer.text if self._json is None else self._json.final(answer)
            pieces = self._calls.finish(whole) if self._calls is not None else None
            if not whole.startswith(text) or (self._calls is not None and pieces is None):
                raise InternalError("the node's final text is not what it streamed. Please report it.")
        except VlmError as error:
            failure = of_vlm(error)
            self._metrics.failed(failure.code)
            return [event(failure.body())]
        return self._success(answer, [whole[len(text) :]] if pieces is None else pieces)

    def _pieces(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        """Yield the events of text and calls, in their order."""
        for piece in pieces:
            if isinstance(piece, str):
                yield self._event({"content": piece})
                continue
            for delta in call_deltas(piece, self._told):
                yield self._event(delta)
            self._told += 1

    def _success(self, answer: Answer, rest: Sequence[Piece]) -> list[bytes]:
        self._metrics.answered(answer)
        events = [*self._pieces([piece for piece in rest if piece])]
        reason = answer.finish_reason or "stop"
        if self._calls is not None:
            reason = self._calls.finish_reason(reason)
            answer = replace(answer, notes=(*answer.notes, *self._calls.notes))
        if self._usage:
            return [*events, self._event({}, reason), event(self._response.usage_chunk(answer))]
        return [*events, self._event({}, reason, qwen3vl_ros=self._response.extension_of(answer))]

    def _event(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        if self._usage:
            more = {"usage": None, **more}
        return event(self._response.chunk(delta, finish_reason, **more))
