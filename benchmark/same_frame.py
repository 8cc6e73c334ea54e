"""The first token of a second question about a frame against that of the first question about it."""

from __future__ import annotations

import statistics

from bench import Bench
from figures import Figure
from ros_graph import noise_image
from vlm import vlm


def same_frame(bench: Bench) -> list[Figure]:
    """From sending the goal to the first token's feedback, with a 640x480 image nobody saw before."""
    repeats = bench.times(3)
    ratios, firsts, seconds = [], [], []
    bench.say("loading the 2B-shaped model")
    with vlm(bench, bench.large):

        def first_token(prompt: str, image: object) -> float:
            goal = bench.graph.ask(prompt, 2, images=[image])
            arrived = goal.wait_for_token()
            goal.result()
            return arrived - goal.sent

        for number in range(repeats):
            image = noise_image(number)
            bench.say(f"image {number + 1} of {repeats}: first question")
            firsts.append(first_token("What is on the table?", image))
            bench.say(f"image {number + 1} of {repeats}: second question")
            seconds.append(first_token("Is there anything on the floor?", image))
            ratios.append(seconds[-1] / firsts[-1])
    detail = f"{statistics.median(seconds):.2f} / {statistics.median(firsts):.2f} s, 2B-shaped, 300 image tokens"
    return [Figure("first token, second question / first", statistics.median(ratios), limit=0.1, detail=detail)]
