"""From the start of `qwen3vl-ros ask` until its answer is on stdout."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench import Bench
from figures import Figure
from processes import PATIENCE
from vlm import vlm

_PLAIN = "import rclpy; rclpy.init(); node = rclpy.create_node('plain'); print('made', flush=True)"


def ask_command(bench: Bench) -> list[Figure]:
    """In turn with a program that makes the plainest node there is and ends."""
    repeats = bench.times(10)
    question = [
        "-m",
        "qwen3vl_ros.cli.main",
        "ask",
        "What is a box?",
        "--text-only",
        "--max-tokens",
        "1",
        "--wait",
        "60",
    ]
    asks, plains, ratios = [], [], []
    with vlm(bench, bench.small):
        for number in range(repeats):
            bench.say(f"question {number + 1} of {repeats}")
            asks.append(_first_output(question))
            plains.append(_first_output(["-c", _PLAIN]))
            ratios.append(asks[-1] / plains[-1])
    detail = (
        f"{statistics.median(asks):.2f} / {statistics.median(plains):.2f} s, the slowest {max(asks):.2f} s, "
        f"its slowest {max(plains):.2f} s"
    )
    return [Figure("qwen3vl-ros ask, answer / a plain node", statistics.median(ratios), limit=3.0, detail=detail)]


def _first_output(arguments: list[str]) -> float:
    """Seconds until a Python process has printed its first character."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    seconds = time.monotonic() - begin
    _, said = process.communicate(timeout=PATIENCE)
    if not first:
        raise RuntimeError(f"{arguments} printed nothing; stderr: {said}")
    return seconds
