"""What tests start does not outlive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from vlm_process import wait_gone

# Says its child's process id, then waits for ever.
_PARENT = """
import subprocess, child_process
print(subprocess.Popen(child_process.command("http.server", "--bind", "127.0.0.1", "0")).pid, flush=True)
input()
"""


def test_a_process_ends_when_who_started_it_is_killed() -> None:
    at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=at_once,
        cwd=Path(__file__).parent,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert "Serving HTTP" in parent.stdout.readline(), "the child runs"
        parent.send_signal(signal.SIGKILL)
        wait_gone(child)
