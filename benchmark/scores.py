"""What the scores of regions cost beside a token: its alternatives, and reading them when the answer is complete."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from bench import Bench
from figures import Figure
from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.engines.token_probabilities import Token, token_of_logits
from qwen3vl_ros.vision.confidence import Confidence
from qwen3vl_ros.vision.fit import plan_fit
from qwen3vl_ros.vision.grounding import parse_regions

_VOCABULARY = 151_936  # Qwen3-VL's
_BOXES = 50


def scores(bench: Bench) -> list[Figure]:
    """Without a model: logits of Qwen3-VL's vocabulary, and an answer of 50 boxes in tokens of one digit."""
    repeats = bench.times(200)
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (8, _VOCABULARY)).astype(np.float32)
    logits[:, :10] += 12.0  # ten digits between which it is undecided
    bench.say("probabilities of tokens")
    of_token = [
        _milliseconds(lambda n=n: token_of_logits(logits[n % 8], n % 10, lambda i: b"%d" % i, lambda _: None))
        for n in range(repeats)
    ]
    text, tokens = _answer()
    fit = plan_fit(640, 480, ImageInput())
    places = [region.at for region in parse_regions(text, [fit]).regions]
    bench.say("scores of an answer")

    def read() -> None:
        confidence = Confidence(text, tokens)
        for at in places:
            confidence.score(at)
            confidence.numbers(at, 100)

    of_answer = [_milliseconds(read) for _ in range(bench.times(10))]
    return [
        Figure("probabilities, time per token", statistics.median(of_token), "ms", 1.0, detail="vocabulary of 151,936"),
        Figure(
            f"scores and spreads of {_BOXES} boxes", statistics.median(of_answer), "ms", detail=f"{len(tokens)} tokens"
        ),
    ]


def _milliseconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1000


def _answer() -> tuple[str, list[Token]]:
    boxes = [f'{{"bbox_2d": [{100 + n}, {200 + n}, {300 + n}, {400 + n}], "label": "cup"}}' for n in range(_BOXES)]
    text = f"[{', '.join(boxes)}]"
    digits = tuple((b"%d" % digit, 0.05) for digit in range(10))
    return text, [Token(letter.encode(), 0.5, digits) for letter in text]
