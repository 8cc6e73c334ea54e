"""Runs one command of the set-up: its output goes to a log file, the terminal gets one line with progress and time."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

QUIET_SECONDS = 2.0
"""A step that is over sooner shows no progress."""

NINJA = re.compile(r"^\s*\[(\d+)/(\d+)\]")
PIP_BYTES = re.compile(r"^\s*Progress (\d+) of (\d+)")
PIP_ACTIVITY = re.compile(r"^\s*(Collecting|Downloading|Building|Installing) (?:[^ ]*/)?([^ ]+)")


class StepFailed(Exception):
    """The command of a step failed; the message has the end of its output."""


class ProgressLine:
    """One line about a running step: rewritten in place on a terminal, a new line every ten percent elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self.activity = ""
        self.fraction: float | None = None
        self.on_terminal = sys.stdout.isatty()
        self._tenths_printed = 0

    def read(self, line: str) -> None:
        """Learn from one line of the command's output."""
        if counted := NINJA.match(line):
            self.activity = f"{counted[1]} of {counted[2]}"
            self.fraction = int(counted[1]) / int(counted[2])
        elif downloaded := PIP_BYTES.match(line):
            self.fraction = int(downloaded[1]) / max(int(downloaded[2]), 1)
        elif activity := PIP_ACTIVITY.match(line):
            self.activity, self.fraction = f"{activity[1].lower()} {activity[2]}", None

    def show(self) -> None:
        """Say how far the step is."""
        elapsed = time.monotonic() - self.started
        if elapsed < QUIET_SECONDS:
            return
        if self.on_terminal:
            bar = ""
            if self.fraction is not None:
                filled = round(20 * self.fraction)
                bar = f" [{'#' * filled}{'.' * (20 - filled)}] {self.fraction:4.0%}"
            self._rewrite(f"{self.title}{bar}  {elapsed:.0f} s  {self.activity}")
        elif self.fraction is not None and " of " in self.activity:
            tenths = int(10 * self.fraction)
            if tenths > self._tenths_printed:
                self._tenths_printed = tenths
                print(f"  {self.title}: {10 * tenths} %, {self.activity}, {elapsed:.0f} s", flush=True)

    def end(self, result: str) -> None:
        """Leave one line with the time the step took."""
        text = f"{self.title}: {result} ({time.monotonic() - self.started:.1f} s)"
        if self.on_terminal:
            self._rewrite(text)
            print()
        else:
            print(text, flush=True)

    def _rewrite(self, text: str) -> None:
        width = os.get_terminal_size().columns if self.on_terminal else 120
        print(f"\r\033[K{text[: width - 1]}", end="", flush=True)


def run_step(title: str, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
    """Run a command to its end. Raises StepFailed with the last lines of its output if it fails."""
    line = ProgressLine(title)
    if line.on_terminal:
        print(f"{title} ...", end="", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as log_file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        pending = b""
        try:
            while True:
                if selector.select(timeout=0.5):
                    chunk = os.read(process.stdout.fileno(), 1 << 16)
                    if not chunk:
                        break
                    log_file.write(chunk)
                    *whole_lines, pending = (pending + chunk).split(b"\n")
                    for text in whole_lines:
                        line.read(text.decode(errors="replace"))
                line.show()
        except BaseException:
            process.terminate()
            raise
        code = process.wait()
    if code != 0:
        line.end(f"failed, exit code {code}")
        last_lines = log.read_text(errors="replace").splitlines()[-30:]
        raise StepFailed("\n".join((*(f"    {text}" for text in last_lines), f"The whole output is in {log}.")))
    line.end("done")
