"""Runs the measurement of this machine's speed in a process of its own, with a progress bar."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys

from qwen3vl_ros.engines import child_python, speed
from qwen3vl_ros.engines.machine import Machine

_MODULE = "qwen3vl_ros.engines.llama.speed_test"


def measure(machine: Machine) -> speed.Measurement | None:
    """Measure, and keep the result; None, with a sentence on stderr, where that is impossible."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    for module in ("llama_cpp", "gguf"):
        if importlib.util.find_spec(module) is None:
            print(
                f"Not measured: the Python package {module} is missing; `pip install -r requirements/llama.txt`.",
                file=sys.stderr,
            )
            return None
    busy = os.getloadavg()[0] > machine.cores / 2
    console = Console(stderr=True)
    columns = TextColumn("Measuring this machine, once"), BarColumn(), TimeElapsedColumn()
    # llama.cpp would start a debugger when it ends itself.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    child = child_python.start(
        _MODULE,
        death_signal=signal.SIGKILL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    found = None
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=1.0)
            assert child.stdout is not None
            for line in child.stdout:
                said = json.loads(line)
                progress.update(task, completed=said.get("share", 1.0))
                found = said.get("measurement", found)
    finally:
        errors = _end(child)
    if found is None:
        print(f"Not measured: {errors or 'the measurement ended early'}.", file=sys.stderr)
        return None
    measured = dataclasses.replace(speed.from_json(found), busy=busy)
    try:
        speed.save(machine, measured)
    except OSError as error:
        print(f"The figures are not kept: {error}.", file=sys.stderr)
    return measured


def _end(child: subprocess.Popen[str]) -> str:
    """End the process; return the last line it wrote to stderr."""
    child_python.end(child, 5.0)
    assert child.stdout is not None and child.stderr is not None
    with child.stdout, child.stderr:
        lines = child.stderr.read().strip().splitlines()
    return lines[-1].rstrip(".") if lines else ""
