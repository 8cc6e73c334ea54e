"""For engines that talk to a server: an event loop on a thread of its own, and server-sent events."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from qwen3vl_ros.engines.base import Cancel

Item = TypeVar("Item")

_MAX_EVENT = 16_000_000
"""Bytes of one event, beyond which the sender is not a language model."""


class EventLoop:
    """Runs coroutines for threads that block. An answer can be cancelled at any ``await`` it is at."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Item]) -> Item:
        """What ``coroutine`` returns or raises, waited for."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def iterate(self, source: AsyncIterator[Item], cancel: Cancel) -> Iterator[Item]:
        """The items of ``source`` as they come; raises what it raises.

        When ``cancel`` is set, or this iterator is closed, ``source`` meets ``asyncio.CancelledError`` where it waits.
        What it does about that (closing a connection, telling a server) is waited for, and its items still come.
        """
        items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()  # None: it has ended
        tasks: list[asyncio.Task[None]] = []

        async def pump() -> None:
            async for item in source:
                items.put(item)

        stopping = False

        def cancel_once() -> None:
            nonlocal stopping
            if not stopping:  # a second time would interrupt what the source does about the first
                stopping = True
                tasks[0].cancel()

        def start() -> None:
            tasks.append(self._loop.create_task(pump()))
            tasks[0].add_done_callback(lambda _: items.put(None))
            if cancel.is_set():  # already: then the source does not even begin
                cancel_once()

        def stop() -> None:
            # After start(), whoever calls this: a loop runs what it is given in order.
            self._loop.call_soon_threadsafe(cancel_once)

        self._loop.call_soon_threadsafe(start)
        ended = False
        try:
            with cancel.calling(stop):
                while (item := items.get()) is not None:
                    yield item
                ended = True
        finally:
            if not ended:
                stop()
                while items.get() is not None:
                    pass
        if not tasks[0].cancelled() and (error := tasks[0].exception()) is not None:
            raise error

    def close(self) -> None:
        """Cancel what still runs and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def event_data(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The ``data`` of each server-sent event in a byte stream that is cut anywhere, even inside a character.

    Comments and other fields are skipped; the last event counts even when no blank line follows it. Bytes are not
    decoded: servers cut characters between events. Raises ValueError when an event grows beyond 16 MB.
    https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
    """
    data: list[bytes] = []
    size = 0  # each line counts one more: empty ones take memory, too
    async for line in _lines(pieces):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
            size += len(data[-1]) + 1
        elif not line and data:
            yield b"\n".join(data)
            data, size = [], 0
        if size > _MAX_EVENT:
            raise ValueError(f"an event of more than {_MAX_EVENT // 10**6} MB")
    if data:
        yield b"\n".join(data)


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines that end in LF or CR LF, without these; a last one without an end counts."""
    line = bytearray()  # appended to in place: a line may come a byte at a time
    async for piece in pieces:
        first, *others = piece.split(b"\n")
        line += first
        for other in others:
            yield bytes(line.removesuffix(b"\r"))
            line = bytearray(other)
        if len(line) > _MAX_EVENT:
            raise ValueError(f"an event of more than {_MAX_EVENT // 10**6} MB")
    if line:
        yield bytes(line.removesuffix(b"\r"))
