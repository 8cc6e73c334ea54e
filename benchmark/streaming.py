"""Tokens per second through the action against the bare engine; what each token's way to the client takes."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from asker import asker
from bench import Bench
from engine.clocked_llama import EVERY_SECOND, NONE
from figures import Figure, percentile, trimmed_mean
from processes import HERE, cpu_seconds
from vlm import vlm

_PROMPT = "Describe the picture."
_IMAGE = HERE.parent / "test" / "support" / "data" / "gazebo_frames" / "0000.jpg"
_TOKENS = 64
_STARTS = 4  # what a message costs differs by half from one start of the processes to the next
_ANSWERS = 15
_DELAYS = 300
_SILENCE_TOKENS = 256  # long: what begins and ends an answer is not what is looked for
_NAMESPACE = "/streaming"  # apart from the benchmark's own client, which would have to listen as well


def throughput(bench: Bench) -> list[Figure]:
    """Of one engine: tokens that are passed on against those before and after, which are not; see docs/performance.md.

    What node and client do besides, with the clock and not with the tokens, is measured in answers of which nothing is
    passed on: a second of theirs counts as a second that the engine does not get.
    """
    starts, answers = bench.times(_STARTS), bench.times(_ANSWERS)
    loud: list[float] = []
    quiet: list[float] = []
    busy = silent = 0.0
    for start in range(starts):
        this = f"start {start + 1} of {starts}"
        bench.say(f"{this}: loading the 2B-shaped model")
        running = vlm(bench, bench.large, engine="clocked_llama", namespace=_NAMESPACE)
        with running as node, asker(_NAMESPACE) as (pid, ask):
            ask(EVERY_SECOND, 4), ask(NONE, 4)
            for answer in range(answers):
                bench.say(f"{this}: answer {answer + 1} of {answers}")
                _, seconds = _clocks(ask(EVERY_SECOND, _TOKENS))
                for before, now, after in zip(seconds[::2], seconds[1::2], seconds[2::2], strict=False):
                    if None not in (before, now, after):
                        loud.append(now)
                        quiet.append((before + after) / 2)
            bench.say(f"{this}: a silent answer")
            begin, used = time.monotonic(), cpu_seconds(node.pid) + cpu_seconds(pid)
            ask(NONE, _SILENCE_TOKENS)
            silent += time.monotonic() - begin
            busy += cpu_seconds(node.pid) + cpu_seconds(pid) - used
    alone = statistics.median(quiet)
    message = trimmed_mean([now - around for now, around in zip(loud, quiet, strict=True)])
    besides = busy / silent
    ratio = alone / (alone + message) * (1 - besides)
    detail = (
        f"2B-shaped, {1 / alone:.1f} tokens/s; of {alone * 1e3:.1f} ms a message takes {message * 1e3:.2f} ms "
        f"({len(loud)} tokens), node and client besides {besides:.1%}"
    )
    return [Figure("tokens/s, action / engine", ratio, limit=0.95, at_least=True, detail=detail)]


def delay(bench: Bench) -> list[Figure]:
    """From the moment an engine yields a token to the moment a program's loop over ``client.stream()`` has it.

    With the small model, and with the 2B-shaped one, which keeps every core busy and the caches empty between tokens.
    """
    return [
        *_delay(bench, bench.small, _IMAGE, "shipped model", limit=1.0),
        *_delay(bench, bench.large, None, "2B-shaped, all cores busy", limit=None),
    ]


def _delay(bench: Bench, model: Path, image: Path | None, name: str, limit: float | None) -> list[Figure]:
    wanted = bench.times(_DELAYS)
    delays: list[float] = []
    bench.say(f"loading the {name}")
    with vlm(bench, model, engine="clocked_llama", namespace=_NAMESPACE), asker(_NAMESPACE) as (_, ask):
        ask(_PROMPT, _TOKENS, image)
        while len(delays) < wanted:
            bench.say(f"{len(delays)} of {wanted} tokens")
            left, _ = _clocks(pieces := ask(_PROMPT, _TOKENS, image))
            arrived = [when for when, text in pieces for _ in text.split("[")[0].split()]
            delays += [(there - here) / 1e6 for here, there in zip(left, arrived, strict=True)]
    detail = f"{len(delays)} tokens, {name}, worst {max(delays):.2f} ms"
    return [
        Figure("delay per token, median", statistics.median(delays), "ms", limit=limit, detail=detail),
        Figure("delay per token, p99", percentile(delays, 0.99), "ms", detail=name),
    ]


def _clocks(pieces: list[tuple[int, str]]) -> tuple[list[int], list[float | None]]:
    """What the answer of ``clocked_llama`` says: when tokens left, in ns, and the seconds from each to the next."""
    left, seconds = "".join(text for _, text in pieces).split("[")
    return [int(clock) for clock in left.split()], json.loads("[" + seconds)
