"""Measures llama.cpp on this machine with few layers of random weights in the widths of Qwen3-VL-2B: a process.

Its lines on stdout are JSON: {"share": 0..1} while it runs, {"measurement": ...} at the end. It is a process of its own
because llama.cpp ends the process it is in when something fails that it does not expect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request, Stage
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.llama.random_model import make
from qwen3vl_ros.engines.speed import IMAGE_SIZE, IMAGE_TOKENS, MEASURED, Cost, Measurement

FEW, MANY = 4, 8
"""Layers of the two models. Q4_K_M gives half of them more bits, as of a whole model's; DeepStack needs four."""

PROMPT = "What is on the table?"
_TOKENS = 24
_ROUNDS = 4
_SECONDS = 20.0
"""No round begins later; there are two at least, the first of which warms up."""


def main() -> int:
    """Measure and print; the disk needs 0.8 GB until the models are loaded."""
    _say(share=0.0)
    with contextlib.ExitStack() as engines:
        loaded: dict[int, LlamaEngine] = {}
        # The files may go once they are loaded: a measurement that is killed leaves nothing behind.
        with tempfile.TemporaryDirectory(prefix="qwen3vl-speed-") as folder:
            for step, layers in enumerate((FEW, MANY)):
                shapes = dataclasses.replace(MEASURED, layers=layers, vision_layers=layers, deepstack=(0, 1, 2))
                model = make(Path(folder) / str(layers), shapes)
                _say(share=0.1 + 0.15 * step)
                loaded[layers] = LlamaEngine(str(model), n_ctx=1024, slots=1, max_image_tokens=IMAGE_TOKENS)
                engines.callback(loaded[layers].close)
                _say(share=0.15 + 0.15 * step)
        found = measure(loaded)
    _say(measurement=dataclasses.asdict(found))
    return 0


def measure(engines: dict[int, LlamaEngine]) -> Measurement:
    """Ask the two engines, by their numbers of layers, in turn: what disturbs one disturbs the other."""
    times: dict[int, list[tuple[float, float, float]]] = {layers: [] for layers in engines}
    begin = time.monotonic()
    for number in range(_ROUNDS):
        if number > 1 and time.monotonic() - begin > _SECONDS:
            break
        for layers, engine in engines.items():
            times[layers].append(ask(engine, number))
        _say(share=0.3 + 0.7 * (number + 1) / _ROUNDS)
    return costs(times)


def costs(times: dict[int, list[tuple[float, float, float]]]) -> Measurement:
    """Return what follows from the times of two models, by their numbers of layers; of each the least counts."""
    (few, few_times), (many, many_times) = times.items()
    columns = zip(zip(*few_times, strict=True), zip(*many_times, strict=True), strict=True)
    encode, prefill, token = (Cost.from_two(few, min(of_few), many, min(of_many)) for of_few, of_many in columns)
    return Measurement(encode, prefill, token)


def ask(engine: LlamaEngine, number: int, clock: Callable[[], float] = time.monotonic) -> tuple[float, float, float]:
    """Ask about image ``number``, which is new; return the seconds of encoding, of prefill and of one token."""
    width, height = IMAGE_SIZE
    image = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    request = Request((Message("user", (image, PROMPT)),), Options(temperature=0.0, max_tokens=_TOKENS))
    reached: dict[Stage, float] = {}
    tokens: list[float] = []
    for chunk in engine.generate(request, Cancel()):
        now = clock()
        reached.setdefault(chunk.stage, now)
        if chunk.completion_tokens > len(tokens):
            tokens.append(now)
    token = statistics.median(later - earlier for earlier, later in itertools.pairwise(tokens))
    return reached[Stage.PREFILL] - reached[Stage.ENCODE], tokens[0] - reached[Stage.PREFILL], token


def _say(**values: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(values).encode() + b"\n")
