"""How long threads that wait for each other should spin, on an idle machine and on one with other work."""

from __future__ import annotations

import contextlib
import statistics

from bench import Bench
from figures import Figure
from processes import HERE, read_line, running

SPINS = (0, 300, 1000, 10000)
BUSY_LOOPS = (0, 1)
_TOKENS = 32
_RUNS = 3
_BUSY = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\nwhile True: pass"


def spinning(bench: Bench) -> list[Figure]:
    """Milliseconds per token of the bare engine, each number of spins in a process of its own, in turn."""
    times: dict[tuple[int, int], list[float]] = {(spins, loops): [] for spins in SPINS for loops in BUSY_LOOPS}
    runs = bench.times(_RUNS)
    for run in range(runs):
        for loops in BUSY_LOOPS:
            for spins in SPINS:
                bench.say(f"run {run + 1} of {runs}, {loops} busy loops, {spins} spins")
                with contextlib.ExitStack() as processes:
                    for _ in range(loops):
                        processes.enter_context(running(["-c", _BUSY]))
                    arguments = [str(HERE / "bare_engine.py"), str(bench.large), str(bench.threads), str(_TOKENS)]
                    engine = processes.enter_context(running(arguments, {"GOMP_SPINCOUNT": str(spins)}))
                    times[spins, loops].append(float(read_line(engine)))
    return [
        Figure(
            f"a token, {spins} spins, {loops} busy loops beside",
            statistics.median(values),
            "ms",
            detail=f"2B-shaped, {len(values)} runs: {min(values):.0f} to {max(values):.0f} ms",
        )
        for (spins, loops), values in times.items()
    ]
