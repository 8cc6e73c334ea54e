"""A program in which several threads ask the bare ``llama`` engine; prints what they waited for, as JSON.

python benchmark/bare_callers.py MODEL THREADS ROUNDS
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request, Stage
from qwen3vl_ros.engines.llama.engine import LlamaEngine

CALLERS = 4
TOKENS = 32
IMAGE = (640, 480)


class Caller:
    """One question on a thread of its own: when each stage began and each token came, on time.monotonic()."""

    def __init__(self, engine: LlamaEngine, *content: object, tokens: int) -> None:
        self.begun = time.monotonic()
        self.stages: dict[Stage, float] = {}
        self.tokens: list[float] = []
        self._changed = threading.Condition()
        self._cancel = Cancel()
        request = Request((Message("user", content),), Options(temperature=0.0, max_tokens=tokens))
        self._thread = threading.Thread(target=self._read, args=(engine, request))
        self._thread.start()

    def _read(self, engine: LlamaEngine, request: Request) -> None:
        for chunk in engine.generate(request, self._cancel):
            with self._changed:
                self.stages.setdefault(chunk.stage, time.monotonic())
                while len(self.tokens) < chunk.completion_tokens:
                    self.tokens.append(time.monotonic())
                self._changed.notify_all()

    def wait_for(self, tokens: int) -> None:
        """Wait until there are ``tokens`` more of them."""
        with self._changed:
            wanted = len(self.tokens) + tokens
            self._changed.wait_for(lambda: len(self.tokens) >= wanted)

    def end(self) -> None:
        """Wait for the whole answer."""
        self._thread.join()

    def cancel(self) -> None:
        """End it early."""
        self._cancel.set()
        self.end()

    @property
    def first_token(self) -> float:
        """Seconds from the question to it."""
        return self.tokens[0] - self.begun

    def rate(self, begin: float, end: float) -> float:
        """Tokens per second between two times."""
        return sum(begin < token <= end for token in self.tokens) / (end - begin)

    def longest_gap(self, begin: float, end: float) -> float:
        """Seconds without a token between two times: what is before and after them is another stage's."""
        times = [begin, *(token for token in self.tokens if begin < token < end), end]
        return max(after - before for before, after in itertools.pairwise(times))


def main() -> None:
    """Round by round; then one caller against several."""
    model, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = LlamaEngine(model, n_threads=threads, n_ctx=2048, slots=CALLERS)
    with contextlib.closing(engine):
        seeds = itertools.count()
        shown = [image_round(engine, seeds) for _ in range(rounds)]
        alone, together = zip(*(rates(engine) for _ in range(rounds)), strict=True)
    found = {name: [one[name] for one in shown] for name in shown[0]}
    print(json.dumps({**found, "rate alone": alone, "rate together": together}))


def image_round(engine: LlamaEngine, seeds: Iterator[int]) -> dict[str, float]:
    """A long answer about a new image; then, while it runs, a question about this image and one about a new one."""

    def image() -> np.ndarray:
        return np.random.default_rng(next(seeds)).integers(0, 256, (IMAGE[1], IMAGE[0], 3), dtype=np.uint8)

    seen = image()
    long = Caller(engine, seen, "What is on the table?", tokens=1500)
    long.wait_for(TOKENS)
    undisturbed = (long.tokens[0], time.monotonic())
    same = Caller(engine, seen, "Is there anything on the floor?", tokens=2)
    same.end()
    new = Caller(engine, image(), "Is there anything on the floor?", tokens=2)
    new.end()
    long.cancel()
    encoding = (new.stages[Stage.ENCODE], new.stages[Stage.PREFILL])
    reading = (new.stages[Stage.PREFILL], new.stages[Stage.DECODE])
    return {
        "new image": long.first_token,
        "same image": same.first_token,
        "rate undisturbed": long.rate(*undisturbed),
        "rate while encoding": long.rate(*encoding),
        "gap while encoding": long.longest_gap(*encoding),
        "rate while reading": long.rate(*reading),
        "gap while reading": long.longest_gap(*reading),
    }


def rates(engine: LlamaEngine) -> tuple[float, float]:
    """Tokens per second of one caller, and of all together."""
    one = Caller(engine, "Tell me everything.", tokens=TOKENS)
    one.end()
    several = [Caller(engine, f"Tell me everything. {number}", tokens=2 * TOKENS) for number in range(CALLERS)]
    for caller in several:
        caller.end()
    every = (max(caller.tokens[0] for caller in several), min(caller.tokens[-1] for caller in several))
    intervals = [after - before for before, after in itertools.pairwise(one.tokens)]
    return 1 / statistics.mean(intervals), sum(caller.rate(*every) for caller in several)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started it ends it so: without a traceback
    main()
