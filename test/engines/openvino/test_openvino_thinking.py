"""Thinking in the engine ``openvino``: on and off by the chat template, and the reasoning that is cut short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import openvino_export
import tiny_qwen3vl
from qwen3vl_ros.engines.base import Cancel, Chunk, Options, Request, Stage, Unsupported
from qwen3vl_ros.engines.openvino.engine import OpenvinoEngine
from qwen3vl_ros.engines.openvino.recommended import FileSampling
from qwen3vl_ros.engines.thinking import CLOSING
from tiny_model_tests import GREEDY, noise_image, text_of, user
from transformers_reference import Reference

pytest_plugins = ["tiny_model_fixtures"]

QUESTION = user("Tell me.")
PROMPT = "<|im_start|>user\nTell me.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def new_engine(exported: Path, tmp_path: Path) -> Iterator[Callable[..., OpenvinoEngine]]:
    engines: list[OpenvinoEngine] = []

    def new(chat_template: str, **config: Any) -> OpenvinoEngine:
        folder = tmp_path / f"{len(engines)}"
        openvino_export.with_chat_template(exported, folder, chat_template)
        engines.append(OpenvinoEngine(str(folder), properties=openvino_export.EXACT, **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture
def thinker(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    return new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE)


def ask(engine: OpenvinoEngine, options: Options = GREEDY, **fields: Any) -> list[Chunk]:
    return list(engine.generate(Request((QUESTION,), options, **fields), Cancel()))


def reasoning_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.reasoning for chunk in chunks)


@pytest.mark.parametrize("device", ["CPU", "AUTO"])  # AUTO: without continuous batching, as on an NPU
def test_reasoning_is_closed_after_so_many_tokens_and_the_answer_is_the_one_to_that_text(
    device: str, new_engine: Callable[..., OpenvinoEngine], reference: Reference
) -> None:
    engine = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE, device=device)
    begin, decode = f"{PROMPT}<think>\n", reference.tokenizer.decode
    n_closing = len(reference.tokenizer(CLOSING)["input_ids"])
    for limit in (0, 1, 5):
        prompt, thoughts, _ = reference.continued(begin, [], 5)
        thought = decode(thoughts[:limit]).rstrip("\ufffd")  # an incomplete character at the end
        _, answer, lead = reference.continued(f"{begin}{thought}{CLOSING}", [], 24 - limit - n_closing)
        assert lead > 0.04  # rounding must not decide
        chunks = ask(engine, max_reasoning_tokens=limit)
        assert reasoning_of(chunks) == thought.strip()
        assert text_of(chunks) == decode(answer, skip_special_tokens=True).lstrip().rstrip("\ufffd")
        counts = [chunk.completion_tokens for chunk in chunks]
        assert counts == sorted(counts)
        usage = chunks[-1].usage
        assert usage is not None
        assert (chunks[-1].finish_reason, usage.completion_tokens, counts[-1]) == ("length", 24, 24)
        assert usage.prompt_tokens in (len(prompt), len(prompt) + n_closing)
        assert usage.first_token_time is not None


def test_reasoning_within_its_limit_is_left_alone(thinker: OpenvinoEngine) -> None:
    free = ask(thinker)
    assert reasoning_of(free)
    for limit in (24, 10_000):
        limited = ask(thinker, max_reasoning_tokens=limit)
        assert (reasoning_of(limited), text_of(limited)) == (reasoning_of(free), text_of(free))


def test_limit_holds_for_a_question_about_an_image_and_stages_stay_in_order(thinker: OpenvinoEngine) -> None:
    for limit in (0, 4):
        request = Request((user(noise_image(64, 96), "What?"),), GREEDY, max_reasoning_tokens=limit)
        chunks = list(thinker.generate(request, Cancel()))
        assert bool(reasoning_of(chunks)) == bool(limit)
        assert text_of(chunks)
        stages = [chunk.stage for chunk in chunks]
        assert stages == sorted(stages)
        assert stages[0] == Stage.ENCODE


def test_answer_after_the_limit_follows_its_schema(thinker: OpenvinoEngine) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2}
    for limit in (0, 9):
        options = Options(temperature=1.5, top_k=0, top_p=1.0, seed=1, max_tokens=400)
        chunks = ask(thinker, options, response_schema=schema, max_reasoning_tokens=limit)
        assert chunks[-1].finish_reason == "stop"
        jsonschema.validate(json.loads(text_of(chunks)), schema)


def test_max_tokens_ends_reasoning_that_is_being_closed(thinker: OpenvinoEngine) -> None:
    options = Options(temperature=0.0, max_tokens=5)
    chunks = ask(thinker, options, max_reasoning_tokens=4)
    assert (chunks[-1].finish_reason, text_of(chunks)) == ("length", "")
    assert ask(thinker)[-1].finish_reason == "length"


@pytest.mark.parametrize("after", [1, 12])
def test_cancel_ends_the_reasoning_and_the_answer_after_it(after: int, thinker: OpenvinoEngine) -> None:
    cancel, options = Cancel(), Options(temperature=0.0, max_tokens=1000)
    chunks: list[Chunk] = []
    for chunk in thinker.generate(Request((QUESTION,), options, max_reasoning_tokens=4), cancel):
        chunks.append(chunk)
        if chunk.completion_tokens >= after:
            cancel.set()
    assert chunks[-1].finish_reason == "cancelled"
    assert chunks[-1].completion_tokens < 1000
    assert ask(thinker)[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("template", "able", "ends"),
    [
        (tiny_qwen3vl.CHAT_TEMPLATE, {"thinking_off"}, {None: "", False: ""}),
        (tiny_qwen3vl.THINKING_CHAT_TEMPLATE, {"thinking"}, {None: "<think>\n", True: "<think>\n"}),
        (
            tiny_qwen3vl.THINKS_UNLESS_TOLD,
            {"thinking", "thinking_off"},
            {None: "<think>\n", True: "<think>\n", False: "<think>\n\n</think>\n\n"},
        ),
        (
            tiny_qwen3vl.OPENS_ITSELF,
            {"thinking", "thinking_off"},
            {None: "", True: "<think>\n", False: "<think>\n\n</think>\n\n"},
        ),
    ],
    ids=["instruct", "thinking", "unless told", "opens itself"],
)
def test_template_is_told_and_what_it_cannot_do_is_refused(
    template: str, able: set[str], ends: dict[bool | None, str], new_engine: Callable[..., OpenvinoEngine]
) -> None:
    engine = new_engine(template)
    assert engine.describe().supports & {"thinking", "thinking_off"} == able
    assert "reasoning_budget" in engine.describe().supports
    for wanted, end in ends.items():
        assert engine._prompts.build((QUESTION,), wanted).text == PROMPT + end
        assert bool(reasoning_of(ask(engine, thinking=wanted))) == (end == "<think>\n")
    for wanted in {True, False} - ends.keys():
        with pytest.raises(Unsupported, match=r"^thinking: the model 0 .* unset or o"):
            ask(engine, thinking=wanted)


def test_unset_options_are_those_of_the_file_and_then_of_the_models_card(tmp_path: Path) -> None:
    def options(name: str, thinks: bool, by_itself: bool, request: Request, **file: Any) -> Options:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "generation_config.json").write_text(json.dumps(file))
        try:
            return FileSampling(folder, by_itself).options(request, thinks)
        finally:
            shutil.rmtree(folder)

    plain, schema = Request((QUESTION,)), Request((QUESTION,), response_schema={})
    file = {"temperature": 0.6, "top_k": 30}
    found = options("Qwen3-VL-4B-Instruct-int4-ov", False, False, plain, **file)
    assert (found.temperature, found.top_k, found.top_p, found.presence_penalty) == (None, None, 0.8, 1.5)
    assert options("Qwen3-VL-4B-Instruct-int4-ov", False, False, schema, **file).presence_penalty == 0.0
    found = options("Qwen3.5-9B-int4-ov", False, True, plain, **file)  # the file is for the answers with reasoning
    assert (found.temperature, found.top_k, found.presence_penalty) == (0.7, 20, 1.5)
    found = options("Qwen3.5-9B-int4-ov", True, True, plain, **file)
    assert (found.temperature, found.top_p, found.presence_penalty) == (None, 0.95, 1.5)
    assert options("mine", False, False, plain, **file) == Options()
    asked = Request((QUESTION,), Options(presence_penalty=0.25, temperature=1.0))
    found = options("Qwen3-VL-4B-Instruct-int4-ov", False, False, asked, **file)
    assert (found.presence_penalty, found.temperature) == (0.25, 1.0)
