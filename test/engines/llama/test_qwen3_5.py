"""Qwen3.5, whose layers keep a recurrent state, in the engine ``llama``: a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import tiny_qwen3_5
from qwen3vl_ros.engines.base import Cancel, Engine, Message, Options, Request
from qwen3vl_ros.engines.conformance import EngineConformance
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
QUESTIONS = ("What is it?", "What colour?", "What is it?", "How many?", "How many boxes?")


@pytest.fixture(scope="module")
def tiny(pytestconfig: pytest.Config) -> TinyModel:
    assert pytestconfig.cache is not None
    return tiny_qwen3_5.make(pytestconfig.cache.mkdir("tiny"))


@pytest.fixture
def engine(tiny: TinyModel) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(str(tiny.model), n_threads=1)
    yield engine
    engine.close()


def ask(engine: LlamaEngine, *messages: Message) -> str:
    request = Request(messages, Options(temperature=0.0, max_tokens=12))
    return "".join(chunk.text for chunk in engine.generate(request, Cancel()))


class TestConformance(EngineConformance):
    engine_class = LlamaEngine

    @pytest.fixture(scope="class")
    def config(self, tiny: TinyModel) -> Mapping[str, Any]:
        return {"model": str(tiny.model), "n_threads": 1}

    def long_request(self, engine: Engine) -> Request:
        return self.request(engine, "Say it.", schema={"const": "Œuvre: 猫 und 🦊, ½ Żółw in the blue box"})

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


def test_an_answer_does_not_depend_on_what_was_asked_before(engine: LlamaEngine, tiny: TinyModel) -> None:
    for question in QUESTIONS:
        fresh = LlamaEngine(str(tiny.model), n_threads=1)
        assert ask(engine, Message("user", (IMAGE, question))) == ask(fresh, Message("user", (IMAGE, question)))
        fresh.close()


@pytest.mark.parametrize("with_image", [True, False])
def test_answers_are_those_of_transformers(engine: LlamaEngine, tiny: TinyModel, with_image: bool) -> None:
    reference = Reference(tiny.hf_dir)
    compared = 0
    for question in QUESTIONS:
        message = Message("user", (IMAGE, question) if with_image else (question,))
        _, tokens, lead = reference.answer((message,), 12)
        if lead > 0.01:  # rounding does not decide
            assert ask(engine, message) == reference.tokenizer.decode(tokens, skip_special_tokens=True)
            compared += 1
    assert compared >= 2
