"""How long threads that wait for each other should spin, on an idle machine and on one with other work."""

from __future__ import annotations

import contextlib
import statistics

from bench import Bench
from figures import Figure
from processes import HERE, read_line, running

WAITS = {
    "asleep at once": {"OMP_WAIT_POLICY": "passive"},
    **{f"{count} spins": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 10000)},
}
BUSY_LOOPS = (0, 1)
_TOKENS = 32
_RUNS = 3


def spinning(bench: Bench) -> list[Figure]:
    """Milliseconds per token of the bare engine, each way to wait in a process of its own, in turn."""
    times: dict[tuple[str, int], list[float]] = {(name, loops): [] for name in WAITS for loops in BUSY_LOOPS}
    runs = bench.times(_RUNS)
    for run in range(runs):
        for loops in BUSY_LOOPS:
            for name, environment in WAITS.items():
                bench.say(f"run {run + 1} of {runs}, {loops} busy loops, {name}")
                with contextlib.ExitStack() as processes:
                    for _ in range(loops):
                        processes.enter_context(running(["-c", "while True: pass"]))
                    arguments = [str(HERE / "bare_engine.py"), str(bench.large), str(bench.threads), str(_TOKENS)]
                    engine = processes.enter_context(running(arguments, environment))
                    times[name, loops].append(float(read_line(engine)))
    return [
        Figure(
            f"a token, {name}, {loops} busy loops beside",
            statistics.median(values),
            "ms",
            detail=f"2B-shaped, {len(values)} runs: {min(values):.0f} to {max(values):.0f} ms",
        )
        for (name, loops), values in times.items()
    ]
