"""The engine ``openvino`` against ``llama``: the same shapes, question and image, each engine bare in its process."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import Bench
from figures import Figure
from openvino_random_model import make
from processes import HERE, read_line, running

PROMPT = "What is on the table?"
TOKENS = 32
IMAGE = (640, 480)

MODEL = HERE.parent / "build" / "benchmark" / "qwen3-vl-2b-random-openvino"


def openvino_llama(bench: Bench) -> list[Figure]:
    """In turn, an image nobody saw before; the one that waits does nothing."""
    repeats = bench.times(5)
    bench.say("making an OpenVINO model with the shapes of Qwen3-VL-2B, where there is none: this takes minutes")
    model = make(MODEL)
    bench.say("loading the 2B-shaped model, twice")
    ratios: dict[str, list[float]] = {}
    values: dict[str, list[tuple[float, float]]] = {}
    with _engine("openvino", model, 0) as ask_openvino, _engine("llama", bench.large, bench.threads) as ask_llama:
        for number in range(repeats):
            bench.say(f"image {number + 1} of {repeats}")
            ours, theirs = ask_openvino(number), ask_llama(number)
            for name in ours:
                ratios.setdefault(name, []).append(ours[name] / theirs[name])
                values.setdefault(name, []).append((ours[name], theirs[name]))
    figures = []
    for name, unit in (("image encode", "s"), ("first token", "s"), ("tokens/s", "tokens/s")):
        openvino, llama = (statistics.median(column) for column in zip(*values[name], strict=True))
        detail = f"{openvino:.2f} / {llama:.2f} {unit}, 2B-shaped, {IMAGE[0]}x{IMAGE[1]}, median of {repeats}"
        limit = 0.5 if name == "first token" else None
        figures.append(Figure(f"{name}, openvino / llama", statistics.median(ratios[name]), limit=limit, detail=detail))
    return figures


class _Ask:
    """Asks the engine in a process about image ``number``; gives its times in seconds."""

    def __init__(self, process: object) -> None:
        self._process = process

    def __call__(self, number: int) -> dict[str, float]:
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return dict(json.loads(read_line(self._process)))


@contextlib.contextmanager
def _engine(name: str, model: Path, threads: int) -> Iterator[_Ask]:
    with running([__file__, name, str(model), str(threads)]) as process:
        read_line(process)
        yield _Ask(process)


def main() -> int:
    """The process: a line in, a line out."""
    import numpy as np

    from qwen3vl_ros.engines import registry
    from qwen3vl_ros.engines.base import Cancel, Message, Options, Request

    name, model, threads = sys.argv[1:]
    engine = registry.load(name)(model=model, **({"n_threads": int(threads)} if name == "llama" else {}))
    print("ready", flush=True)
    try:
        for line in sys.stdin:
            width, height = IMAGE
            image = np.random.default_rng(int(line)).integers(0, 256, (height, width, 3), dtype=np.uint8)
            request = Request((Message("user", (image, PROMPT)),), Options(temperature=0.0, max_tokens=TOKENS))
            first = 0.0
            for chunk in engine.generate(request, Cancel()):
                if chunk.completion_tokens and not first:
                    first = time.monotonic()
            speed = (chunk.completion_tokens - 1) / (time.monotonic() - first)
            usage = chunk.usage
            times = {"image encode": usage.encode_time, "first token": usage.first_token_time, "tokens/s": speed}
            print(json.dumps(times), flush=True)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
