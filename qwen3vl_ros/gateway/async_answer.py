"""The asyncio side of an answer: its updates arrive on ROS's thread, and a client that disconnects cancels it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

import anyio
from starlette.types import Receive

from qwen3vl_ros.client.answer_future import AnswerFuture

_POLL_PERIOD = 1.0
"""Seconds without an update after which the question is polled: its deadline may have passed."""


class ClientGone(Exception):
    """The client has closed the connection."""


class AsyncAnswer:
    """Awaits the updates of a question without a thread; leaving the ``with`` block cancels an unfinished one."""

    def __init__(self, question: AnswerFuture, receive: Receive) -> None:
        """Start to listen.

        Args:
            question: The question, which may have been answered already.
            receive: The ASGI request's channel, after its body was read.
        """
        self.question = question
        self.gone = False
        self._receive = receive
        self._updated = asyncio.Event()
        self._wake_scheduled = False
        self._loop = asyncio.get_running_loop()
        self._listener = asyncio.create_task(self._listen())
        question.on_change(self._on_change)

    async def updates(self, keep_alive: float) -> AsyncIterator[bool]:
        """Yield True after an update, False after ``keep_alive`` seconds without one; end with the question.

        Raises:
            ClientGone: The client has closed the connection.
        """
        last = self._loop.time()
        self._updated.set()  # there may have been updates before
        while True:
            with anyio.move_on_after(_POLL_PERIOD):
                await self._updated.wait()
            updated = self._updated.is_set()
            self._updated.clear()
            if self.gone:
                raise ClientGone
            done = self.question.done()
            if updated or done or self._loop.time() - last >= keep_alive:
                last = self._loop.time()
                yield updated or done
            if done:
                return

    def __enter__(self) -> AsyncAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.question.on_change(None)
        self._listener.cancel()
        if not self.question.done():
            # Not on the loop's thread, since sending the request may wait for a goal that is being sent.
            self._loop.run_in_executor(None, self.question.cancel)

    def _on_change(self) -> None:
        """Schedule a wake-up of the loop, on ROS's thread; the loop runs as long as there is an AsyncAnswer.

        Waking the loop costs both threads more than a token does: updates until it wakes share one wake-up.
        """
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False  # Reset first: an update arriving after this point must schedule another wake-up.
        self._updated.set()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._updated.set()
