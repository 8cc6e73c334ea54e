"""Waits for SIGINT, SIGTERM and SIGHUP on a main thread that does nothing else."""

from __future__ import annotations

import os
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAILED = 0  # no signal has this number


class StopSignal:
    """The end of a process, from outside or from one of its threads.

    The kernel may deliver a signal to any thread. Python runs handlers on the main thread without waking it: while it
    waits for a lock or a queue, it may never handle a signal that a thread of the middleware received. So it waits for
    a file descriptor, to which the thread that receives the signal writes.
    """

    def __init__(self) -> None:
        """Make SIGINT, SIGTERM and SIGHUP end :meth:`wait` and nothing else. Call it on the main thread.

        SIGHUP, which a closed terminal sends, stays ignored where the process was started so, as by ``nohup``.
        """
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)

    def fail(self) -> None:
        """End :meth:`wait` because an essential thread has ended; from any thread."""
        os.write(self._writer, bytes([_FAILED]))

    def wait(self) -> int:
        """Wait for the end and return the exit status: 0 after a signal, 1 after :meth:`fail`."""
        while (number := os.read(self._reader, 1)[0]) not in (*_SIGNALS, _FAILED):
            pass
        return int(number == _FAILED)
