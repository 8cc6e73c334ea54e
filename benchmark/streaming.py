"""Tokens per second through the action against the bare engine; what each token's way to the client takes."""

from __future__ import annotations

import statistics
from pathlib import Path

from bare_engine import bare_engine
from bench import Bench
from figures import Figure, percentile
from vlm import vlm

PROMPT = "What is on the table?"
TOKENS = 64
PAIRS = 24  # of runs: one is several percent off on a machine with neighbours, and what is looked for is less


def throughput(bench: Bench) -> list[Figure]:
    """Runs in turn, each pair in the opposite order of the one before; the median of the pairs' ratios."""
    pairs = bench.times(PAIRS)
    ratios, speeds = [], []
    bench.say("loading the 2B-shaped model, twice")
    with vlm(bench, bench.large), bare_engine(bench.large, bench.threads) as ask_bare:

        def ask_action() -> float:
            goal = bench.graph.ask(PROMPT, TOKENS, text_only=True)
            first = goal.wait_for_token()
            ended, result = goal.result()
            return (result.usage.completion_tokens - 1) / (ended - first)

        ask_bare(PROMPT, 4), bench.graph.ask(PROMPT, 4, text_only=True).result()  # the prompt is in both KV caches now
        for pair in range(pairs):
            bench.say(f"pair {pair + 1} of {pairs}")
            if pair % 2:
                action, bare = ask_action(), ask_bare(PROMPT, TOKENS)
            else:
                bare, action = ask_bare(PROMPT, TOKENS), ask_action()
            ratios.append(action / bare)
            speeds.append((action, bare))
    action, bare = (statistics.median(column) for column in zip(*speeds, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4) if pairs > 1 else ratios * 3
    detail = f"{action:.1f} / {bare:.1f} tokens/s, 2B-shaped, {pairs} pairs, half of them from {low:.3f} to {high:.3f}"
    return [Figure("tokens/s, action / engine", statistics.median(ratios), limit=0.98, at_least=True, detail=detail)]


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
