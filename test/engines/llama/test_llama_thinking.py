"""Thinking in the engine ``llama``: on and off by the chat template, and the reasoning that is cut short."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import tiny_qwen3vl
from qwen3vl_ros.engines.base import BadRequest, Cancel, Chunk, Options, Request, Unsupported
from qwen3vl_ros.engines.conformance.thinking import Thinking
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.thinking import CLOSING
from tiny_model_tests import GREEDY, noise_image, text_of, user
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference

pytest_plugins = ["tiny_model_fixtures"]

QUESTION = user("Tell me.")
PROMPT = "<|im_start|>user\nTell me.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def new_engine(tiny: TinyModel, tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    engines: list[LlamaEngine] = []

    def new(chat_template: str = "", name: str = "tiny", **config: Any) -> LlamaEngine:
        metadata: dict[str, str | int | float] = {"general.name": name}
        if chat_template:
            metadata["tokenizer.chat_template"] = chat_template
        model = tiny_qwen3vl.with_metadata(tiny.model, tmp_path / f"{len(engines)}.gguf", metadata)
        engines.append(LlamaEngine(str(model), mmproj=str(tiny.mmproj), n_threads=1, **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


class TestThinkingConformance(Thinking):
    """With a model that can do either."""

    engine_class = LlamaEngine

    @pytest.fixture(scope="class")
    def config(self, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        template = {"tokenizer.chat_template": tiny_qwen3vl.THINKS_UNLESS_TOLD}
        model = tiny_qwen3vl.with_metadata(tiny.model, tmp_path_factory.mktemp("thinker") / "model.gguf", template)
        return {"model": str(model), "mmproj": str(tiny.mmproj), "n_threads": 1}


def ask(engine: LlamaEngine, options: Options = GREEDY, **fields: Any) -> list[Chunk]:
    return list(engine.generate(Request((QUESTION,), options, **fields), Cancel()))


def reasoning_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.reasoning for chunk in chunks)


def tokens_read(engine: LlamaEngine) -> list[int]:
    """The tokens of the newest answer that the model was given: its prompt, and all it wrote but the last one."""
    newest = max(engine._scheduler.slots, key=lambda slot: slot.used)
    return [piece for piece in newest.pieces if isinstance(piece, int)]


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_reasoning_is_closed_after_so_many_tokens_and_the_answer_is_the_one_to_those_tokens(
    limit: int, new_engine: Callable[..., LlamaEngine], reference: Reference
) -> None:
    closing: list[int] = reference.tokenizer(CLOSING)["input_ids"]
    prompt, thoughts, _ = reference.continued(f"{PROMPT}<think>\n", [], 5)
    thoughts = thoughts[:limit]
    _, answer, lead = reference.continued(f"{PROMPT}<think>\n", thoughts + closing, 24 - limit - len(closing))
    assert lead > 0.05  # rounding must not decide
    engine = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    chunks = ask(engine, max_reasoning_tokens=limit)
    assert tokens_read(engine) == prompt + thoughts + closing + answer[:-1]
    decode = reference.tokenizer.decode
    assert reasoning_of(chunks) == decode(thoughts).strip()
    assert text_of(chunks) == decode(answer, skip_special_tokens=True).lstrip().rstrip("\ufffd")  # whole characters
    assert chunks[-1].usage is not None
    assert (chunks[-1].finish_reason, chunks[-1].usage.completion_tokens) == ("length", 24)


def test_reasoning_within_its_limit_is_left_alone(new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    free = ask(engine)
    assert reasoning_of(free)
    for limit in (24, 10_000):
        limited = ask(engine, max_reasoning_tokens=limit)
        assert (reasoning_of(limited), text_of(limited)) == (reasoning_of(free), text_of(free))


def test_answer_after_the_limit_follows_its_schema(new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    schema = {"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 2, "maxItems": 2}
    for limit in (0, 9):
        options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=1, max_tokens=400)
        chunks = ask(engine, options, response_schema=schema, max_reasoning_tokens=limit)
        assert chunks[-1].finish_reason == "stop"
        jsonschema.validate(json.loads(text_of(chunks)), schema)


def test_probabilities_are_those_after_the_closed_reasoning(new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    said = text_of(ask(engine, max_reasoning_tokens=3))
    word = next(word for word in said.split() if word[0].isalnum())
    chunks = ask(engine, max_reasoning_tokens=3, choices=((said[said.index(word) :][:1],), ("\U00010330",)))
    assert text_of(chunks) == said
    assert chunks[-1].probabilities is not None
    assert chunks[-1].probabilities[0] > 0.0


def test_cancel_reaches_an_answer_whose_reasoning_is_being_closed(new_engine: Callable[..., LlamaEngine]) -> None:
    engine, cancel = new_engine(tiny_qwen3vl.THINKING_CHAT_TEMPLATE), Cancel()
    answer = engine.generate(Request((QUESTION,), GREEDY, max_reasoning_tokens=0), cancel)
    next(answer)
    cancel.set()
    assert list(answer)[-1].finish_reason == "cancelled"
    assert ask(engine)[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("template", "able", "ends"),
    [
        ("", {"thinking_off"}, {None: "", False: ""}),
        (tiny_qwen3vl.THINKING_CHAT_TEMPLATE, {"thinking"}, {None: "<think>\n", True: "<think>\n"}),
        (
            tiny_qwen3vl.THINKS_UNLESS_TOLD,
            {"thinking", "thinking_off"},
            {None: "<think>\n", True: "<think>\n", False: "<think>\n\n</think>\n\n"},
        ),
        (
            tiny_qwen3vl.THINKS_IF_TOLD,
            {"thinking", "thinking_off"},
            {None: "<think>\n\n</think>\n\n", True: "<think>\n", False: "<think>\n\n</think>\n\n"},
        ),
        (
            tiny_qwen3vl.OPENS_ITSELF,
            {"thinking", "thinking_off"},
            {None: "", True: "<think>\n", False: "<think>\n\n</think>\n\n"},
        ),
    ],
    ids=["instruct", "thinking", "unless told", "if told", "opens itself"],
)
def test_template_is_told_and_what_it_cannot_do_is_refused(
    template: str,
    able: set[str],
    ends: dict[bool | None, str],
    new_engine: Callable[..., LlamaEngine],
    reference: Reference,
) -> None:
    engine = new_engine(template)
    assert engine.describe().supports & {"thinking", "thinking_off"} == able
    assert "reasoning_budget" in engine.describe().supports
    for wanted, end in ends.items():
        ask(engine, Options(temperature=0.0, max_tokens=1), thinking=wanted)
        assert reference.tokenizer.decode(tokens_read(engine)) == PROMPT + end
    for wanted in {True, False} - ends.keys():
        with pytest.raises(Unsupported, match=r"^thinking: the model tiny .* unset or o"):
            ask(engine, thinking=wanted)
    with pytest.raises(BadRequest, match=r"^max_reasoning_tokens: .*-1"):
        ask(engine, max_reasoning_tokens=-1)
    assert ask(engine)


def test_thinking_is_told_with_images_and_an_earlier_turn(new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny_qwen3vl.THINKS_IF_TOLD)
    messages = (user(noise_image(64, 64), "One?"), replace(user("Yes."), role="assistant"), user("Two?"))
    told = list(engine.generate(Request(messages, GREEDY, thinking=True, max_reasoning_tokens=2), Cancel()))
    untold = list(engine.generate(Request(messages, GREEDY), Cancel()))
    assert reasoning_of(told)
    assert not reasoning_of(untold)


VL = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5}
THINKING = {"temperature": 1.0, "top_p": 0.95, "top_k": 20, "presence_penalty": 0.0}


@pytest.mark.parametrize(
    ("name", "template", "thinking", "values"),
    [
        ("Qwen3-VL-2B-Instruct", "", None, VL),
        ("Qwen3Vl 2b Instruct", "", None, VL),
        ("Qwen3-VL-2B-Thinking", tiny_qwen3vl.THINKING_CHAT_TEMPLATE, None, THINKING),
        ("Qwen3.5-9B", tiny_qwen3vl.THINKS_UNLESS_TOLD, None, THINKING | {"presence_penalty": 1.5}),
        ("Qwen3.5-9B", tiny_qwen3vl.THINKS_UNLESS_TOLD, False, VL),
        ("Qwen3.5-0.8B", tiny_qwen3vl.THINKS_IF_TOLD, True, THINKING | {"temperature": 0.6}),
        ("Qwen3.5-0.8B", tiny_qwen3vl.THINKS_IF_TOLD, None, VL),
        ("mine", "", None, VL | {"presence_penalty": 0.0}),
    ],
    ids=range(8),
)
def test_unset_options_are_those_of_the_models_card(
    name: str,
    template: str,
    thinking: bool | None,
    values: dict[str, float],
    new_engine: Callable[..., LlamaEngine],
) -> None:
    engine = new_engine(template, name)
    unset = ask(engine, Options(seed=5, max_tokens=96), thinking=thinking)
    explicit = ask(engine, Options(**values, seed=5, max_tokens=96), thinking=thinking)
    assert [(c.text, c.reasoning) for c in unset] == [(c.text, c.reasoning) for c in explicit]
    for changed in ({"temperature": 2.0}, {"presence_penalty": 1.5 - values["presence_penalty"]}):
        other = ask(engine, Options(**values | changed, seed=5, max_tokens=96), thinking=thinking)
        assert [(c.text, c.reasoning) for c in other] != [(c.text, c.reasoning) for c in unset]


def test_recommended_presence_penalty_leaves_json_and_greedy_answers_alone(
    new_engine: Callable[..., LlamaEngine],
) -> None:
    engine, plain = new_engine("", "Qwen3-VL-2B-Instruct"), new_engine("", "mine")
    schema = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 9, "maxItems": 9}
    for options, fields in (
        (Options(temperature=0.0, max_tokens=96), {}),
        (Options(seed=5, max_tokens=96), {"response_schema": schema}),
    ):
        assert text_of(ask(engine, options, **fields)) == text_of(ask(plain, options, **fields))
    prose = Options(seed=5, max_tokens=96)
    assert text_of(ask(engine, prose)) != text_of(ask(plain, prose))


def test_sampling_of_the_file_is_for_what_the_model_does_by_itself(tiny: TinyModel, tmp_path: Path) -> None:
    metadata = {
        "general.name": "Qwen3.5-9B",
        "general.sampling.temp": 1.7,
        "tokenizer.chat_template": tiny_qwen3vl.THINKS_UNLESS_TOLD,
    }
    model = tiny_qwen3vl.with_metadata(tiny.model, tmp_path / "own.gguf", metadata)
    engine = LlamaEngine(str(model), n_threads=1)
    try:
        assert (engine._family.thinking.temperature, engine._family.at_once.temperature) == (1.7, 0.7)
        assert engine._family.thinking.presence_penalty == 1.5
    finally:
        engine.close()
