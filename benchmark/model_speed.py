"""What ``qwen3vl-ros model list`` expects of Qwen3-VL-2B, from a few of its layers, against the whole random model."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from bench import Bench
from figures import Figure
from processes import read_line, running

ROUNDS = 5


def model_speed(bench: Bench) -> list[Figure]:
    """The three models in turn, in one process; of each time the least, as the estimate has it.

    With one thread it is processor time, which other programs on the machine change little.
    """
    rounds = bench.times(ROUNDS)
    bench.say("making and loading the two models of few layers and the whole one")
    with running([__file__, str(bench.large), str(bench.threads), str(rounds)]) as process:
        for number in range(rounds):
            bench.say(f"round {number + 1} of {rounds}")
            read_line(process)
        found = json.loads(read_line(process))
    figures = []
    for name, (expected, whole) in found.items():
        detail = f"{expected:.3g} / {whole:.3g} s, 640x480, least of {rounds}"
        ratio = expected / whole
        figures.append(Figure(f"{name}, expected / measured", ratio, limit=1.25, detail=detail))
        figures.append(Figure(f"{name}, measured / expected", 1 / ratio, limit=1.25, detail=detail))
    return figures


def main() -> int:
    """The process: a line for each round, then the figures."""
    import dataclasses
    import tempfile
    import time

    from qwen3vl_ros.engines.llama.engine import LlamaEngine
    from qwen3vl_ros.engines.llama.random_model import make
    from qwen3vl_ros.engines.llama.speed_test import FEW, MANY, ask, costs
    from qwen3vl_ros.engines.speed import MEASURED, MEASURED_QUANT, estimate_shapes

    whole, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as engines:
        models = {
            layers: make(
                Path(folder) / str(layers),
                dataclasses.replace(MEASURED, layers=layers, vision_layers=layers, deepstack=(0, 1, 2)),
            )
            for layers in (FEW, MANY)
        }
        loaded = {}
        for layers, model in (*models.items(), (MEASURED.layers, whole)):
            loaded[layers] = LlamaEngine(str(model), n_ctx=1024, n_threads=threads)
            engines.callback(loaded[layers].close)
        times = {layers: [] for layers in loaded}
        # One thread has no other to wait for: its processor time is what it would take alone.
        clock = time.process_time if threads == 1 else time.monotonic
        for number in range(rounds):
            for layers, engine in loaded.items():
                times[layers].append(ask(engine, number, clock))
            print(number, flush=True)
    encode, prefill, token = (min(column) for column in zip(*times.pop(MEASURED.layers), strict=True))
    expected = estimate_shapes(MEASURED, MEASURED_QUANT, costs(times))
    figures = {
        "first token": (expected.first_token, encode + prefill),
        "token": (1 / expected.tokens_per_second, token),
    }
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
