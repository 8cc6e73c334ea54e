"""The first token of a follow-up question in a session against that of the session's first question."""

from __future__ import annotations

import statistics

from bench import Bench
from figures import Figure
from ros_graph import noise_image
from vlm import vlm

_FOLLOW_UPS = ("Is there anything on the floor?", "And which of them is nearest?")


def session(bench: Bench) -> list[Figure]:
    """From sending the goal to the first token's feedback, with a 640x480 image nobody saw before for each session."""
    ratios, firsts, seconds, read = [], [], [], []
    bench.say("loading the 2B-shaped model")
    with vlm(bench, bench.large):

        def first_token(prompt: str, name: str, images: list[object]) -> float:
            # Few tokens: the text of a random model's answer has other tokens than it generated, and more of them, so
            # that a follow-up reads the answer again, which one of a trained model finds in the KV cache.
            goal = bench.graph.ask(prompt, 2, session=name, images=images, text_only=not images)
            arrived = goal.wait_for_token()
            usage = goal.result()[1].usage
            if not images:
                read.append(usage.prompt_tokens - usage.cached_tokens)
            return arrived - goal.sent

        for number in range(bench.times(3)):
            name = f"session {number + 1}"
            bench.say(f"{name}: first question")
            firsts.append(first_token("What is on the table?", name, [noise_image(number)]))
            for prompt in _FOLLOW_UPS:
                bench.say(f"{name}: {prompt}")
                seconds.append(first_token(prompt, name, []))
                ratios.append(seconds[-1] / firsts[-1])
    detail = (
        f"{statistics.median(seconds):.2f} / {statistics.median(firsts):.2f} s, 2B-shaped, 300 image tokens; a "
        f"follow-up read {statistics.median(read):.0f} tokens"
    )
    return [Figure("session: first token, follow-up / first", statistics.median(ratios), limit=0.1, detail=detail)]
