"""Fixtures and helpers of the conformance tests: loading an engine, asking it, and shared checks."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from qwen3vl_ros.engines.base import (
    Chunk,
    Description,
    Engine,
    EngineError,
    Image,
    Message,
    Options,
    PromptTooLong,
    Request,
    Stage,
)
from qwen3vl_ros.engines.conformance.stream import Answer, has_text, outline, text_of
from qwen3vl_ros.vision.fit import fit_image

_ANSWER_TOKENS = 64
"""Token limit of an answer: enough for every test, and short enough that none waits for long."""

_TEXTS_NEEDED = 4
"""Least number of chunks with text in the long answer, in the middle of which tests stop."""


@dataclass
class Kept:
    """The engine that the tests of one class share, and its long answer."""

    engine: Engine | None = None
    whole: list[Chunk] | None = None


class EngineHarness:
    """The attributes and methods that a test class sets and overrides, and the fixtures that its tests share.

    All attributes but ``engine_class`` have defaults.

    ``engine_class``: the class, or ``staticmethod(factory)``; called as the worker does, with ``config`` as keywords.
    ``question``: a question that the engine answers with at least four chunks of text on any image.
    ``patience``: seconds for one chunk, and for loading and closing, on a busy machine.
    ``repeatable``: the same question has the same answer, at temperature 0 where the engine has one. False for servers
    that compute several requests at once.
    """

    engine_class: ClassVar[Callable[..., Engine]]
    question: ClassVar[str] = "Describe this picture in detail."
    patience: ClassVar[float] = 60.0
    repeatable: ClassVar[bool] = True

    # Methods that the author of an engine may override.

    @pytest.fixture(scope="class")
    def config(self) -> Mapping[str, Any]:
        """Return the keywords for ``engine_class``, without ``progress``. Override it for an engine that needs some."""
        return {}

    def long_request(self, engine: Engine) -> Request:
        """Return a request with ``question``, whose answer has at least four chunks of text."""
        return self.request(engine, self.question)

    def numbered_request(self, engine: Engine, number: int) -> Request:
        """Return a request like :meth:`long_request`, another one for each ``number``."""
        request = self.long_request(engine)
        *before, last = request.messages
        content = tuple(f"{part} {number}" if isinstance(part, str) else part for part in last.content)
        return replace(request, messages=(*before, replace(last, content=content)))

    def endless_request(self, engine: Engine) -> Request | None:  # noqa: ARG002
        """Return a request whose answer ends only by a cancel, or None to use :meth:`long_request`.

        For engines that compute ahead of the reader: a server may have sent the whole answer before a test can cancel
        it. Engines that compute each chunk on demand need none.
        """
        return None

    def non_ascii_request(self, engine: Engine) -> Request | None:  # noqa: ARG002
        """Return a request whose answer has non-ASCII characters; None if the engine cannot be made to write any."""
        return None

    # Fixtures and helpers of the tests, which the author's own tests may use, too.

    @pytest.fixture(scope="class")
    def kept(self) -> Iterator[Kept]:
        """Provide the engine that the tests of this class share."""
        kept = Kept()
        yield kept
        if kept.engine is not None:
            self.close(kept.engine)

    @pytest.fixture
    def engine(self, kept: Kept, config: Mapping[str, Any], request: pytest.FixtureRequest) -> Iterator[Engine]:
        """Provide the engine, a new one after a failed test."""
        if kept.engine is None:
            kept.engine = self.load(config)
        failed = request.session.testsfailed
        yield kept.engine
        if request.session.testsfailed > failed and kept.engine is not None:
            broken, kept.engine = kept.engine, None
            self.close(broken)

    @pytest.fixture
    def unloaded(self, kept: Kept) -> None:
        """Close the shared engine, for a test that loads its own: there may be room for only one."""
        if kept.engine is not None:
            shared, kept.engine = kept.engine, None
            self.close(shared)

    @pytest.fixture
    def whole(self, kept: Kept, engine: Engine) -> list[Chunk]:
        """Provide the answer to :meth:`long_request`."""
        if kept.whole is None:
            whole = self.ask(engine, self.long_request(engine))
            assert sum(map(has_text, whole)) >= _TEXTS_NEEDED, (
                f"the tests need an answer of at least {_TEXTS_NEEDED} chunks with text, and this one has "
                f"{outline(whole)}. If the engine streams, set `question` or replace `long_request`."
            )
            kept.whole = whole
        return kept.whole

    def load(self, config: Mapping[str, Any], **more: Any) -> Engine:
        """Load a new engine as the worker does."""
        with within(self.patience, "loading the engine"):
            return type(self).engine_class(**config, **more)

    def close(self, engine: Engine) -> None:
        """Close ``engine``; fail if that takes longer than ``patience``."""
        with within(self.patience, "close()"):
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
        """Return a request that ``engine`` supports: with one image unless it takes none, and greedy."""
        description = engine.describe()
        if images is None:
            images = () if description.max_images == 0 else (noise_image(description),)
        usual = {"temperature": 0.0, "max_tokens": _ANSWER_TOKENS}
        options = {name: value for name, value in usual.items() if name in description.supports} | options
        return Request((Message("user", (*images, text)),), Options(**options), schema)

    def asking(self, engine: Engine, request: Request) -> Answer:
        """Start an answer; use it as a context manager."""
        return Answer(engine, request, self.patience)

    def ask(self, engine: Engine, request: Request) -> list[Chunk]:
        """Return all chunks of an answer."""
        with self.asking(engine, request) as answer:
            return answer.rest()

    def assert_refused(self, engine: Engine, request: Request, kind: type[EngineError]) -> str:
        """Assert that ``request`` is refused with ``kind`` before any work; return the error's sentence.

        Stage PREFILL is allowed for a prompt that is too long, which a server that counts tokens itself must be sent.
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
        """Assert that the engine answers the next question as before, without remains of another answer."""
        again = self.ask(engine, self.long_request(engine))
        assert again[-1].finish_reason in ("stop", "length"), f"the next answer is {outline(again)}"
        if self.repeatable:
            assert text_of(again) == text_of(whole), (
                "the next answer is not what it was before: is something of the previous answer left in the engine?"
            )

    def to_cancel(self, engine: Engine) -> Request:
        """Return a request whose answer is long enough to be cancelled in the middle."""
        return self.endless_request(engine) or self.long_request(engine)


def noise_image(description: Description, side: int = 160) -> Image:
    """Return an image of noise, ``side`` pixels wide, fitted for the engine; read-only as the worker's are."""
    noise = np.random.default_rng(1).integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)
    image = fit_image(noise, description.image_input)[0]
    image.setflags(write=False)
    return image


def sentence(error: EngineError) -> str:
    """Return the text of ``error``; fail unless it is a sentence."""
    text = str(error)
    assert len(text.split()) >= 4, f"an error is a sentence that says what happened and what to do, not {error!r}"
    assert "Traceback" not in text, f"an error is a sentence, not {text!r}"
    return text


def with_options(request: Request, **changes: Any) -> Request:
    """Return a copy of ``request`` with ``changes`` to its :class:`Options`."""
    options = {field.name: getattr(request.options, field.name) for field in fields(Options)}
    return replace(request, options=Options(**(options | changes)))


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail when the block takes longer; it runs on this thread, as the worker loads and closes on its main thread."""

    def late(*_: object) -> None:
        pytest.fail(f"{what} took more than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, late)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, previous)
