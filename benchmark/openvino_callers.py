"""The engine ``openvino`` with several callers: tokens of all, how long one holds another up, and a cancel."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from dataclasses import dataclass, field

from bench import Bench
from figures import Figure
from openvino_llama import IMAGE, MODEL
from openvino_random_model import make
from processes import read_line, running

CALLERS = 8
TOKENS = 64
LONG_PROMPT = " word" * 800


def openvino_callers(bench: Bench) -> list[Figure]:
    """All of it in one process with the engine, bare."""
    bench.say("making an OpenVINO model with the shapes of Qwen3-VL-2B, where there is none: this takes minutes")
    model = make(MODEL)
    bench.say(f"asking with up to {CALLERS} callers")
    with running([__file__, str(model)]) as process:
        read_line(process)
        process.stdin.write("\n")
        process.stdin.flush()
        found = json.loads(read_line(process))
    one, all_of_them = found["alone"], found["together"]
    first, second = found["first"], found["second"]
    return [
        Figure(
            f"openvino, tokens/s of {CALLERS} callers / of one",
            all_of_them / one,
            limit=2.5,
            at_least=True,
            detail=f"{all_of_them:.1f} / {one:.1f} tokens/s, an image that it knows",
        ),
        Figure("openvino, longest stop while another's text is read", found["text_gap"], "s", 0.5),
        Figure("openvino, longest stop while another's new image is read", found["image_gap"], "s"),
        Figure("openvino, cancel while a prompt is read", found["cancel"] * 1e3, "ms", 100.0),
        Figure(
            "openvino, first token, second question / first", second / first, detail=f"{second:.2f} / {first:.2f} s"
        ),
    ]


@dataclass(eq=False)
class _Caller(threading.Thread):
    """Asks one question and keeps the time of each of the answer's tokens."""

    engine: object
    request: object
    times: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        from qwen3vl_ros.engines.base import Cancel

        super().__init__()
        self.begin = time.monotonic()
        self.cancel = Cancel()
        self.speaks = threading.Event()

    def run(self) -> None:
        for chunk in self.engine.generate(self.request, self.cancel):
            while len(self.times) < chunk.completion_tokens:
                self.times.append(time.monotonic())
                self.speaks.set()
        self.end = time.monotonic()
        self.speaks.set()

    @property
    def first_token(self) -> float:
        return self.times[0] - self.begin


def main() -> int:
    """The process: a line in, a line with all figures out."""
    import numpy as np

    from qwen3vl_ros.engines import registry
    from qwen3vl_ros.engines.base import Message, Options, Request

    engine = registry.load("openvino")(model=sys.argv[1], concurrency=CALLERS)
    width, height = IMAGE
    images = (
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8) for seed in itertools.count()
    )
    known = next(images)

    def ask(text: str, *image: object, tokens: int = TOKENS) -> _Caller:
        options = Options(temperature=0.0, max_tokens=tokens)
        caller = _Caller(engine, Request((Message("user", (*image, text)),), options))
        caller.start()
        return caller

    def done(caller: _Caller) -> _Caller:
        caller.join()
        return caller

    def stop_of_a_running_answer(text: str, *image: object) -> float:
        running_answer = ask("Describe it.", known, tokens=4 * TOKENS)
        running_answer.speaks.wait()
        other = done(ask(text, *image, tokens=1))
        running_answer.cancel.set()
        times = done(running_answer).times
        gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later > other.begin]
        return max(gaps, default=other.end - other.begin)

    print("ready", flush=True)
    sys.stdin.readline()
    first = done(ask("What is on the table?", known)).first_token
    second = done(ask("How many are there?", known))
    together = [ask(f"What is number {number}?", known) for number in range(CALLERS)]
    for caller in together:
        caller.join()
    begin, end = max(caller.times[0] for caller in together), min(caller.times[-1] for caller in together)
    made = sum(begin < at <= end for caller in together for at in caller.times)
    found = {
        "first": first,
        "second": second.first_token,
        "alone": (len(second.times) - 1) / (second.times[-1] - second.times[0]),
        "together": made / (end - begin),
        "text_gap": stop_of_a_running_answer(LONG_PROMPT),
        "image_gap": stop_of_a_running_answer("What is this?", next(images)),
    }
    reading = ask(LONG_PROMPT + "?")
    reading.speaks.wait(0.3)
    cancelled = time.monotonic()
    reading.cancel.set()
    found["cancel"] = done(reading).end - cancelled
    print(json.dumps(found), flush=True)
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
