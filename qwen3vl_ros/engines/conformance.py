"""The engine contract as tests: an engine that passes them can be put under the node.

In the tests of a package with an engine (this module needs pytest, nothing else in this package does)::

    import pytest
    from qwen3vl_ros.engines.conformance import EngineConformance

    class TestMyEngine(EngineConformance):
        engine_class = MyEngine

        @pytest.fixture(scope="class")
        def config(self, my_server):
            return {"url": my_server.url}

One engine answers most of the tests in turn, as in the worker process; one that failed a test is replaced. Every answer
runs on a thread of its own and every wait ends, so an engine that hangs fails tests and does not hang them.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import pickle
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import jsonschema
import numpy as np
import pytest

from qwen3vl_ros.engines.base import (
    ABILITIES,
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    Description,
    Engine,
    EngineError,
    FinishReason,
    FitMode,
    Image,
    Message,
    Options,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
    Usage,
)
from qwen3vl_ros.vision.fit import fit_image

_OPTIONS: Mapping[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "seed": 7,
    "max_tokens": 5,
    "stop": ("zzz",),
}
_CHOICES = (("yes", "是"), ("no", "否"))
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
_ANSWER_TOKENS = 64
"""Enough for every test, and no test waits for an essay."""

_TEXTS_NEEDED = 4
"""Chunks with text that the long answer has at least: the tests stop in the middle of it."""

_END = object()


class Answer:
    """``engine.generate`` on a thread of its own, as in the worker, that goes from chunk to chunk when told.

    So "after the second chunk" is that moment for the fastest engine too. Use it as a context manager: leaving closes
    the stream. ``chunks`` has what came.
    """

    def __init__(self, engine: Engine, request: Request, patience: float) -> None:
        self.engine = engine
        self.cancel = Cancel()
        self.chunks: list[Chunk] = []
        self.ended = False
        self._patience = patience
        self._steps: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: close
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a chunk, an exception or _END
        threading.Thread(target=self._run, args=(engine, request), name="conformance-answer", daemon=True).start()

    def _run(self, engine: Engine, request: Request) -> None:
        stream: Iterator[Chunk] | None = None
        try:
            while self._steps.get():
                if stream is None:
                    stream = engine.generate(request, self.cancel)
                self._results.put(next(stream))
            result: Any = _END
            if isinstance(stream, Generator):
                stream.close()
        except StopIteration:
            result = _END
        except Exception as error:  # noqa: BLE001 handed to the test
            result = error
        # What is left of the stream goes on this thread, before the test looks whether anything is.
        del stream, engine, request
        self._results.put(result)

    def begin_step(self) -> None:
        """Let the engine work towards its next chunk; :meth:`end_step` has it."""
        self._steps.put(True)

    def end_step(self) -> Chunk | None:
        """The chunk that :meth:`begin_step` asked for, None at the end of the stream; raises what the engine raised."""
        try:
            result = self._results.get(timeout=self._patience)
        except queue.Empty:
            self.ended = True
            pytest.fail(
                f"the engine did nothing for {self._patience:g} s, after {_outline(self.chunks)}"
                + (", although it was cancelled" if self.cancel.is_set() else ""),
            )
        if isinstance(result, Chunk):
            self.chunks.append(result)
            return result
        self.ended = True
        if isinstance(result, Exception):
            raise result
        assert result is _END, f"generate() yields {type(result).__name__}, not Chunk"
        return None

    def step(self) -> Chunk | None:
        """The next chunk, None at the end; raises what the engine raised."""
        self.begin_step()
        return self.end_step()

    def until_text(self, count: int) -> None:
        """Go on until ``count`` chunks with text have come."""
        while sum(map(_has_text, self.chunks)) < count:
            assert self.step() is not None, f"the answer ended after {_outline(self.chunks)}"

    def rest(self) -> list[Chunk]:
        """Go on to the end; all chunks of the answer."""
        while self.step() is not None:
            pass
        assert self.chunks and self.chunks[-1].finish_reason is not None, (
            f"an answer ends with a chunk that has a finish reason, not after {_outline(self.chunks)}"
        )
        return self.chunks

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.ended:
            return
        self._steps.put(False)
        try:
            error = self._results.get(timeout=self._patience)
        except queue.Empty:
            error = EngineError(f"closing the stream took more than {self._patience:g} s")
        if kind is None and error is not _END:
            pytest.fail(f"closing the stream of generate() early, after {_outline(self.chunks)}, ended with {error!r}")


@dataclass
class Kept:
    """What the tests of one class share: an engine, and its long answer."""

    engine: Engine | None = None
    whole: list[Chunk] | None = None


class EngineConformance:
    """Derive from it, in a class whose name begins with ``Test``; see the module. All attributes have defaults.

    ``engine_class``: the class, or ``staticmethod(factory)``; called as the worker does, with ``config`` as keywords.
    ``question``: what the engine answers with at least four chunks of text when it sees any picture.
    ``patience``: seconds for one chunk, and for loading and closing, on a busy machine.
    ``repeatable``: the same question has the same answer, at temperature 0 where the engine has one. False for servers
    that compute several requests at once.
    """

    engine_class: ClassVar[Callable[..., Engine]]
    question: ClassVar[str] = "Describe this picture in detail."
    patience: ClassVar[float] = 60.0
    repeatable: ClassVar[bool] = True

    # What an author may replace.

    @pytest.fixture(scope="class")
    def config(self) -> Mapping[str, Any]:
        """Keywords for ``engine_class``, without ``progress``. None, unless replaced."""
        return {}

    def long_request(self, engine: Engine) -> Request:
        """A request whose answer is as long as ``question`` says."""
        return self.request(engine, self.question)

    def endless_request(self, engine: Engine) -> Request | None:  # noqa: ARG002
        """A request whose answer only ends by being cancelled.

        For engines that work ahead of who reads: a server may have sent the whole answer before a test can cancel it.
        None: :meth:`long_request`, for those that compute the next chunk when it is asked for.
        """
        return None

    def non_ascii_request(self, engine: Engine) -> Request | None:  # noqa: ARG002
        """A request whose answer has characters outside ASCII; None when the engine cannot be made to say any."""
        return None

    # What the tests share, and tests of the author's own may use.

    @pytest.fixture(scope="class")
    def kept(self) -> Iterator[Kept]:
        """The engine that the tests of this class share."""
        kept = Kept()
        yield kept
        if kept.engine is not None:
            self.close(kept.engine)

    @pytest.fixture
    def engine(self, kept: Kept, config: Mapping[str, Any], request: pytest.FixtureRequest) -> Iterator[Engine]:
        """The engine; another one after a test that failed."""
        if kept.engine is None:
            kept.engine = self.load(config)
        failed = request.session.testsfailed
        yield kept.engine
        if request.session.testsfailed > failed and kept.engine is not None:
            broken, kept.engine = kept.engine, None
            self.close(broken)

    @pytest.fixture
    def unloaded(self, kept: Kept) -> None:
        """Nothing is loaded: a test that loads engines of its own takes this, as there may be room for one only."""
        if kept.engine is not None:
            shared, kept.engine = kept.engine, None
            self.close(shared)

    @pytest.fixture
    def whole(self, kept: Kept, engine: Engine) -> list[Chunk]:
        """The answer to :meth:`long_request`."""
        if kept.whole is None:
            whole = self.ask(engine, self.long_request(engine))
            assert sum(map(_has_text, whole)) >= _TEXTS_NEEDED, (
                f"the tests need an answer of at least {_TEXTS_NEEDED} chunks with text, and this one has "
                f"{_outline(whole)}. If the engine streams, set `question` or replace `long_request`."
            )
            kept.whole = whole
        return kept.whole

    def load(self, config: Mapping[str, Any], **more: Any) -> Engine:
        """A new engine, made as the worker makes it."""
        with _within(self.patience, "loading the engine"):
            return type(self).engine_class(**config, **more)

    def close(self, engine: Engine) -> None:
        """Close ``engine``, which must not take for ever."""
        with _within(self.patience, "close()"):
            engine.close()

    def request(
        self,
        engine: Engine,
        text: str = "What is this?",
        *,
        images: tuple[Image, ...] | None = None,
        schema: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Request:
        """A question that ``engine`` can take: about one picture unless it takes none, and not at random."""
        description = engine.describe()
        if images is None:
            images = () if description.max_images == 0 else (picture(description),)
        usual = {"temperature": 0.0, "max_tokens": _ANSWER_TOKENS}
        options = {name: value for name, value in usual.items() if name in description.supports} | options
        return Request((Message("user", (*images, text)),), Options(**options), schema)

    def asking(self, engine: Engine, request: Request) -> Answer:
        """A running answer, to be used in ``with``."""
        return Answer(engine, request, self.patience)

    def ask(self, engine: Engine, request: Request) -> list[Chunk]:
        """All chunks of an answer."""
        with self.asking(engine, request) as answer:
            return answer.rest()

    def assert_refused(self, engine: Engine, request: Request, kind: type[EngineError]) -> str:
        """That ``request`` is refused with ``kind``, before any work; returns the sentence.

        Only a server that counts tokens itself may have to be sent a prompt that is too long (stage PREFILL).
        """
        allowed = [Chunk(Stage.PREFILL)] if kind is PromptTooLong else []
        try:
            with self.asking(engine, request) as answer:
                while (chunk := answer.step()) in allowed:
                    pass
        except kind as error:
            return sentence(error)
        except Exception as error:  # noqa: BLE001 the assertion shows it
            pytest.fail(f"the contract says {kind.__name__} here, not {error!r}")
        pytest.fail(f"the contract says {kind.__name__} here, before any work, and not {chunk}")

    def assert_still_answers(self, engine: Engine, whole: list[Chunk]) -> None:
        """That the engine answers the next question, and as before: with nothing of another answer in it."""
        again = self.ask(engine, self.long_request(engine))
        assert again[-1].finish_reason in ("stop", "length"), f"the next answer is {_outline(again)}"
        if self.repeatable:
            assert text_of(again) == text_of(whole), (
                "the next answer is not what it was before: is something of the previous answer left in the engine?"
            )

    # What it is.

    def test_description_is_constant_and_makes_sense(self, engine: Engine, whole: list[Chunk]) -> None:
        """``describe()`` can be called at any time and travels to the node; the node relies on every field."""
        del whole  # it has answered
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
            assert "text_only" in description.supports, "an engine that takes no pictures supports text_only"
        wanted = description.image_input
        assert wanted.multiple >= 1 and wanted.max_tokens >= 1
        assert wanted.fit in get_args(FitMode)
        assert wanted.size is None or min(wanted.size) >= 1, "size is (width, height) in pixels"
        assert all(isinstance(text, str) for pair in description.details.items() for text in pair)

    def test_probe_says_what_it_finds(self, engine: Engine, config: Mapping[str, Any]) -> None:
        """``probe`` takes the same keywords and says in a second or two what there is."""
        del engine  # so there is something to find
        probe = getattr(type(self).engine_class, "probe", None)
        if probe is None:
            pytest.skip("the engine has no probe")
        with _within(self.patience, "probe()"):
            found = probe(**config)
        assert isinstance(found, str) and found, "probe() returns a sentence"

    # How it answers.

    def test_answer_comes_in_pieces(self, whole: list[Chunk]) -> None:
        """People read along: text comes as it is made, not all at the end."""
        texts = sum(map(_has_text, whole[:-1]))
        assert texts >= 2, f"the text is to come in several chunks before the last one; it came in {_outline(whole)}"

    def test_stages_come_in_order_and_text_in_the_last(self, whole: list[Chunk]) -> None:
        """Encode, prefill, decode, each of which may be missing; text belongs to decode."""
        stages = [chunk.stage for chunk in whole]
        assert stages == sorted(stages), f"stages went {[stage.name for stage in stages]}"
        assert min(stages) >= Stage.ENCODE, "an engine's stages are ENCODE, PREFILL, DECODE; the others are the node's"
        assert all(chunk.stage is Stage.DECODE for chunk in whole if _has_text(chunk)), "text comes in stage DECODE"

    def test_only_the_last_chunk_has_finish_reason_and_usage(self, whole: list[Chunk]) -> None:
        """The end of an answer is one chunk, and nothing follows it."""
        assert whole[-1].finish_reason in get_args(FinishReason)
        assert whole[-1].finish_reason != "cancelled", "nobody cancelled"
        assert isinstance(whole[-1].usage, Usage), "the last chunk has the usage"
        early = [chunk for chunk in whole[:-1] if chunk.finish_reason is not None or chunk.usage is not None]
        assert not early, f"before the end: {early}"

    def test_tokens_only_become_more(self, whole: list[Chunk]) -> None:
        """``completion_tokens`` is the number so far, and the usage agrees with the last."""
        counts = [chunk.completion_tokens for chunk in whole]
        assert counts == sorted(counts), f"completion_tokens went {counts}"
        assert counts[-1] >= 1, "an answer with text has at least 1 token"
        assert counts[-1] == _usage(whole).completion_tokens, "usage.completion_tokens is that of the last chunk"

    def test_usage_adds_up(self, whole: list[Chunk]) -> None:
        """Counts and times that people add up and compare."""
        usage = _usage(whole)
        for field in fields(Usage):
            value = getattr(usage, field.name)
            assert value is None or value >= 0, f"usage.{field.name} is {value}"
        assert usage.prompt_tokens >= usage.image_tokens, "pictures are part of the prompt: prompt_tokens counts them"
        assert usage.prompt_tokens >= usage.cached_tokens, "cached_tokens is a part of prompt_tokens"
        assert usage.total_time is not None and usage.first_token_time is not None, "both were reached: say when"
        assert usage.first_token_time <= usage.total_time
        if usage.encode_time is not None:
            assert usage.encode_time <= usage.first_token_time, "pictures are encoded before the first token"

    def test_chunks_survive_the_way_to_the_node(self, whole: list[Chunk]) -> None:
        """They travel through a socket, pickled."""
        assert pickle.loads(pickle.dumps(whole)) == whole

    def test_same_question_has_the_same_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """At temperature 0, where the engine has one; nothing of an answer is left in the next."""
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
        """However tokens or network packets cut them, chunks carry whole Unicode characters."""
        request = self.non_ascii_request(engine)
        if request is None:
            pytest.skip("replace `non_ascii_request` with a question whose answer is not ASCII to test this")
        chunks = self.ask(engine, request)
        answer = text_of(chunks)
        assert not answer.isascii(), f"the answer to `non_ascii_request` has to have other characters: {answer!r}"
        for chunk in chunks:
            assert "\ufffd" not in chunk.text, f"half a character was decoded: {chunk.text!r} in {answer!r}"
            chunk.text.encode()  # lone surrogates are halves too

    def test_as_many_answers_run_at_once_as_it_says(self, engine: Engine, whole: list[Chunk]) -> None:
        """``concurrency`` answers, each with its own text."""
        count = min(engine.describe().concurrency, 4)
        if count == 1:
            pytest.skip("the engine answers one request at a time")
        requests = [self._to_cancel(engine), *(self.long_request(engine) for _ in range(count - 1))]
        with contextlib.ExitStack() as stack:
            answers = [stack.enter_context(self.asking(engine, request)) for request in requests]
            for answer in answers:
                answer.begin_step()
            for answer in answers:
                answer.end_step()
            answers[0].cancel.set()
            assert answers[0].rest()[-1].finish_reason == "cancelled"
            for answer in answers[1:]:
                assert answer.rest()[-1].finish_reason != "cancelled", "cancelling one answer cancelled another"
                assert not self.repeatable or text_of(answer.chunks) == text_of(whole)

    # How it is stopped.

    def test_cancel_before_the_start_costs_nothing(self, engine: Engine, whole: list[Chunk]) -> None:
        """A request that is cancelled while it waited is not answered."""
        with self.asking(engine, self._to_cancel(engine)) as answer:
            answer.cancel.set()
            chunks = answer.rest()
        assert chunks[-1].finish_reason == "cancelled", _NOT_CANCELLED.format(_outline(chunks))
        assert text_of(chunks) == "" and chunks[-1].completion_tokens == 0, f"it answered with {text_of(chunks)!r}"
        assert isinstance(chunks[-1].usage, Usage), "a cancelled answer has its usage too"
        self.assert_still_answers(engine, whole)

    def test_cancel_before_the_first_text_ends_the_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """While it encodes or reads the prompt, which is most of the time that an answer takes."""
        with self.asking(engine, self._to_cancel(engine)) as answer:
            answer.step()
            answer.cancel.set()
            self._assert_cancelled(answer, whole)
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("texts", [1, 2])
    def test_cancel_in_the_middle_ends_the_answer(self, engine: Engine, whole: list[Chunk], texts: int) -> None:
        """Between two tokens."""
        with self.asking(engine, self._to_cancel(engine)) as answer:
            answer.until_text(texts)
            answer.cancel.set()
            self._assert_cancelled(answer, whole)
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("chunks", [0, 1, 2])
    def test_cancel_while_the_engine_works_ends_the_answer(
        self, engine: Engine, whole: list[Chunk], chunks: int
    ) -> None:
        """It is set from another thread, while the engine is between two chunks."""
        with self.asking(engine, self._to_cancel(engine)) as answer:
            for _ in range(chunks):
                answer.step()
            answer.begin_step()
            answer.cancel.set()
            if answer.end_step() is not None:
                self._assert_cancelled(answer, whole)
        assert answer.chunks[-1].finish_reason == "cancelled", _NOT_CANCELLED.format(_outline(answer.chunks))
        self.assert_still_answers(engine, whole)

    def test_cancel_after_the_end_harms_nobody(self, engine: Engine, whole: list[Chunk]) -> None:
        """The node's cancel may come too late."""
        with self.asking(engine, self.long_request(engine)) as answer:
            answer.rest()
            answer.cancel.set()
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("chunks", [0, 1, 2, 3])
    def test_stream_closed_early_leaves_the_engine_usable(
        self, engine: Engine, whole: list[Chunk], chunks: int
    ) -> None:
        """Whoever iterates may go away (``GeneratorExit``); that ends the answer like a cancel, with no last chunk."""
        with self.asking(engine, self._to_cancel(engine)) as answer:
            for _ in range(chunks):
                answer.step()
        self.assert_still_answers(engine, whole)

    def _assert_cancelled(self, answer: Answer, whole: list[Chunk]) -> None:
        if answer.chunks[-1].finish_reason is None:
            answer.rest()
        last = answer.chunks[-1]
        assert last.finish_reason == "cancelled", _NOT_CANCELLED.format(_outline(answer.chunks))
        assert isinstance(last.usage, Usage), "a cancelled answer has its usage too"
        assert last.completion_tokens == last.usage.completion_tokens
        if self.endless_request(answer.engine) is not None:
            return
        assert last.completion_tokens < whole[-1].completion_tokens, (
            f"a cancelled answer ends promptly; this one was computed to its end, all {last.completion_tokens} tokens"
        )
        if self.repeatable:
            assert text_of(whole).startswith(text_of(answer.chunks)), "what was said before the cancel is in the answer"

    def _to_cancel(self, engine: Engine) -> Request:
        return self.endless_request(engine) or self.long_request(engine)

    # What it honours.

    def test_max_tokens_ends_the_answer(self, engine: Engine, whole: list[Chunk]) -> None:
        """With finish reason "length"; where several tokens come at once, the last ones may be too many."""
        self._needs(engine, "max_tokens")
        limit = max(1, whole[-1].completion_tokens // 2)
        chunks = self.ask(engine, _with_options(self.long_request(engine), max_tokens=limit))
        counts = [0, *(chunk.completion_tokens for chunk in whole)]
        at_once = max(after - before for before, after in itertools.pairwise(counts))
        assert chunks[-1].completion_tokens < limit + at_once, (
            f"{chunks[-1].completion_tokens} tokens are more than max_tokens, {limit}"
        )
        assert chunks[-1].finish_reason == "length", f"cut off by max_tokens is 'length', not {_outline(chunks)}"
        if self.repeatable:
            assert text_of(whole).startswith(text_of(chunks))

    def test_stop_string_ends_the_answer_and_is_not_in_it(self, engine: Engine, whole: list[Chunk]) -> None:
        """Not even its beginning, when it comes in several chunks."""
        self._needs(engine, "stop")
        answer = text_of(whole)
        for start in (len(answer) // 3, len(answer) // 2):
            stop = answer[start : start + 3]
            chunks = self.ask(engine, _with_options(self.long_request(engine), stop=("\0never", stop)))
            assert stop not in text_of(chunks)
            if self.repeatable:
                assert text_of(chunks) == answer[: answer.index(stop)], f"stop {stop!r} in {answer!r}"
                assert chunks[-1].finish_reason == "stop"

    def test_schema_shapes_the_answer(self, engine: Engine) -> None:
        """An answer that ended by itself is JSON that satisfies the schema."""
        self._needs(engine, "json_schema")
        chunks = self.ask(engine, self.request(engine, "Which colour? Answer in JSON.", schema=_SCHEMA))
        if chunks[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text_of(chunks)), _SCHEMA)

    def test_choices_have_probabilities_and_change_nothing(self, engine: Engine, whole: list[Chunk]) -> None:
        """Those of the first token: greedily, that of the word that comes is the greatest. None: it is not known."""
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

    def test_system_prompt_is_taken(self, engine: Engine) -> None:
        """A first message with the role "system"."""
        self._needs(engine, "system_prompt")
        asked = self.request(engine)
        request = Request((Message("system", ("Be brief.",)), *asked.messages), asked.options)
        assert self.ask(engine, request)[-1].finish_reason in ("stop", "length")

    def test_question_without_a_picture_is_answered(self, engine: Engine) -> None:
        """Where ``text_only`` is supported."""
        self._needs(engine, "text_only")
        assert self.ask(engine, self.request(engine, images=()))[-1].finish_reason in ("stop", "length")

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

    # What it refuses.

    def test_what_it_does_not_support_is_refused_by_name(self, engine: Engine, whole: list[Chunk]) -> None:
        """Nothing that ``supports`` does not name is ignored in silence: Unsupported, beginning with the field."""
        asked = self.request(engine)
        told = (Message("system", ("Be brief.",)), *asked.messages)
        requests = {name: _with_options(asked, **{name: value}) for name, value in _OPTIONS.items()} | {
            "json_schema": Request(asked.messages, asked.options, _SCHEMA),
            "system_prompt": Request(told, asked.options),
            "probabilities": replace(asked, choices=_CHOICES),
        }
        for ability in requests.keys() - engine.describe().supports:
            field = {"json_schema": "response_schema", "probabilities": "choices"}.get(ability, ability)
            text = self.assert_refused(engine, requests[ability], Unsupported)
            assert re.match(rf"(options\.)?{field}\b", text), f"the sentence begins with the field, {field}: {text}"
        self.assert_still_answers(engine, whole)

    def test_missing_picture_is_refused_where_one_is_needed(self, engine: Engine) -> None:
        """Rather than an answer about a picture that is not there."""
        if "text_only" in engine.describe().supports:
            pytest.skip("the engine answers without a picture")
        self.assert_refused(engine, self.request(engine, images=()), BadRequest)

    def test_more_pictures_than_it_takes_are_refused(self, engine: Engine, whole: list[Chunk]) -> None:
        """``max_images`` is a promise: no picture is left out in silence."""
        description = engine.describe()
        if description.max_images is None:
            pytest.skip("the engine does not limit the number of pictures")
        largest = picture(description, 4096)
        self.assert_refused(engine, self.request(engine, images=(largest,) * (description.max_images + 1)), BadRequest)
        self.assert_still_answers(engine, whole)

    def test_prompt_that_does_not_fit_is_refused_with_both_numbers(self, engine: Engine, whole: list[Chunk]) -> None:
        """Before any work: what it has, and what there is room for."""
        description = engine.describe()
        limits = {n for n in (description.context_length, description.prompt_limit) if n is not None}
        if not limits:
            pytest.skip("the engine knows no limit")
        words = " ".join(map(str, range(4 * max(limits))))
        text = self.assert_refused(engine, self.request(engine, words), PromptTooLong)
        numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}
        assert numbers & limits, f"the sentence is to have the limit, {sorted(limits)}: {text}"
        assert max(numbers) > min(limits), f"the sentence is to have the length of the prompt too: {text}"
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("defect", ["float32", "uint16", "grey", "RGBA", "no rows", "no columns", "flat"])
    def test_array_that_is_no_picture_is_refused(self, engine: Engine, whole: list[Chunk], defect: str) -> None:
        """A picture is uint8 [height, width, 3] with pixels; everything else is BadImage, never a crash."""
        good = self._picture(engine)
        bad: Mapping[str, Any] = {
            "float32": good.astype(np.float32),
            "uint16": good.astype(np.uint16),
            "grey": good[..., 0].copy(),
            "RGBA": np.concatenate([good, good[..., :1]], axis=2),
            "no rows": good[:0],
            "no columns": good[:, :0].copy(),
            "flat": good.reshape(-1),
        }
        self.assert_refused(engine, self.request(engine, images=(bad[defect],)), BadImage)
        self.assert_still_answers(engine, whole)

    def test_scattered_picture_is_refused_or_read_in_order(self, engine: Engine, whole: list[Chunk]) -> None:
        """An array whose bytes do not lie in a row, such as a mirrored view, is not read as if they did."""
        good = self._picture(engine)
        request = self.long_request(engine)

        def about(image: Image) -> Request:
            text = next(part for part in request.messages[-1].content if isinstance(part, str))
            return Request((Message("user", (image, text)),), request.options, request.response_schema)

        try:
            mirrored = text_of(self.ask(engine, about(good[:, ::-1])))
        except BadImage as error:
            sentence(error)
        else:
            copy = np.ascontiguousarray(good[:, ::-1])
            assert not self.repeatable or mirrored == text_of(self.ask(engine, about(copy)))
        self.assert_still_answers(engine, whole)

    def test_picture_of_another_size_is_refused_or_answered(self, engine: Engine, whole: list[Chunk]) -> None:
        """The caller fits pictures; one that is not fitted is no reason to crash."""
        self._picture(engine)
        for shape in ((1, 1, 3), (47, 33, 3), (7, 501, 3)):
            try:
                self.ask(engine, self.request(engine, images=(np.full(shape, 99, np.uint8),)))
            except BadImage as error:
                sentence(error)
        self.assert_still_answers(engine, whole)

    def test_conversation_without_messages_is_refused(self, engine: Engine) -> None:
        """There is nothing to answer."""
        self.assert_refused(engine, Request(()), BadRequest)

    def _picture(self, engine: Engine) -> Image:
        description = engine.describe()
        if description.max_images == 0:
            pytest.skip("the engine takes no pictures")
        return picture(description)

    # How it goes.

    def test_loading_reports_in_sentences(self, unloaded: None, config: Mapping[str, Any]) -> None:  # noqa: ARG002
        """The worker gives ``progress``, which people read; the other tests leave it out."""
        sentences: list[Any] = []
        self.close(self.load(config, progress=sentences.append))
        assert all(isinstance(text, str) and text for text in sentences), f"progress got {sentences}"

    def test_closed_engine_can_be_closed_again_and_another_one_opened(
        self,
        whole: list[Chunk],
        unloaded: None,  # noqa: ARG002
        config: Mapping[str, Any],
    ) -> None:
        """``close()`` is idempotent, and takes nothing with it that the next engine needs."""
        engine = self.load(config)
        self.assert_still_answers(engine, whole)
        self.close(engine)
        self.close(engine)

    def test_closed_engine_leaves_nothing_behind(self, unloaded: None, config: Mapping[str, Any]) -> None:  # noqa: ARG002
        """No thread, file, socket, process or shared memory, also after answers that were cancelled or closed."""
        self._live(config)  # what libraries open once and keep is not the engine's
        before = held()
        mapped = self._live(config)
        deadline = time.monotonic() + self.patience
        while (left := held() - before | {f"{path}, which it had mapped" for path in mapped if path.exists()}) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert not left, f"left behind by closed engines: {sorted(left)}"

    def _live(self, config: Mapping[str, Any]) -> set[Path]:
        """A whole life of an engine; returns the shared memory that it used."""
        before = _mapped()
        engine = self.load(config)
        self.ask(engine, self.long_request(engine))
        with self.asking(engine, self._to_cancel(engine)) as answer:
            answer.step()
            answer.cancel.set()
            answer.rest()
        with self.asking(engine, self._to_cancel(engine)) as answer:
            answer.step()
            answer.step()
        mapped = _mapped() - before
        self.close(engine)
        return mapped


