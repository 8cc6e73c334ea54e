"""Processes that are measured: started, looked at through /proc, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

PATIENCE = 600.0
"""Seconds after which something that should have happened has not; a 2B model on a busy machine is slow."""


@contextlib.contextmanager
def running(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python process with its standard input and output as text pipes; ended by SIGINT, or else by force."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd="/",  # not the repository's root: `python -m` would find the sources in place of the built package
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that ``process`` prints. Raises RuntimeError when it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with status {process.wait()} where it should have said something")
    return line.rstrip("\n")


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, *, without: Path | None = None) -> int:
    """Resident memory of a process, not counting what it maps from the file ``without``."""
    total, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = without is None or not line.endswith(str(without))
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
