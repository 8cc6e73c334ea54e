"""Tokens per second through the action against the bare engine; what each token's way to the client takes."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from asker import asker
from bench import Bench
from engine.alternating_llama import SILENCE
from figures import Figure, percentile, trimmed_mean
from processes import cpu_seconds
from vlm import vlm

PROMPT = "What is on the table?"
TOKENS = 64
_ANSWERS = 30
_SILENCES = 2
_SILENCE_TOKENS = 512  # long: what begins and ends an answer is not what is looked for


def throughput(bench: Bench) -> list[Figure]:
    """Of one engine: tokens that are passed on against those before and after, which are not; see docs/performance.md.

    What node and client do besides, with the clock and not with the tokens, is measured in answers of which nothing is
    passed on: a second of theirs counts as a second that the engine does not get.
    """
    answers, silences = bench.times(_ANSWERS), bench.times(_SILENCES)
    loud: list[float] = []
    quiet: list[float] = []
    busy = silent = 0.0
    bench.say("loading the 2B-shaped model")
    namespace = "/streaming"  # apart from the benchmark's own client, which would have to listen as well
    running = vlm(bench, bench.large, engine="alternating_llama", namespace=namespace)
    with running as node, asker(namespace) as (pid, ask):
        ask(PROMPT, 4), ask(SILENCE, 4)
        for answer in range(answers):
            bench.say(f"answer {answer + 1} of {answers}")
            seconds = json.loads(ask(PROMPT, TOKENS))
            for before, now, after in zip(seconds[::2], seconds[1::2], seconds[2::2], strict=False):
                if None not in (before, now, after):
                    loud.append(now)
                    quiet.append((before + after) / 2)
        for silence in range(silences):
            bench.say(f"silent answer {silence + 1} of {silences}")
            begin, used = time.monotonic(), cpu_seconds(node.pid) + cpu_seconds(pid)
            ask(SILENCE, _SILENCE_TOKENS)
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
    return [Figure("tokens/s, action / engine", ratio, limit=0.98, at_least=True, detail=detail)]


def delay(bench: Bench) -> list[Figure]:
    """From the moment an engine yields a chunk to the client's feedback callback (engine ``clocked_llama``).

    With the small model, and with the 2B-shaped one, which keeps every core busy and the caches empty between tokens.
    """
    return [
        *_delay(bench, bench.small, "shipped model", limit=1.0),
        *_delay(bench, bench.large, "2B-shaped, all cores busy", limit=None),
    ]


def _delay(bench: Bench, model: Path, name: str, limit: float | None) -> list[Figure]:
    goals = bench.times(5)
    delays: list[float] = []
    bench.say(f"loading the {name}")
    with vlm(bench, model, engine="clocked_llama"):
        for number in range(goals):
            bench.say(f"goal {number + 1} of {goals}")
            goal = bench.graph.ask(PROMPT, TOKENS, text_only=True)
            goal.wait_for_token()
            goal.result()  # rclpy drops feedback that it handles after the result: a fast model's last tokens
            delays += [
                (when - int(message.delta) / 1e9) * 1e3 for when, message in goal.feedback if message.completion_tokens
            ]
    detail = f"{len(delays)} tokens, {name}, worst {max(delays):.2f} ms"
    return [
        Figure("feedback delay per token, median", statistics.median(delays), "ms", limit=limit, detail=detail),
        Figure("feedback delay per token, p99", percentile(delays, 0.99), "ms", detail=name),
    ]
