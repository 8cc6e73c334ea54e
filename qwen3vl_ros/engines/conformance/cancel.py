"""The conformance tests of cancelled and abandoned answers."""

from __future__ import annotations

import pytest

from qwen3vl_ros.engines.base import Chunk, Engine, Usage
from qwen3vl_ros.engines.conformance.harness import EngineHarness
from qwen3vl_ros.engines.conformance.stream import Answer, outline, text_of

_NOT_CANCELLED = "once cancel is set, the last chunk has finish reason 'cancelled'; what came was {}"


class Cancelling(EngineHarness):
    """Tests of cancelling an answer."""

    def test_cancel_before_the_start_costs_nothing(self, engine: Engine, whole: list[Chunk]) -> None:
        """A request that was cancelled before its start is not answered."""
        with self.asking(engine, self.to_cancel(engine)) as answer:
            answer.cancel.set()
            chunks = answer.rest()
        assert chunks[-1].finish_reason == "cancelled", _NOT_CANCELLED.format(outline(chunks))
        assert text_of(chunks) == "" and chunks[-1].completion_tokens == 0, f"it answered with {text_of(chunks)!r}"
        assert isinstance(chunks[-1].usage, Usage), "a cancelled answer has its usage too"
        self.assert_still_answers(engine, whole)

    def test_cancel_before_the_first_text_ends_the_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """A cancel during encode or prefill, which take most of the time, ends the answer."""
        with self.asking(engine, self.to_cancel(engine)) as answer:
            answer.step()
            answer.cancel.set()
            self._assert_cancelled(answer, whole)
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("texts", [1, 2])
    def test_cancel_in_the_middle_ends_the_answer(self, engine: Engine, whole: list[Chunk], texts: int) -> None:
        """A cancel between two tokens ends the answer."""
        with self.asking(engine, self.to_cancel(engine)) as answer:
            answer.until_text(texts)
            answer.cancel.set()
            self._assert_cancelled(answer, whole)
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("chunks", [0, 1, 2])
    def test_cancel_while_the_engine_works_ends_the_answer(
        self, engine: Engine, whole: list[Chunk], chunks: int
    ) -> None:
        """A cancel that another thread sets while the engine computes the next chunk ends the answer."""
        with self.asking(engine, self.to_cancel(engine)) as answer:
            for _ in range(chunks):
                answer.step()
            answer.begin_step()
            answer.cancel.set()
            if answer.end_step() is not None:
                self._assert_cancelled(answer, whole)
        assert answer.chunks[-1].finish_reason == "cancelled", _NOT_CANCELLED.format(outline(answer.chunks))
        self.assert_still_answers(engine, whole)

    def test_cancel_after_the_end_harms_nobody(self, engine: Engine, whole: list[Chunk]) -> None:
        """A cancel after the end has no effect: the node's may be late."""
        with self.asking(engine, self.long_request(engine)) as answer:
            answer.rest()
            answer.cancel.set()
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("chunks", [0, 1, 2, 3])
    def test_stream_closed_early_leaves_the_engine_usable(
        self, engine: Engine, whole: list[Chunk], chunks: int
    ) -> None:
        """A closed stream (``GeneratorExit``) ends the answer like a cancel, without a last chunk."""
        with self.asking(engine, self.to_cancel(engine)) as answer:
            for _ in range(chunks):
                answer.step()
        self.assert_still_answers(engine, whole)

    def _assert_cancelled(self, answer: Answer, whole: list[Chunk]) -> None:
        if answer.chunks[-1].finish_reason is None:
            answer.rest()
        last = answer.chunks[-1]
        assert last.finish_reason == "cancelled", _NOT_CANCELLED.format(outline(answer.chunks))
        assert isinstance(last.usage, Usage), "a cancelled answer has its usage too"
        assert last.completion_tokens == last.usage.completion_tokens
        if self.endless_request(answer.engine) is not None:
            return
        assert last.completion_tokens < whole[-1].completion_tokens, (
            f"a cancelled answer ends promptly; this one was computed to its end, all {last.completion_tokens} tokens"
        )
        if self.repeatable:
            assert text_of(whole).startswith(text_of(answer.chunks)), "what was said before the cancel is in the answer"
