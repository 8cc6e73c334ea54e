"""The first token of a question that was asked before a restart, with ``llama.state_directory``."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench import Bench
from figures import Figure
from processes import HERE, read_line, running


def restart(bench: Bench) -> list[Figure]:
    """The bare engine, in a process of its own each time."""
    repeats = bench.times(3)
    ratios, firsts, seconds, sizes = [], [], [], []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for run in ("first run", "after a restart"):
                bench.say(f"{number + 1} of {repeats}: {run}")
                arguments = [str(HERE / "bare_restart.py"), str(bench.large), str(bench.threads), folder]
                with running(arguments) as program:
                    found.append(float(read_line(program)))
            sizes += [file.stat().st_size / 1e6 for file in Path(folder).glob("*.state")]
        firsts.append(found[0])
        seconds.append(found[1])
        ratios.append(found[1] / found[0])
    detail = (
        f"{statistics.median(seconds):.2f} / {statistics.median(firsts):.2f} s, {statistics.median(sizes):.0f} MB on "
        "disk, 2B-shaped, 300 image tokens"
    )
    return [Figure("first token, after a restart / before", statistics.median(ratios), limit=0.1, detail=detail)]
