"""An event loop on its own thread, and a parser of server-sent events, for engines that talk to a server."""

from __future__ import annotations

import asyncio
import codecs
import queue
import re
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from qwen3vl_ros.engines.base import Cancel

Item = TypeVar("Item")

_MAX_EVENT = 16_000_000
"""Most bytes of one event; no language model sends more."""

BYTE_ORDER_MARK = codecs.BOM_UTF8
"""What some servers put before the text of a response."""

_LINE_END = re.compile(rb"\r\n?|\n")


class EventLoop:
    """Runs coroutines for threads that block; a coroutine can be cancelled at any ``await``."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Item]) -> Item:
        """Run ``coroutine`` and wait for it; return or raise what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def iterate(self, source: AsyncIterator[Item], cancel: Cancel) -> Iterator[Item]:
        """Yield the items of ``source`` as they arrive; raises what it raises.

        When ``cancel`` is set, or this iterator is closed, ``asyncio.CancelledError`` is raised in ``source`` where it
        waits. This iterator waits for its cleanup (closing a connection, telling a server) and still yields its items.
        """
        items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()  # None: it has ended
        tasks: list[asyncio.Task[None]] = []

        async def pump() -> None:
            async for item in source:
                items.put(item)

        stopping = False

        def cancel_once() -> None:
            nonlocal stopping
            if not stopping:  # a second cancel would interrupt the source's cleanup
                stopping = True
                tasks[0].cancel()

        def start() -> None:
            tasks.append(self._loop.create_task(pump()))
            tasks[0].add_done_callback(lambda _: items.put(None))
            if cancel.is_set():  # already: the source does not even start
                cancel_once()

        def stop() -> None:
            # Runs after start() on any calling thread: the loop runs callbacks in the order they were scheduled.
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
        """Cancel all running coroutines and end the thread. Idempotent."""
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
    """Yield the ``data`` of each server-sent event in a byte stream that is cut anywhere, even inside a character.

    Comments, other fields and a byte order mark at the start are skipped; the last event counts even if no blank line
    follows it. Bytes are not decoded, because servers split characters between events.
    https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

    Raises:
        ValueError: An event has more than 16 MB.
    """
    data: list[bytes] = []
    size = 0  # plus one for each line, since empty ones take memory, too
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
    """Yield lines without their LF, CR LF or CR; the last one may lack an end."""
    line = bytearray()  # appended in place: a server may send single bytes
    begun = after_cr = False
    async for piece in pieces:
        if not piece:
            continue
        first, *others = _LINE_END.split(piece.removeprefix(b"\n") if after_cr else piece)
        after_cr = piece.endswith(b"\r")
        line += first
        for other in others:
            yield bytes(line if begun else line.removeprefix(BYTE_ORDER_MARK))
            begun, line = True, bytearray(other)
        if len(line) > _MAX_EVENT:
            raise ValueError(f"an event of more than {_MAX_EVENT // 10**6} MB")
    if line:
        yield bytes(line if begun else line.removeprefix(BYTE_ORDER_MARK))
