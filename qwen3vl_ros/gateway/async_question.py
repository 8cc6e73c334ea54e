"""A question as asyncio sees it: what ROS's thread brings becomes an event, a client that leaves ends the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

import anyio
from starlette.types import Receive

from qwen3vl_ros.client.answer_future import AnswerFuture

_LOOK = 1.0
"""Seconds after which a question is looked at although nothing came: its time may be over."""


class ClientGone(Exception):
    """Whoever asked has closed the connection."""


class Following:
    """Waits for news of a question without a thread; leaving the ``with`` block cancels an unfinished one."""

    def __init__(self, question: AnswerFuture, receive: Receive) -> None:
        """``receive``: of the ASGI request, whose body was read."""
        self.question = question
        self.gone = False
        self._receive = receive
        self._news = asyncio.Event()
        self._told = False
        self._loop = asyncio.get_running_loop()
        self._listener = asyncio.create_task(self._listen())
        question.on_change(self._tell)

    async def news(self, keep_alive: float) -> AsyncIterator[bool]:
        """True whenever something may have come, False after ``keep_alive`` seconds without; ends with the question.

        Raises :class:`ClientGone`.
        """
        last = self._loop.time()
        self._news.set()  # something may have come before
        while True:
            with anyio.move_on_after(_LOOK):
                await self._news.wait()
            came = self._news.is_set()
            self._news.clear()
            if self.gone:
                raise ClientGone
            done = self.question.done()
            if came or done or self._loop.time() - last >= keep_alive:
                last = self._loop.time()
                yield came or done
            if done:
                return

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.question.on_change(None)
        self._listener.cancel()
        if not self.question.done():
            # Sending the request may wait for a goal that is being sent: not on the loop's thread.
            self._loop.run_in_executor(None, self.question.cancel)

    def _tell(self) -> None:
        """On ROS's thread. The loop runs as long as anybody follows a question.

        Waking the loop costs both threads more than a token does: it is done once for all that comes until it wakes.
        """
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._told = False  # first: what comes from now on may not be seen by who is woken
        self._news.set()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._news.set()
