"""The conformance tests of answers that run at the same time."""

from __future__ import annotations

import contextlib

import pytest

from qwen3vl_ros.engines.base import Chunk, Engine
from qwen3vl_ros.engines.conformance.harness import EngineHarness
from qwen3vl_ros.engines.conformance.stream import Answer, outline, text_of

_MOST = 4
"""Answers that the tests run at once at most."""


class Concurrency(EngineHarness):
    """Tests of several answers at once, for an engine whose ``concurrency`` is more than 1."""

    def test_answers_given_together_are_those_given_alone(self, engine: Engine, whole: list[Chunk]) -> None:
        """Answers that take turns, with images of their own, are the ones that each question has alone."""
        count = self._at_once(engine)
        if not self.repeatable:
            pytest.skip("the engine is not repeatable")
        questions = [self.request(engine, f"What is this? {number}") for number in range(1, count)]
        requests = [self.long_request(engine), *questions]
        alone = [text_of(whole), *(text_of(self.ask(engine, question)) for question in questions)]
        with contextlib.ExitStack() as stack:
            answers = [stack.enter_context(self.asking(engine, request)) for request in requests]
            running = list(answers)
            while running:
                for answer in running:
                    answer.begin_step()
                running = [answer for answer in running if answer.end_step() is not None]
        assert [text_of(answer.chunks) for answer in answers] == alone

    @pytest.mark.parametrize("end", ["cancelled", "closed"])
    @pytest.mark.parametrize("texts", [0, 1])
    def test_end_of_one_answer_leaves_the_others(
        self, engine: Engine, whole: list[Chunk], texts: int, end: str
    ) -> None:
        """One answer that is cancelled or closed, before its first text or after it, changes nothing in another."""
        self._at_once(engine)
        with self.asking(engine, self.long_request(engine)) as other:
            other.step()
            with self.asking(engine, self.to_cancel(engine)) as answer:
                answer.step()
                answer.until_text(texts)
                if end == "cancelled":
                    answer.cancel.set()
                    last = answer.rest()[-1]
                    assert last.finish_reason == "cancelled", (
                        f"it was cancelled; what came was {outline(answer.chunks)}"
                    )
            self._assert_whole(other, whole)
        self.assert_still_answers(engine, whole)

    def _assert_whole(self, answer: Answer, whole: list[Chunk]) -> None:
        chunks = answer.rest()
        assert chunks[-1].finish_reason != "cancelled", "the end of one answer cancelled another"
        assert not self.repeatable or text_of(chunks) == text_of(whole), "the end of one answer changed another"

    def _at_once(self, engine: Engine) -> int:
        count = min(engine.describe().concurrency, _MOST)
        if count == 1:
            pytest.skip("the engine answers one request at a time")
        return count
