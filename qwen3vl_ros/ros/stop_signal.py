"""SIGINT and SIGTERM, waited for by a main thread that does nothing else."""

from __future__ import annotations

import os
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FAILED = 0  # no signal has this number


class StopSignal:
    """The end of a process, from outside or from one of its threads.

    The kernel may give a signal to any thread. Python runs handlers on the main thread, which it does not wake for
    that: waiting for a lock or a queue there, it may never hear of a signal that the middleware's threads got. So it
    waits for a file descriptor, which whichever thread gets the signal writes to.
    """

    def __init__(self) -> None:
        """From now on SIGINT and SIGTERM end nothing but :meth:`wait`. On the main thread."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)

    def fail(self) -> None:
        """End it because a thread did that it cannot do without; from any thread."""
        os.write(self._writer, bytes([_FAILED]))

    def wait(self) -> int:
        """The exit status: 0 after a signal, 1 after :meth:`fail`."""
        while (number := os.read(self._reader, 1)[0]) not in (*_SIGNALS, _FAILED):
            pass
        return int(number == _FAILED)
