"""Which thread takes feedback from the middleware: the link's own, or in its place the one that waits for an answer.

A message that one thread takes for another wakes both of them, and beside a large model, which leaves the caches cold,
each wake-up takes a tenth of a millisecond from it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_AWAY = 0.25
"""Seconds that a reader may be busy with what it has read until the link's thread takes its place."""


class Attendance:
    """Has ``take`` called by one thread at a time. Any thread may call any method.

    ``take(seconds)`` brings a message and returns after it, after those seconds, or when ``wake`` is called, then or
    before. ``crowded``: whether more questions are open than one; then nobody but the link's thread takes, since a
    reader may leave at any moment.
    """

    def __init__(self, take: Callable[[float], None], wake: Callable[[], None], crowded: Callable[[], bool]) -> None:
        self._take = take
        self._wake = wake
        self._crowded = crowded
        self._taking = threading.Lock()
        self._reading = threading.Lock()
        self._left = -math.inf
        self._called = threading.Event()

    def attend(self, timeout: float) -> None:
        """The link's thread: take a message, or leave that to a reader; for ``timeout`` seconds at most."""
        comes_back = not self._crowded() and time.monotonic() - self._left < _AWAY
        if comes_back or self._reading.locked() or not self._taking.acquire(blocking=False):
            self._called.wait(min(timeout, _AWAY))
            self._called.clear()
            return
        try:
            self._take(timeout)
        finally:
            self._taking.release()

    def read(self, enough: Callable[[], bool], until: float) -> bool:
        """A reader: take messages until ``enough()`` or ``until`` (time.monotonic() seconds); False = others do.

        Python sees no signal, such as Ctrl-C, before it returns.
        """
        if self._crowded() or not self._reading.acquire(blocking=False):
            return False
        try:
            if not self._taking.acquire(blocking=False):
                self._wake()
                self._taking.acquire()
            try:
                while not enough() and not self._crowded() and (left := until - time.monotonic()) > 0:
                    self._take(left)
            finally:
                self._taking.release()
        finally:
            self._left = time.monotonic()
            comes_back = enough() and not self._crowded()
            if not comes_back:
                self._left = -math.inf
            self._reading.release()
        if not comes_back:
            self._called.set()
        return True

    def call(self) -> None:
        """Have whoever attends look up: there is something to do, or nothing to wait for any more.

        A reader that is away is not waited for.
        """
        self._left = -math.inf
        self._called.set()
        self._wake()
