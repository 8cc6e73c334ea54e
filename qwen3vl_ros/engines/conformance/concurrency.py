"""The conformance tests of answers that run at the same time, for engines whose ``concurrency`` is more than 1."""

from __future__ import annotations

import contextlib

import pytest

from qwen3vl_ros.engines.base import Chunk, Engine, Request
from qwen3vl_ros.engines.conformance.harness import EngineHarness
from qwen3vl_ros.engines.conformance.stream import Answer, outline, text_of

_AT_ONCE = 4
"""Most answers that the tests run at the same time."""


class Concurrency(EngineHarness):
    """Tests of several answers at the same time."""

    def test_answers_together_are_those_alone(self, engine: Engine) -> None:
        """``concurrency`` answers run at the same time, and each is the one that its question has alone."""
        requests = [self.numbered_request(engine, number) for number in range(_count(engine))]
        alone = [self.ask(engine, request) for request in requests]
        with contextlib.ExitStack() as stack:
            answers = self._started(engine, requests, stack)
            together = [answer.rest() for answer in answers]
        for one, same in zip(alone, together, strict=True):
            assert same[-1].finish_reason == one[-1].finish_reason, f"{outline(same)}, but alone {outline(one)}"
            assert not self.repeatable or text_of(same) == text_of(one), "beside others, the answer is another one"

    @pytest.mark.parametrize("how", ["cancel", "close"])
    @pytest.mark.parametrize("texts", [0, 1])
    def test_end_of_one_answer_leaves_the_others(
        self, engine: Engine, whole: list[Chunk], how: str, texts: int
    ) -> None:
        """An answer that is cancelled, or whose stream is closed, before its text or amid it ends alone."""
        requests = [self.to_cancel(engine), *(self.long_request(engine) for _ in range(_count(engine) - 1))]
        with contextlib.ExitStack() as stack:
            ended, *others = self._started(engine, requests, stack)
            ended.until_text(texts)
            if how == "cancel":
                ended.cancel.set()
                assert ended.rest()[-1].finish_reason == "cancelled"
            else:
                ended.close()
            for answer in others:
                chunks = answer.rest()
                assert chunks[-1].finish_reason in ("stop", "length"), f"it ended another answer: {outline(chunks)}"
                assert not self.repeatable or text_of(chunks) == text_of(whole), "it changed another answer"
        self.assert_still_answers(engine, whole)

    def _started(self, engine: Engine, requests: list[Request], stack: contextlib.ExitStack) -> list[Answer]:
        """Return answers of which each has its first chunk; the engine was asked for all before it gave one."""
        answers = [stack.enter_context(self.asking(engine, request)) for request in requests]
        for answer in answers:
            answer.begin_step()
        for answer in answers:
            answer.end_step()
        return answers


def _count(engine: Engine) -> int:
    count = min(engine.describe().concurrency, _AT_ONCE)
    if count == 1:
        pytest.skip("the engine answers one request at a time")
    return count
