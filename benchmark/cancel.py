"""From the client's cancel to its result CANCELED, at every stage a goal can be in."""

from __future__ import annotations

import random
import statistics
import string
import time
from collections.abc import Callable

from qwen3vl_ros.action import AskImage

from bench import Bench
from figures import Figure, median_and_worst
from ros_graph import Goal, RosGraph, noise_image
from vlm import vlm

_INTO_STAGE = 0.3  # seconds: encoder and prefill of a 2B model take seconds

_SLOTS = 2  # the default of llama.slots

_Stage = AskImage.Feedback


def cancel(bench: Bench) -> list[Figure]:
    """The median of a few cancels at each stage; the camera's topic has no publisher."""
    repeats = bench.times(5)
    figures = []
    bench.say("loading the 2B-shaped model")
    with vlm(bench, bench.large):
        for name, sample in _STAGES.items():
            times = []
            for number in range(repeats):
                bench.say(f"{name}, {number + 1} of {repeats}")
                times.append(sample(bench.graph, number) * 1e3)
            detail = f"{median_and_worst(times, 'ms')}, 2B-shaped"
            figures.append(Figure(f"cancel to canceled: {name}", statistics.median(times), "ms", 100.0, detail=detail))
    return figures


def _queued(graph: RosGraph, _: int) -> float:
    busy = [graph.ask("Tell me everything.", 2000, text_only=True) for _ in range(_SLOTS)]
    for goal in busy:
        goal.wait_for_token()
    waiting = graph.ask("And then?", 1, text_only=True)
    waiting.wait_for(lambda message: message.stage == _Stage.STAGE_QUEUED)
    seconds = waiting.cancel()
    for goal in busy:
        goal.cancel()
    return seconds


def _prefill_beside_another(graph: RosGraph, seed: int) -> float:
    busy = graph.ask("Tell me everything.", 2000, text_only=True)
    busy.wait_for_token()
    seconds = _prefill(graph, 2000 + seed)
    busy.cancel()
    return seconds


def _waiting_for_frame(graph: RosGraph, _: int) -> float:
    return _cancel_in(graph.ask("What do you see?", 1), _Stage.STAGE_WAITING_FRAME)


def _encode(graph: RosGraph, seed: int) -> float:
    return _cancel_in(graph.ask("What do you see?", 1, images=[noise_image(1000 + seed)]), _Stage.STAGE_ENCODE)


def _prefill(graph: RosGraph, seed: int) -> float:
    letters = "".join(random.Random(seed).choices(string.ascii_uppercase, k=1000))  # a token each
    return _cancel_in(graph.ask(letters, 1, text_only=True), _Stage.STAGE_PREFILL)


def _decode(graph: RosGraph, _: int) -> float:
    return _cancel_in(graph.ask("Tell me everything.", 2000, text_only=True), _Stage.STAGE_DECODE)


def _cancel_in(goal: Goal, stage: int) -> float:
    goal.wait_for(lambda message: message.stage == stage)
    time.sleep(_INTO_STAGE)
    seconds = goal.cancel()
    if goal.feedback[-1][1].stage != stage:
        raise RuntimeError("a goal left the stage in which it was to be cancelled: this machine is too fast for it")
    return seconds


_STAGES: dict[str, Callable[[RosGraph, int], float]] = {
    "queued": _queued,
    "waiting for a frame": _waiting_for_frame,
    "image encode": _encode,
    "prefill": _prefill,
    "prefill beside another answer": _prefill_beside_another,
    "decode": _decode,
}
