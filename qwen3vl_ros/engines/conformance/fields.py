"""The conformance tests of a request's fields that an engine says it supports."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from qwen3vl_ros.engines.base import BadRequest, Chunk, Clip, Engine, Message, Request, Unsupported
from qwen3vl_ros.engines.conformance.harness import EngineHarness, sentence, with_options
from qwen3vl_ros.engines.conformance.stream import outline, text_of

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


class Fields(EngineHarness):
    """Tests of the supported fields."""

    def test_max_tokens_ends_the_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """The finish reason is "length"; an engine that emits several tokens at once may exceed the limit by some."""
        self._needs(engine, "max_tokens")
        limit = max(1, whole[-1].completion_tokens // 2)
        chunks = self.ask(engine, with_options(self.long_request(engine), max_tokens=limit))
        counts = [0, *(chunk.completion_tokens for chunk in whole)]
        at_once = max(after - before for before, after in itertools.pairwise(counts))
        assert chunks[-1].completion_tokens < limit + at_once, (
            f"{chunks[-1].completion_tokens} tokens are more than max_tokens, {limit}"
        )
        assert chunks[-1].finish_reason == "length", f"cut off by max_tokens is 'length', not {outline(chunks)}"
        if self.repeatable:
            assert text_of(whole).startswith(text_of(chunks))

    def test_stop_string_ends_the_answer_and_is_not_in_it(self, engine: Engine, whole: list[Chunk]) -> None:
        """Not even the beginning of a stop string is in the answer if it is split between chunks."""
        self._needs(engine, "stop")
        answer = text_of(whole)
        for start in (len(answer) // 3, len(answer) // 2):
            stop = answer[start : start + 3]
            chunks = self.ask(engine, with_options(self.long_request(engine), stop=("\0never", stop)))
            assert stop not in text_of(chunks)
            if self.repeatable:
                assert text_of(chunks) == answer[: answer.index(stop)], f"stop {stop!r} in {answer!r}"
                assert chunks[-1].finish_reason == "stop"

    def test_schema_shapes_the_answer(self, engine: Engine) -> None:
        """An answer with finish reason "stop" is JSON that satisfies the schema."""
        self._needs(engine, "json_schema")
        chunks = self.ask(engine, self.request(engine, "Which colour? Answer in JSON.", schema=SCHEMA))
        if chunks[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text_of(chunks)), SCHEMA)

    def test_choices_have_probabilities_and_change_nothing(self, engine: Engine, whole: list[Chunk]) -> None:
        """The first token's probabilities are known or None; a greedy answer begins with the most probable word."""
        self._needs(engine, "probabilities")
        words = text_of(whole).split()
        if not words:
            pytest.skip("the answer has no words")
        chunks = self.ask(engine, replace(self.long_request(engine), choices=((words[0],), ("\U00010330",))))
        assert all(chunk.probabilities is None for chunk in (*whole, *chunks[:-1]))
        if self.repeatable:
            assert text_of(chunks) == text_of(whole)
        if chunks[-1].probabilities is not None and words[0][0].isalnum():
            said, other = chunks[-1].probabilities
            assert 0 <= other < said <= 1 + 1e-6
            assert said + other <= 1 + 1e-6

    def test_tokens_have_probabilities_and_change_nothing(self, engine: Engine, whole: list[Chunk]) -> None:
        """The tokens of the answer are known or not; joined, they have its text."""
        self._needs(engine, "probabilities")
        chunks = self.ask(engine, replace(self.long_request(engine), token_probabilities=True))
        tokens = chunks[-1].tokens
        assert all(not chunk.tokens for chunk in (*whole, *chunks[:-1]))
        if self.repeatable:
            assert text_of(chunks) == text_of(whole)
        assert not tokens or text_of(chunks) in b"".join(token.text for token in tokens).decode("utf-8", "replace")
        assert all(-1e-6 <= p <= 1 + 1e-6 for token in tokens for _, p in token.all)

    def test_system_prompt_is_taken(self, engine: Engine) -> None:
        """A first message with the role "system" is accepted."""
        self._needs(engine, "system_prompt")
        asked = self.request(engine)
        request = Request((Message("system", ("Be brief.",)), *asked.messages), asked.options)
        assert self.ask(engine, request)[-1].finish_reason in ("stop", "length")

    def test_question_without_an_image_is_answered(self, engine: Engine) -> None:
        """An engine that supports ``text_only`` answers without an image."""
        self._needs(engine, "text_only")
        assert self.ask(engine, self.request(engine, images=()))[-1].finish_reason in ("stop", "length")

    def test_a_clip_is_read_or_refused_by_name(self, engine: Engine, whole: list[Chunk]) -> None:
        """Frames with their times, an odd number of them."""
        asked = self.long_request(engine)
        image = next(part for part in asked.messages[-1].content if not isinstance(part, str | Clip))
        frames = tuple(np.roll(image, shift, axis=1) for shift in range(3))
        request = Request((Message("user", (Clip(frames, (0.0, 0.5, 2.0)), "What moves?")),), asked.options)
        if "video" in engine.describe().supports:
            assert self.ask(engine, request)[-1].finish_reason in ("stop", "length")
        else:
            with pytest.raises(Unsupported, match=r"^video: ") as refused:
                self.ask(engine, request)
            sentence(refused.value)
        self.assert_still_answers(engine, whole)

    def test_conversation_is_answered_or_refused(self, engine: Engine, whole: list[Chunk]) -> None:
        """Earlier turns that an engine cannot pass on are refused, not left out."""
        asked = self.long_request(engine)
        turns = (*asked.messages, Message("assistant", ("Yes.",)), Message("user", ("And now?",)))
        try:
            assert self.ask(engine, Request(turns, asked.options))[-1].finish_reason in ("stop", "length")
        except BadRequest as error:
            sentence(error)
        self.assert_still_answers(engine, whole)

    def _needs(self, engine: Engine, ability: str) -> None:
        if ability not in engine.describe().supports:
            pytest.skip(f"the engine does not support {ability}")
