"""A command on a terminal of its own: what it shows is an event to wait for, and keys can be pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from types import TracebackType

import child_process

PATIENCE = 60.0
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """`qwen3vl-ros ARGUMENTS`, in a session of its own with a terminal of 80 columns; killed where a test leaves it."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.text = ""
        self._read_to = 0
        self._keys, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            child_process.command("qwen3vl_ros.cli.main", *arguments),
            stdin=terminal, stdout=terminal, stderr=terminal,
            start_new_session=True, preexec_fn=lambda: _control(terminal),
            env={**os.environ, "TERM": "xterm", **(environment or {})},
        )  # fmt: skip
        os.close(terminal)

    def press(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def wait_for(self, text: str) -> str:
        """Wait for ``text`` after what was last waited for; return everything up to and with it."""
        end = time.monotonic() + PATIENCE
        while (found := self.text.find(text, self._read_to)) < 0:
            assert self._read(end - time.monotonic()), f"{text!r} is not shown; the terminal has: {self.text!r}"
        shown, self._read_to = self.text[self._read_to : found + len(text)], found + len(text)
        return shown

    def end(self) -> int:
        """Wait until the command ends; return its exit status."""
        end = time.monotonic() + PATIENCE
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, timeout: float) -> bool:
        """Read what is there; return whether anything was read, which after the end of the command it is not."""
        if not select.select([self._keys], [], [], max(0.0, timeout))[0]:
            return False
        try:
            read = os.read(self._keys, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.text += _ESCAPES.sub("", read.decode(errors="replace"))
        return bool(read)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._keys)


def _control(terminal: int) -> None:
    """Make the terminal the one whose Ctrl-C this process gets."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
