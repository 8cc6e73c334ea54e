"""The conformance tests of reasoning before the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qwen3vl_ros.engines.base import Chunk, Engine, Unsupported
from qwen3vl_ros.engines.conformance.harness import EngineHarness, with_options
from qwen3vl_ros.engines.conformance.stream import outline, text_of

_LIMIT = 8
_SLACK = 64
"""Tokens of reasoning that a test allows, and those that a server may take on top to close it."""


class Thinking(EngineHarness):
    """Tests of ``thinking`` and ``max_reasoning_tokens``."""

    def test_no_reasoning_where_none_is_wanted(self, engine: Engine) -> None:
        """An engine that supports ``thinking_off`` answers without reasoning where a request says so."""
        self._can(engine, "thinking_off")
        chunks = self.ask(engine, replace(self.long_request(engine), thinking=False))
        assert not reasoning_of(chunks), f"thinking=False, and the engine reasons: {reasoning_of(chunks)[:100]!r}"
        assert text_of(chunks)

    def test_reasoning_comes_first_where_it_is_wanted(self, engine: Engine) -> None:
        """An engine that supports ``thinking`` reasons where a request says so, and only before the answer."""
        self._can(engine, "thinking")
        chunks = self.ask(engine, replace(self.long_request(engine), thinking=True))
        assert reasoning_of(chunks), f"thinking=True, and the engine does not reason: {outline(chunks)}"
        last = max(number for number, chunk in enumerate(chunks) if chunk.reasoning)
        assert not text_of(chunks[:last]), f"there is reasoning after the answer has begun: {outline(chunks)}"

    def test_reasoning_ends_at_its_limit_and_the_answer_follows(self, engine: Engine) -> None:
        """An engine that supports ``reasoning_budget`` closes the reasoning, and has the model answer."""
        self._can(engine, "reasoning_budget")
        asked = self.long_request(engine)
        if "thinking" in engine.describe().supports:
            asked = replace(asked, thinking=True)
        if "max_tokens" in engine.describe().supports:
            asked = with_options(asked, max_tokens=4 * _SLACK)
        chunks = self.ask(engine, replace(asked, max_reasoning_tokens=_LIMIT))
        reasoned = max((chunk.completion_tokens for chunk in chunks if chunk.reasoning), default=0)
        assert reasoned <= _LIMIT + _SLACK, f"max_reasoning_tokens={_LIMIT}, and the reasoning has {reasoned} tokens"
        assert text_of(chunks), f"no answer follows the reasoning: {outline(chunks)}"

    @pytest.mark.parametrize(
        ("ability", "field", "value"),
        [
            ("thinking", "thinking", True),
            ("thinking_off", "thinking", False),
            ("reasoning_budget", "max_reasoning_tokens", 5),
        ],
    )
    def test_what_it_cannot_do_about_reasoning_is_refused_by_name(
        self, engine: Engine, whole: list[Chunk], ability: str, field: str, value: bool | int
    ) -> None:
        """It is never ignored: Unsupported is raised and begins with the field's name (``check_thinking`` does it)."""
        if ability in engine.describe().supports:
            pytest.skip(f"the engine supports {ability}")
        wanted: dict[str, Any] = {field: value}
        text = self.assert_refused(engine, replace(self.request(engine), **wanted), Unsupported)
        assert text.startswith(f"{field}: "), f"the sentence begins with the field, {field}: {text}"
        self.assert_still_answers(engine, whole)

    def _can(self, engine: Engine, ability: str) -> None:
        if ability not in engine.describe().supports:
            pytest.skip(f"the engine does not support {ability}")


def reasoning_of(chunks: list[Chunk]) -> str:
    """Return all reasoning in ``chunks``."""
    return "".join(chunk.reasoning for chunk in chunks)
