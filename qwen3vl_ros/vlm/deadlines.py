"""Timers on one thread, for the deadlines of many questions and other callbacks."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from qwen3vl_ros import defect


class Deadline:
    """A time at which ``call`` is called, unless :meth:`forget` was called before."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def forget(self) -> None:
        """Drop the call, and what it refers to, such as images. Idempotent."""
        self.call = None


class Deadlines:
    """Calls callbacks that are due on its own thread, until it is closed.

    A ``threading.Timer`` for each question would make the accepting thread wait until a new thread is scheduled.
    """

    def __init__(self, log_error: Callable[[str], None]) -> None:
        self._log_error = log_error
        self._heap: list[tuple[float, int, Deadline]] = []
        self._numbers = itertools.count()  # order of deadlines at the same time
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
        self._thread.start()

    def add(self, when: float, call: Callable[[], None]) -> Deadline:
        """Call ``call``, which must return quickly, at ``when`` (time.monotonic() seconds)."""
        deadline = Deadline(when, call)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), deadline))
            if self._heap[0][2] is deadline:  # the thread's current wait would end too late
                self._changed.notify()
        return deadline

    def close(self) -> None:
        """End the thread; no callback is called after that."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        while (deadline := self._next()) is not None:
            call = deadline.call
            try:
                if call is not None:
                    call()
            except Exception as error:  # noqa: BLE001 one question's defect must not stop the others' deadlines
                self._log_error(defect(f"{type(error).__name__}: {error}"))

    def _next(self) -> Deadline | None:
        """Wait until the next one is due and remove it; None when closed."""
        with self._changed:
            while not self._closed:
                while self._heap and self._heap[0][2].call is None:
                    heapq.heappop(self._heap)
                if not self._heap:
                    self._changed.wait()
                elif (left := self._heap[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                else:
                    return heapq.heappop(self._heap)[2]
            return None
