"""What an image's tokens cost until the first token of the answer, and whether the node expects it rightly."""

from __future__ import annotations

from qwen3vl_ros.action import AskImage

from bench import Bench
from figures import Figure
from ros_graph import noise_image
from vlm import vlm

PROMPT = "What is on the table?"
LEARNT = (100, 300, 100, 300)
ASKED = (600, 1024)
TIGHT = 3.0
"""The time-out of the question with AUTO, in first tokens of an image with 300 tokens."""


def image_tokens(bench: Bench) -> list[Figure]:
    """A new image of 1600x1200 each time. The expectation for sizes that the node has not seen yet."""
    figures = []
    bench.say("loading the 2B-shaped model")
    with vlm(bench, bench.large):
        took = {}
        for number, tokens in enumerate((*LEARNT, *ASKED)):
            bench.say(f"an image of {tokens} tokens")
            goal = bench.graph.ask(PROMPT, 2, images=[noise_image(number, 1600, 1200)], max_image_tokens=tokens)
            usage = goal.result()[1].usage
            took[tokens] = usage.first_token_time
            if tokens in ASKED:
                expected, measured = usage.expected_first_token_time, usage.first_token_time
                name = f"first token about {tokens} image tokens"
                detail = f"{expected:.3g} / {measured:.3g} s, encoding {usage.encode_time:.3g} s"
                figures.append(Figure(f"{name}, expected / measured", expected / measured, limit=1.25, detail=detail))
                figures.append(Figure(f"{name}, measured / expected", measured / expected, limit=1.25, detail=detail))
        seconds = TIGHT * took[300]
        bench.say(f"AUTO with {seconds:.0f} s")
        auto = AskImage.Goal.MAX_IMAGE_TOKENS_AUTO
        image = noise_image(99, 1600, 1200)
        goal = bench.graph.ask(PROMPT, 2, timeout=seconds, images=[image], max_image_tokens=auto)
        usage = goal.result()[1].usage
    sizes = ", ".join(f"{tokens}: {time:.3g} s" for tokens, time in sorted(took.items()))
    figures.append(Figure("first token, 1024 / 300 image tokens", took[1024] / took[300], detail=sizes))
    share = usage.first_token_time / seconds
    detail = f"{usage.first_token_time:.3g} of {seconds:.3g} s, {usage.max_image_tokens} tokens chosen"
    figures.append(Figure("AUTO, first token / time-out", share, limit=0.6, detail=detail))
    return figures
