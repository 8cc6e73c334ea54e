"""Which thread takes feedback from the middleware: the link's own, or in its place the one that waits for an answer.

A message that one thread takes for another wakes both of them, which beside a large model, that leaves the caches cold,
costs more than most of what is done with it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_AWAY = 0.25
"""Seconds that a reader may be busy with what it has read until the link's thread takes its place."""

_PROMPT = 0.01
"""Seconds after which a reader comes back late: more than one message may wait for it."""


class Attendance:
    """Has ``take`` called by one thread at a time. Any thread may call any method.

    ``take(seconds)`` brings a message and returns True, or False after those seconds or because of ``wake()``, which
    ends it, or else the next one. ``crowded``: whether more questions are open than one; then the link's thread takes
    for all of them.
    """

    def __init__(self, take: Callable[[float], bool], wake: Callable[[], None], crowded: Callable[[], bool]) -> None:
        self._take = take
        self._wake = wake
        self._crowded = crowded
        self._taking = threading.Lock()
        self._reader_until = -math.inf
        self._last_call = object()
        self._called = threading.Event()

    def attend(self, timeout: float) -> None:
        """The link's thread: take a message, or leave that to a reader; for ``timeout`` seconds at most."""
        reader_has = self._reader_has()
        if reader_has <= 0 and self._taking.acquire(blocking=False):
            try:
                if self._reader_has() <= 0:
                    # What wakes may have woken a reader.
                    self._take(0.0 if self._called.is_set() else timeout)
                    self._called.clear()
                    return
            finally:
                self._taking.release()
        self._called.wait(min(timeout, reader_has if 0 < reader_has < _AWAY else _AWAY))
        self._called.clear()

    def read(self, enough: Callable[[], bool], until: float) -> bool:
        """A reader: take messages until ``enough()`` or ``until`` (time.monotonic() seconds), which is soon.

        False, at once, where that is for the link's thread.
        """
        if self._crowded():
            return False
        last_call = self._last_call
        late = time.monotonic() > self._reader_until - _AWAY + _PROMPT
        # No flag that somebody has to take back: Ctrl-C may end this anywhere.
        self._reader_until = until
        if self._taking.locked():
            self._wake()
        with self._taking:
            while not enough() and not self._crowded() and (left := until - time.monotonic()) > 0:
                taken = self._take(left)
                while taken and late:
                    taken = self._take(0.0)
        self._reader_until = time.monotonic() + _AWAY
        if not enough() or self._last_call is not last_call:
            self._expect_nobody()
        return True

    def call(self) -> None:
        """Have whoever attends look up: there is something to do, or enough; no reader that leaves is waited for."""
        self._last_call = object()
        self._expect_nobody()
        self._wake()

    def wait_left(self, timeout: float) -> bool:
        """Wait until nobody takes; False when somebody still does after ``timeout`` seconds."""
        if not self._taking.acquire(timeout=timeout):
            return False
        self._taking.release()
        return True

    def _expect_nobody(self) -> None:
        self._reader_until = -math.inf
        self._called.set()

    def _reader_has(self) -> float:
        """Seconds for which the link's thread leaves it to a reader; 0 or less when there is none."""
        return 0.0 if self._crowded() else self._reader_until - time.monotonic()
