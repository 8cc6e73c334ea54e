"""Starts and ends child processes that run Python with this process' module path."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

_START = """
import sys
sys.path = [place for place in sys.path if place]  # without the current directory, which `python -c` puts first
import importlib, json
path, death_signal, module, arguments = json.loads(sys.argv.pop(1))
if death_signal:
    import ctypes
    ctypes.CDLL(None).prctl(1, death_signal)  # PR_SET_PDEATHSIG, linux/prctl.h
sys.path = path
sys.exit(importlib.import_module(module).main(*arguments))
"""


def start(
    module: str, *arguments: Any, death_signal: signal.Signals | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a process that calls ``main(*arguments)`` of ``module`` and exits with the status that returns.

    Args:
        module: Full name of the module.
        *arguments: JSON values.
        death_signal: Signal sent to the child when the thread that started it ends, even by SIGKILL of this process.
        **options: Keyword arguments of :class:`subprocess.Popen`.
    """
    start_up = json.dumps([sys.path, int(death_signal or 0), module, arguments])
    return subprocess.Popen([sys.executable, "-c", _START, start_up], stdin=subprocess.DEVNULL, **options)


def start_connected(module: str, *arguments: Any, **options: Any) -> tuple[subprocess.Popen[Any], Connection]:
    """Start a process as :func:`start` does, with the descriptor of a socket as the first argument of ``main``.

    Returns:
        The process, and this end of the socket.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = start(module, theirs.fileno(), *arguments, pass_fds=[theirs.fileno()], **options)
        return child, Connection(ours.detach())


def end(child: subprocess.Popen[Any], patience: float = 0.0) -> int:
    """Wait ``patience`` seconds for the end of ``child``, then kill it. Idempotent.

    Returns:
        Its exit status; negative for the signal that killed it.
    """
    try:
        return child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
