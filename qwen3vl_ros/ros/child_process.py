"""Runs a sub-command of qwen3vl-ros as a child process: keeps its last lines, reports its end, and stops it."""

from __future__ import annotations

import collections
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from qwen3vl_ros.engines import child_python


class Child:
    """`qwen3vl-ros ARGUMENTS` in its own session, so that a Ctrl-C in the terminal reaches only this process."""

    def __init__(self, arguments: Sequence[str], on_exit: Callable[[Child], None]) -> None:
        self.name = arguments[0]
        self._lines: collections.deque[str] = collections.deque(maxlen=20)
        self._on_exit = on_exit
        self._process = child_python.start(
            "qwen3vl_ros.cli.main",
            arguments,
            death_signal=signal.SIGTERM,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
        self._process.wait()
        self._on_exit(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def last_words(self) -> str:
        """Return how the process ended, and its last lines of output."""
        self._reader.join(1.0)
        status = self._process.poll()
        how = "is running" if status is None else f"ended with status {status}"
        if status is not None and status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        lines = "\n".join(f"    {line}" for line in self._lines) or "    (nothing)"
        return f"The process `qwen3vl-ros {self.name}` {how}. Its last lines:\n{lines}"

    def ask_to_stop(self) -> None:
        """Send SIGINT, which ends a ROS node cleanly."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self, patience: float = 10.0) -> None:
        """Ask the process to stop, and kill it after ``patience`` seconds."""
        self.ask_to_stop()
        child_python.end(self._process, patience)
        self._reader.join(1.0)
