"""The ``llama`` engine with several callers at once, of a tiny Qwen3-VL."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from llama_cpp import llama_cpp as lib

from qwen3vl_ros.engines.base import Cancel, Chunk, EngineError, Options, Request, Stage
from qwen3vl_ros.engines.llama import context, scheduler
from qwen3vl_ros.engines.llama.context import n_cells
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from tiny_model_tests import GREEDY, ask, noise_image, stream, text_of, user
from tiny_qwen3vl import TinyModel

pytest_plugins = ["tiny_model_fixtures"]

LONG = Options(temperature=0.0, max_tokens=96)
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
"""An answer of this schema does not end by itself."""


@pytest.fixture
def new_engine(tiny: TinyModel) -> Iterator[Callable[..., LlamaEngine]]:
    engines = []

    def new(**config: Any) -> LlamaEngine:
        # One thread: two that wait for each other crawl when something else has the second core.
        engines.append(LlamaEngine(str(tiny.model), **{"mmproj": str(tiny.mmproj), "n_threads": 1, **config}))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(new_engine: Callable[..., LlamaEngine]) -> LlamaEngine:
    return new_engine()


def start(engine: LlamaEngine, request: Request, *, until: Stage, cancel: Cancel | None = None) -> Iterator[Chunk]:
    """Begin an answer and read it until ``until`` has begun; the rest is left to the caller."""
    answer = engine.generate(request, cancel or Cancel())
    while next(answer).stage < until:
        pass
    return answer


class HeldInEncoder(Cancel):
    """Stops the image encoder in the middle of an image until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding, self.go_on = threading.Event(), threading.Event()

    def is_set(self) -> bool:
        if threading.current_thread().name == "llama-encoder":
            self.encoding.set()
            assert self.go_on.wait(60)
        return super().is_set()


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KV cache in float32: in float16, rounding depends on what else is in a batch, by up to 0.05 in a logit."""

    def params() -> Any:
        params = lib.llama_context_default_params()
        params.type_k = params.type_v = lib.GGML_TYPE_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params

    double = SimpleNamespace(**vars(lib))
    double.llama_context_default_params = params
    monkeypatch.setattr(context, "lib", double)


def test_hundreds_of_answers_with_images_and_cancels_are_those_given_alone(
    new_engine: Callable[..., LlamaEngine],
) -> None:
    images = [noise_image(width, height, seed) for seed, (width, height) in enumerate([(128, 96), (64, 64), (96, 160)])]
    texts = ("What is this?", "How many red boxes?", "Grüße 5 你好", "Where is it, and why? " * 8)
    chance = random.Random(0)
    messages = [
        user(*chance.sample(images, chance.choice((0, 1, 1, 2))), f"{texts[number % 4]} {number}")
        for number in range(50)
    ]
    alone = new_engine(slots=1, n_ctx=512)
    expected = [ask(alone, message) for message in messages]
    engine = new_engine(slots=8, n_ctx=512)
    plans = [
        (messages[number], expected[number], chance.randint(1, 20) if chance.random() < 0.25 else None)
        for number in (chance.randrange(len(messages)) for _ in range(200))
    ]

    def question(plan: tuple[Any, str, int | None]) -> str:
        message, expected, stop_at = plan
        cancel = Cancel()
        chunks: list[Chunk] = []
        for chunk in engine.generate(Request((message,), GREEDY), cancel):
            chunks.append(chunk)
            if len(chunks) == stop_at:
                cancel.set()
        said = text_of(chunks)
        reason = chunks[-1].finish_reason
        if reason == "cancelled":
            assert stop_at is not None
            return "cancelled" if expected.startswith(said.rstrip("\ufffd")) else f"{said!r} of {expected!r}"
        return "whole" if said == expected else f"{said!r} in place of {expected!r}"

    with ThreadPoolExecutor(8) as callers:
        outcomes = list(callers.map(question, plans))
    assert set(outcomes) == {"whole", "cancelled"}
    assert outcomes.count("cancelled") >= 20


def test_another_callers_question_leaves_the_prefix_of_the_first(engine: LlamaEngine) -> None:
    image = noise_image(128, 96, 1)
    first = stream(engine, user(image, "What is this?"))[-1].usage
    assert first is not None
    stream(engine, user(noise_image(64, 96, 2), "And this?"))
    again = stream(engine, user(image, "What is this?"))[-1].usage
    assert again is not None
    assert again.cached_tokens == first.prompt_tokens - 1


def test_question_about_the_image_of_a_running_answer_neither_encodes_nor_reads_it(engine: LlamaEngine) -> None:
    image = noise_image(320, 320, 1)
    running = start(engine, Request((user(image, "Describe it."),), LONG), until=Stage.DECODE)
    chunks = stream(engine, user(image, "What is it?"))
    assert [chunk.stage for chunk in chunks if not chunk.completion_tokens] == [Stage.PREFILL]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.encode_time == 0.0
    assert usage.cached_tokens > 100
    running.close()
    assert text_of(chunks) == ask(engine, user(image, "What is it?"))


def test_answers_go_on_while_an_image_of_another_caller_is_encoded(engine: LlamaEngine) -> None:
    expected = ask(engine, user("Tell me."), options=LONG)
    about_image = Request((user(noise_image(128, 96, 1), "What is this?"),), GREEDY)
    held = HeldInEncoder()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(lambda: list(engine.generate(about_image, held)))
        assert held.encoding.wait(60)
        assert ask(engine, user("Tell me."), options=LONG) == expected
        assert not waiting.done()
        held.go_on.set()
        assert text_of(waiting.result(60)) == ask(engine, *about_image.messages)


def test_cancel_ends_an_answer_whose_image_waits_for_that_of_another_caller(engine: LlamaEngine) -> None:
    held, cancel = HeldInEncoder(), Cancel()
    first = Request((user(noise_image(128, 96, 1), "What is this?"),), GREEDY)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(lambda: list(engine.generate(first, held)))
        assert held.encoding.wait(60)
        second = Request((user(noise_image(128, 96, 2), "And this?"),), GREEDY)
        behind = start(engine, second, until=Stage.ENCODE, cancel=cancel)
        cancel.set()
        *_, last = behind
        assert (last.stage, last.finish_reason) == (Stage.ENCODE, "cancelled")
        held.go_on.set()
        assert waiting.result(60)[-1].finish_reason != "cancelled"


def test_image_that_two_ask_about_at_once_is_encoded_and_read_once(engine: LlamaEngine) -> None:
    image = noise_image(160, 160, 3)
    held = HeldInEncoder()
    with ThreadPoolExecutor(1) as other:
        one = other.submit(lambda: list(engine.generate(Request((user(image, "What?"),), GREEDY), held)))
        assert held.encoding.wait(60)
        two = start(engine, Request((user(image, "Where?"),), GREEDY), until=Stage.ENCODE)
        held.go_on.set()
        *_, last = two
        assert last.usage is not None
        assert last.usage.encode_time == 0.0
        assert last.usage.cached_tokens >= 25
        assert one.result(60)[-1].usage.encode_time > 0.0


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PREFILL, Stage.DECODE])
def test_cancel_changes_nothing_for_a_running_answer(stage: Stage, engine: LlamaEngine) -> None:
    expected = ask(engine, user("Tell me."), options=LONG)
    for seed in range(4):
        running = start(engine, Request((user("Tell me."),), LONG), until=Stage.DECODE)
        cancel = Cancel()
        request = Request((user(noise_image(320, 320, seed), "Tell me. " * 20),), GREEDY)
        cancelled = start(engine, request, until=stage, cancel=cancel)
        cancel.set()
        *_, last = cancelled
        assert last.finish_reason == "cancelled"
        assert expected.endswith(text_of(list(running)))
        assert ask(engine, user("Tell me."), options=LONG) == expected


def test_answer_that_nobody_reads_is_not_computed_to_its_end(engine: LlamaEngine) -> None:
    cancel = Cancel()
    unread = start(engine, Request((user("Tell me."),), LONG, NUMBERS), until=Stage.PREFILL, cancel=cancel)
    assert stream(engine, user("Count."), options=LONG, schema=NUMBERS)[-1].completion_tokens == LONG.max_tokens
    cancel.set()
    *_, last = unread
    assert last.finish_reason == "cancelled"
    assert last.completion_tokens < 12


def test_running_answers_have_a_token_with_every_part_of_another_prompt(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_PAUSE", 0.0)
    batches: list[tuple[int, bool]] = []
    decode = engine._context.decode

    def spy(batch: Any, cancelled: Any, *, prompt: bool) -> None:
        batches.append((batch.n_tokens, prompt))
        decode(batch, cancelled, prompt=prompt)

    monkeypatch.setattr(engine._context, "decode", spy)
    request = Request((user("Tell me."),), Options(temperature=0.0, max_tokens=3000), NUMBERS)
    cancel, begun = Cancel(), threading.Event()

    def read() -> int:
        count = 0
        for chunk in engine.generate(request, cancel):
            count = chunk.completion_tokens
            if count:
                begun.set()
        return count

    with ThreadPoolExecutor(1) as other:
        running = other.submit(read)
        assert begun.wait(60)
        batches.clear()
        long_prompt = user("What is it? " * 30, noise_image(160, 160, 1))
        *_, last = start(engine, Request((long_prompt,), Options(temperature=0.0, max_tokens=1)), until=Stage.DECODE)
        seen = list(batches)
        cancel.set()
        assert running.result(60) > 0
    assert last.usage is not None
    parts = [n for n, prompt in seen if prompt]
    assert max(parts) <= 17  # 16 of the prompt and the token of the one that runs
    assert len(parts) >= last.usage.prompt_tokens // 17
    assert parts.count(17) > 0


def test_full_cache_forgets_the_longest_idle_and_harms_nobody_who_runs(
    new_engine: Callable[..., LlamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has room for all slots; so one caller is let have more than its share."""
    engine, cells = new_engine(slots=4, n_ctx=256), 4 * 256
    assert engine.describe().context_length == 256
    monkeypatch.setattr(engine._context, "n_ctx", cells)
    alone = new_engine(slots=1, n_ctx=cells)
    expected = ask(alone, user("Tell me."), options=LONG, schema=NUMBERS)
    for text in ("One. " * 30, "Two. " * 30):
        stream(engine, user(text))
    running = start(engine, Request((user("Tell me."),), LONG, NUMBERS), until=Stage.DECODE)
    longest_idle, idle = sorted((s for s in engine._scheduler.slots if s.pieces and not s.busy), key=lambda s: s.used)
    free = cells - sum(n_cells(slot.pieces) for slot in engine._scheduler.slots)

    image = noise_image(480, 480, 1)
    least = n_cells(engine._prompts.build((user(image, ""),)).pieces)
    large = user(image, "x" * (free + n_cells(longest_idle.pieces) // 2 - least))
    assert ask(engine, large) == ask(alone, large)
    assert idle.pieces and not longest_idle.pieces
    assert expected.endswith(text_of(list(running)))


def test_more_answers_than_slots_are_refused_and_closed_ones_make_room(engine: LlamaEngine) -> None:
    assert engine.describe().concurrency == 2
    running = [start(engine, Request((user(f"{n}."),), LONG), until=Stage.DECODE) for n in range(2)]
    with pytest.raises(EngineError, match="answers 2 requests at a time"):
        ask(engine, user("And me?"))
    running[0].close()
    assert ask(engine, user("And me?"))
    running[1].close()


def test_one_answers_error_leaves_the_others(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(engine, user("Tell me."), options=LONG)
    running = start(engine, Request((user("Tell me."),), LONG), until=Stage.DECODE)

    def fail(*_: object) -> None:
        raise EngineError("the encoder failed, try another image")

    with monkeypatch.context() as patch:
        patch.setattr(engine._vision, "encode", fail)
        with pytest.raises(EngineError, match="another image"):
            ask(engine, user(noise_image(64, 64, 1), "?"))
    assert expected.endswith(text_of(list(running)))
    assert ask(engine, user(noise_image(64, 64, 1), "?"))


def test_every_slot_has_the_whole_context(new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(slots=4, n_ctx=256)
    with ThreadPoolExecutor(4) as callers:
        count = functools.partial(stream, engine, options=Options(temperature=0.0), schema=NUMBERS)
        ends = [chunks[-1] for chunks in callers.map(lambda n: count(user(f"Count {n}.")), range(4))]
    assert {(end.finish_reason, end.usage.prompt_tokens + end.usage.completion_tokens) for end in ends} == {
        ("length", 257)
    }
