"""What several callers of the engine ``llama`` wait for: an image they share, another's image, each other."""

from __future__ import annotations

import json
import statistics

from bench import Bench
from figures import Figure
from processes import HERE, read_line, running


def several_callers(bench: Bench) -> list[Figure]:
    """The bare engine with four slots, in a process of its own."""
    rounds = bench.times(3)
    bench.say(f"loading the 2B-shaped model, then {rounds} rounds of questions")
    arguments = [str(HERE / "bare_callers.py"), str(bench.large), str(bench.threads), str(rounds)]
    with running(arguments) as program:
        found: dict[str, list[float]] = json.loads(read_line(program))
    median = {name: statistics.median(values) for name, values in found.items()}

    def ratio(name: str, one: str, other: str, unit: str, *, limit: float | None, at_least: bool) -> Figure:
        detail = f"{median[one]:.2f} / {median[other]:.2f} {unit}, 2B-shaped, median of {rounds}"
        ratios = [a / b for a, b in zip(found[one], found[other], strict=True)]
        return Figure(name, statistics.median(ratios), limit=limit, at_least=at_least, detail=detail)

    def gap(doing: str, done: str, limit: float | None) -> Figure:
        name, worst = f"longest wait for a token while another's image is {done}", max(found[f"gap while {doing}"])
        return Figure(name, median[f"gap while {doing}"], "s", limit, detail=f"worst {worst:.2f} s of {rounds}")

    return [
        ratio(
            "first token, image of a running answer / new image", "same image", "new image", "s",
            limit=0.1, at_least=False,
        ),
        ratio(
            "tokens/s, another's image is encoded / not", "rate while encoding", "rate undisturbed", "tokens/s",
            limit=0.5, at_least=True,
        ),
        gap("encoding", "encoded", 0.3),
        ratio(
            "tokens/s, another's prompt is read / not", "rate while reading", "rate undisturbed", "tokens/s",
            limit=None, at_least=False,
        ),
        gap("reading", "read", None),
        ratio("tokens/s of four callers / of one", "rate together", "rate alone", "tokens/s", limit=1.3, at_least=True),
    ]  # fmt: skip