def picture(description: Description, side: int = 160) -> Image:
    """A picture of noise, ``side`` pixels wide before it is fitted for the engine; read-only as the worker's are."""
    noise = np.random.default_rng(1).integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)
    image = fit_image(noise, description.image_input)[0]
    image.setflags(write=False)
    return image


def text_of(chunks: list[Chunk]) -> str:
    """The answer that ``chunks`` add up to."""
    return "".join(chunk.text for chunk in chunks)


def sentence(error: EngineError) -> str:
    """The text of ``error``; fails unless it is a sentence that tells people something."""
    text = str(error)
    assert len(text.split()) >= 4, f"an error is a sentence that says what happened and what to do, not {error!r}"
    assert "Traceback" not in text, f"an error is a sentence, not {text!r}"
    return text


def held() -> set[str]:
    """What this process has open: threads, descriptors, child processes, shared memory."""
    gc.collect()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {task.name} {names.get(int(task.name), 'of a library')}" for task in Path("/proc/self/task").iterdir()
    }
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(f"descriptor {descriptor.name} {descriptor.readlink()}")
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            pid, rest = status.read_text(encoding="utf-8", errors="replace").split(" (", 1)
            name, after = rest.rsplit(") ", 1)
            if int(after.split()[1]) == os.getpid():
                found.add(f"child process {pid} {name}")
    return found | {f"shared memory {path}" for path in _mapped()}


def _mapped() -> set[Path]:
    """Named shared memory that this process maps."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/" in line and "(deleted)" not in line}


def _usage(chunks: list[Chunk]) -> Usage:
    usage = chunks[-1].usage
    assert isinstance(usage, Usage), "the last chunk has the usage"
    return usage


def _has_text(chunk: Chunk) -> bool:
    return bool(chunk.text or chunk.reasoning)


def _with_options(request: Request, **changes: Any) -> Request:
    options = {field.name: getattr(request.options, field.name) for field in fields(Options)}
    return replace(request, options=Options(**(options | changes)))


_NOT_CANCELLED = "once cancel is set, the last chunk has finish reason 'cancelled'; what came was {}"


def _outline(chunks: list[Chunk]) -> str:
    """A stream in a few words, for messages."""
    if not chunks:
        return "no chunk"
    texts, last = sum(map(_has_text, chunks)), chunks[-1]
    return f"{len(chunks)} chunks, {texts} of them with text, the last one {last}"


@contextlib.contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    """Fail when the block takes longer. In this thread, because engines are loaded and closed where the worker is."""

    def late(*_: object) -> None:
        pytest.fail(f"{what} took more than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, late)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, previous)
