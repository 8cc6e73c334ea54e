"""A module of this package as a process of its own, as users start it; it ends even if the tests are killed."""

from __future__ import annotations

import sys

# `python -m MODULE`, with prctl(PR_SET_PDEATHSIG, SIGKILL), linux/prctl.h: a node that is left over would answer the
# questions of the tests that come next.
_START = (
    "import ctypes, runpy, sys; ctypes.CDLL(None).prctl(1, 9); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """What subprocess takes; to be started on the main thread, with which the process ends."""
    return [sys.executable, "-c", _START, module, *arguments]
