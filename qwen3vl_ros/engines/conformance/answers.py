"""The conformance tests of an engine's description and of its answers."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import pytest

from qwen3vl_ros.engines.base import ABILITIES, Chunk, Description, Engine, FinishReason, FitMode, Stage, Usage
from qwen3vl_ros.engines.conformance.harness import EngineHarness, within
from qwen3vl_ros.engines.conformance.stream import has_text, outline, text_of


class Answers(EngineHarness):
    """Tests of description, probe and answers."""

    def test_description_is_constant_and_makes_sense(self, engine: Engine, whole: list[Chunk]) -> None:
        """``describe()`` can be called at any time and is sent to the node, which relies on every field."""
        del whole  # requested so that the engine has answered once
        description = engine.describe()
        assert isinstance(description, Description)
        assert engine.describe() == description, "describe() is constant after construction"
        assert pickle.loads(pickle.dumps(description)) == description, "describe() must survive pickling"
        assert description.engine and description.model, "engine and model are names that people are shown"
        unknown = description.supports - ABILITIES
        assert not unknown, f"supports has names that mean nothing: {sorted(unknown)}"
        for name in ("context_length", "prompt_limit", "concurrency"):
            value = getattr(description, name)
            assert value is None or value >= 1, f"{name} is {value}; None is for what is not known"
        assert description.concurrency is not None, "concurrency is a number"
        if description.context_length is not None and description.prompt_limit is not None:
            assert description.prompt_limit <= description.context_length
        assert description.max_images is None or description.max_images >= 0
        if description.max_images == 0:
            assert "text_only" in description.supports, "an engine that takes no images supports text_only"
        wanted = description.image_input
        assert wanted.multiple >= 1 and wanted.max_tokens >= 1
        assert wanted.fit in get_args(FitMode)
        assert wanted.size is None or min(wanted.size) >= 1, "size is (width, height) in pixels"
        assert all(isinstance(text, str) for pair in description.details.items() for text in pair)

    def test_probe_says_what_it_finds(self, engine: Engine, config: Mapping[str, Any]) -> None:
        """``probe`` takes the same keywords and says within a second or two what it found."""
        del engine  # requested so that what the engine needs is running
        probe = getattr(type(self).engine_class, "probe", None)
        if probe is None:
            pytest.skip("the engine has no probe")
        with within(self.patience, "probe()"):
            found = probe(**config)
        assert isinstance(found, str) and found, "probe() returns a sentence"

    def test_answer_comes_in_pieces(self, whole: list[Chunk]) -> None:
        """Text is streamed as it is generated, not all at the end: people read along."""
        texts = sum(map(has_text, whole[:-1]))
        assert texts >= 2, f"the text is to come in several chunks before the last one; it came in {outline(whole)}"

    def test_stages_come_in_order_and_text_in_the_last(self, whole: list[Chunk]) -> None:
        """The stages are encode, prefill, decode, each of which may be missing; only decode has text."""
        stages = [chunk.stage for chunk in whole]
        assert stages == sorted(stages), f"stages went {[stage.name for stage in stages]}"
        assert min(stages) >= Stage.ENCODE, "an engine's stages are ENCODE, PREFILL, DECODE; the others are the node's"
        assert all(chunk.stage is Stage.DECODE for chunk in whole if has_text(chunk)), "text comes in stage DECODE"

    def test_only_the_last_chunk_has_finish_reason_and_usage(self, whole: list[Chunk]) -> None:
        """The end of an answer is one chunk, and nothing follows it."""
        assert whole[-1].finish_reason in get_args(FinishReason)
        assert whole[-1].finish_reason != "cancelled", "nobody cancelled"
        assert isinstance(whole[-1].usage, Usage), "the last chunk has the usage"
        early = [chunk for chunk in whole[:-1] if chunk.finish_reason is not None or chunk.usage is not None]
        assert not early, f"before the end: {early}"

    def test_tokens_only_become_more(self, whole: list[Chunk]) -> None:
        """``completion_tokens`` is the number so far, and the usage agrees with that of the last chunk."""
        counts = [chunk.completion_tokens for chunk in whole]
        assert counts == sorted(counts), f"completion_tokens went {counts}"
        assert counts[-1] >= 1, "an answer with text has at least 1 token"
        assert counts[-1] == _usage(whole).completion_tokens, "usage.completion_tokens is that of the last chunk"

    def test_usage_adds_up(self, whole: list[Chunk]) -> None:
        """Counts and times are consistent: people add them up and compare them."""
        usage = _usage(whole)
        for field in fields(Usage):
            value = getattr(usage, field.name)
            assert value is None or value >= 0, f"usage.{field.name} is {value}"
        assert usage.prompt_tokens >= usage.image_tokens, "images are part of the prompt: prompt_tokens counts them"
        assert usage.prompt_tokens >= usage.cached_tokens, "cached_tokens is a part of prompt_tokens"
        assert usage.total_time is not None and usage.first_token_time is not None, "both were reached: say when"
        assert usage.first_token_time <= usage.total_time
        if usage.encode_time is not None:
            assert usage.encode_time <= usage.first_token_time, "images are encoded before the first token"

    def test_chunks_survive_the_way_to_the_node(self, whole: list[Chunk]) -> None:
        """Chunks are pickled and sent through a socket."""
        assert pickle.loads(pickle.dumps(whole)) == whole

    def test_same_question_has_the_same_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """At temperature 0, where the engine has one, no state of an answer is left in the next."""
        if not self.repeatable:
            pytest.skip("the engine is not repeatable")
        for _ in range(2):
            assert text_of(self.ask(engine, self.long_request(engine))) == text_of(whole)

    def test_seed_makes_chance_repeatable(self, engine: Engine) -> None:
        """With the same seed even a random answer is the same."""
        if not {"seed", "temperature"} <= engine.describe().supports or not self.repeatable:
            pytest.skip("the engine has no seed, or is not repeatable")
        answers = {text_of(self.ask(engine, self.request(engine, temperature=1.0, seed=5))) for _ in range(2)}
        assert len(answers) == 1, f"one seed, two answers: {answers}"

    def test_characters_are_whole(self, engine: Engine) -> None:
        """Chunks carry whole Unicode characters, wherever tokens or network packets split them."""
        request = self.non_ascii_request(engine)
        if request is None:
            pytest.skip("replace `non_ascii_request` with a question whose answer is not ASCII to test this")
        chunks = self.ask(engine, request)
        answer = text_of(chunks)
        assert not answer.isascii(), f"the answer to `non_ascii_request` has to have other characters: {answer!r}"
        for chunk in chunks:
            assert "\ufffd" not in chunk.text, f"half a character was decoded: {chunk.text!r} in {answer!r}"
            chunk.text.encode()  # raises for a lone surrogate, which is half a character, too


def _usage(chunks: list[Chunk]) -> Usage:
    usage = chunks[-1].usage
    assert isinstance(usage, Usage), "the last chunk has the usage"
    return usage
