"""The ``maix`` engine: a model on the NPU of a Sipeed board through MaixPy, on the board itself.

MaixPy's ``send()`` holds the GIL until the whole answer is there, so it has a process of its own below the engine's
(:mod:`qwen3vl_ros.engines.maix_host`): this one stays free to hear a cancel and to show that it is alive.

``nn.Qwen3VL`` is a client of a service on the board that holds the model. Its ``cancel()`` breaks the object, and the
only way to a new one is to stop the service and load the model again, for a minute. So an answer is ended at the
service, ``GET /v1/stop``, on which ``send()`` returns as after any answer and the next question needs no loading.
``nn.InternVL`` has the model in its own process and survives ``cancel()``, which is called from its reply callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    Description,
    EngineError,
    EngineNotReady,
    FinishReason,
    FitMode,
    Image,
    ImageInput,
    Options,
    Progress,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
    Usage,
)
from qwen3vl_ros.engines.maix_http_request import (
    GREEDY,
    MOST_TOP_K,
    PENALTY_OFF,
    TEMPERATURE,
    TEMPLATE_TOKENS,
    TOP_K,
    TOP_P,
    TOP_P_OFF,
)
from qwen3vl_ros.engines.maix_http_tokens import likely_tokens, most_tokens
from qwen3vl_ros.engines.maix_model import find_maix_model
from qwen3vl_ros.engines.maix_process import MaixProcess

_SUPPORTS = frozenset({"system_prompt", "stop", "max_tokens", "text_only"})
_SAMPLING = frozenset({"temperature", "top_p", "top_k", "repetition_penalty"})
"""What nn.Qwen3VL takes with each question. nn.InternVL takes it from the .mud file, once, while it loads."""

_STOP_PERIOD = 0.5
"""Seconds after which a service is told again to stop: it forgets that while it encodes a picture."""

_END_TIMEOUT = 30.0
"""Seconds that an answer nobody wants gets to end. One of 448 tokens that cannot be stopped takes about as long."""

_RELEASE_TIMEOUT = 20.0
"""Seconds that closing waits: 10 at most for MaixPy to return, 5 for the service to stop."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    """What is sent, and how many tokens it is taken to have, the picture's included."""

    text: str
    picture: Image | None
    sampling: dict[str, float | int | bool]
    prompt_tokens: int
    image_tokens: int


class MaixEngine:
    """Answers with MaixPy, one question at a time. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        model: str,
        model_class: str = "Qwen3VL",
        fit: FitMode = "contain",
        load_timeout: float = 180.0,
        progress: Progress = lambda _: None,
    ) -> None:
        """Load the model. Raises :class:`ModelNotFound`, :class:`EngineNotReady`.

        ``model``: a .mud file. ``model_class``: what runs it, ``Qwen3VL`` or ``InternVL``. ``fit``: how the caller is
        to bring pictures to the model's size. ``load_timeout``: seconds that loading may take, waiting for another
        process that has the model included.
        """
        self._model = find_maix_model(model, model_class)
        self._load_timeout = load_timeout
        self._progress = progress
        self._supports = _SUPPORTS | _SAMPLING if self._model.service_url else _SUPPORTS
        self._busy = threading.Lock()
        self._process: MaixProcess | None = None
        self._left: list[MaixProcess] = []
        self._width = self._height = 0
        self._version = ""
        self._restart = False
        try:
            self._prepare(Cancel())
        except BaseException:
            self.close()
            raise
        self._progress = _log.info  # loading anew later is not the caller's loading
        self._description = Description(
            engine="maix",
            model=self._model.name,
            context_length=self._model.limits.context,
            prompt_limit=self._model.limits.prompt,
            max_images=1,
            image_input=ImageInput(size=(self._width, self._height), fit=fit),
            supports=self._supports,
            details={
                "file": str(self._model.path),
                "kind": f"nn.{model_class}, {self._version}",
                "service": self._model.service_url or "none: the model runs in MaixPy's process",
                "limits": self._model.limits.source,
            },
        )

    @staticmethod
    def probe(*, model: str, model_class: str = "Qwen3VL", **_: object) -> str:
        """Whether MaixPy and the model's files are there; raises :class:`ModelNotFound`. Imports nothing native."""
        return f"{find_maix_model(model, model_class).name}, with MaixPy on this board"

    def describe(self) -> Description:
        """What this engine is and can do."""
        return self._description

    def close(self) -> None:
        """Release the model, which stops its service. Idempotent; no call may follow."""
        self._leave()
        while self._left:
            self._left.pop().close(_RELEASE_TIMEOUT)

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        Tokens are estimated, as MaixPy tells of none: no less than one for each call of its reply callback, which comes
        for about three. Raises :class:`BadRequest`, :class:`BadImage`, :class:`PromptTooLong`, :class:`Unsupported`
        before any work.
        """
        question = self._question(request)
        if not self._busy.acquire(blocking=False):
            raise EngineError("The maix engine answers one request at a time: end or close the running one first.")
        try:
            yield from self._answer(question, request.options, cancel)
        finally:
            self._busy.release()

    def _question(self, request: Request) -> _Question:
        """What to send for ``request``. Raises what :meth:`generate` raises for a request."""
        if request.response_schema is not None:
            raise Unsupported("response_schema: MaixPy has no grammars; ask for JSON in the question instead.")
        if request.choices:
            raise Unsupported("choices: MaixPy tells no probabilities; leave them out.")
        options = request.options
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"):
            if name not in self._supports and getattr(options, name) is not None:
                raise Unsupported(
                    f"{name}: nn.{self._model.model_class} of MaixPy has no such setting; leave it unset."
                )
        if options.max_tokens is not None and options.max_tokens < 1:
            raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
        if options.repetition_penalty is not None and options.repetition_penalty < 1.0:
            raise Unsupported("repetition_penalty: the board takes 1, which is off, and more.")
        text, picture = self._one_turn(request)
        if picture is None and self._model.service_url:
            # A service that finds no picture looks at the last one that it was asked about.
            picture = np.full((self._height, self._width, 3), 128, np.uint8)
        image_tokens = 0 if picture is None else self._model.image_tokens
        tokens = TEMPLATE_TOKENS + image_tokens + round(most_tokens(text))
        limits = self._model.limits
        most = min(limits.prompt or tokens, (limits.context or tokens + 1) - 1)
        if tokens > most:
            raise PromptTooLong(
                f"The prompt has about {tokens} tokens, {image_tokens} of them for the picture, and the model reads "
                f"{most} ({limits.source}). Ask with fewer words, and a shorter system prompt."
            )
        return _Question(text, picture, _sampling(options) if self._model.service_url else {}, tokens, image_tokens)

    def _one_turn(self, request: Request) -> tuple[str, Image | None]:
        """The text of instruction and question, and the picture."""
        roles = [message.role for message in request.messages]
        if roles[-1:] != ["user"] or set(roles[:-1]) - {"system"}:
            raise Unsupported("sessions: the board remembers nothing; ask one question, with all it needs in it.")
        pictures = [part for message in request.messages for part in message.content if not isinstance(part, str)]
        if len(pictures) > 1:
            raise BadImage(f"This engine takes one picture, not {len(pictures)}: MaixPy has one place for it.")
        for picture in pictures:
            if picture.dtype != np.uint8 or picture.shape != (self._height, self._width, 3):
                raise BadImage(
                    f"A picture of {picture.dtype} {picture.shape} does not fit: this model takes uint8 RGB of "
                    f"{self._width}x{self._height} pixels (describe().image_input)."
                )
        # MaixPy sends its own system prompt once, and after the question: instructions go with the text instead.
        texts = ["".join(part for part in m.content if isinstance(part, str)).strip() for m in request.messages]
        if not texts[-1]:
            raise BadRequest("There is no question: MaixPy takes a picture only with text.")
        text = "\n\n".join(filter(None, texts))
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRequest("The question has half a surrogate pair in it, which is no text.") from None
        return text, pictures[0] if pictures else None

    def _prepare(self, cancel: Cancel) -> MaixProcess | None:
        """MaixPy with the model loaded and no answer on its way; None when ``cancel`` is set before it is so far.

        Raises :class:`EngineNotReady` and what loading raises.
        """
        since = time.monotonic()
        while not cancel.is_set():
            if self._process is None:
                self._process = MaixProcess(self._model, self._restart)
            process = self._process
            if not process.loading and not process.answering:
                return process
            event = process.next(_STOP_PERIOD)
            if event is None:
                self._hurry(process, time.monotonic() - since)
            elif event[0] == "loading":
                self._progress(event[1])
            elif event[0] == "ready":
                self._width, self._height, self._version = event[1:]
                self._restart = False
            elif event[0] == "failed":
                self._leave()
                raise event[1]
            elif event[0] == "done" and event[2]:  # the end of an answer that nobody wanted
                self._leave()
            elif event[0] == "died":
                loading = process.loading
                self._leave(restart=not loading)
                if loading:
                    raise EngineError(f"{event[1]} while it loaded {self._model.path}. What it printed may say why.")
        return None

    def _hurry(self, process: MaixProcess, waited: float) -> None:
        """See to a process that said nothing for a while. Raises :class:`EngineNotReady`."""
        if process.loading and time.monotonic() - process.started > self._load_timeout:
            process.kill()  # and not the service, which may be about to have loaded
            self._leave()
            raise EngineNotReady(
                f"{self._model.path} was not loaded within load_timeout, {self._load_timeout:g} s. What MaixPy "
                "printed, and `journalctl -u qwen3_vl -u llm-tokenizer` on the board, may say why."
            )
        if process.answering and waited > _END_TIMEOUT:
            _log.warning("an answer that nobody wants still runs after %g s: loading the model anew", waited)
            process.kill()
            self._leave(restart=True)
        elif process.answering:
            self._end_answer(process)

    def _end_answer(self, process: MaixProcess) -> None:
        """Have the answer on its way end; :meth:`_prepare` waits for that."""
        if not self._model.service_url:
            process.tell("stop")
            return
        try:
            httpx.get(f"{self._model.service_url}/v1/stop", timeout=2.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning("the service could not be told to stop (%s): it will end by itself", error)

    def _leave(self, restart: bool = False) -> None:
        """Have another process next; this one releases the model, unless it is dead. ``restart``: with a fresh service.

        Who is dead has left the service behind, perhaps in the middle of an answer.
        """
        if self._process is not None:
            self._process.release()
            self._left.append(self._process)
        self._process, self._restart = None, restart and bool(self._model.service_url)

    def _wake(self) -> None:
        process = self._process
        if process is not None:
            process.wake()

    def _answer(self, question: _Question, options: Options, cancel: Cancel) -> Iterator[Chunk]:
        answer = _Answer(question, options, self._model.limits.context, encodes_here=not self._model.service_url)
        with cancel.calling(self._wake):
            process = self._prepare(cancel)
            if process is None:
                yield answer.last("cancelled")
                return
            yield answer.chunk()
            process.tell("ask", question.text, question.picture, question.sampling)
            try:
                yield from self._listen(process, answer, cancel)
            finally:
                if process.answering:
                    self._end_answer(process)

    def _listen(self, process: MaixProcess, answer: _Answer, cancel: Cancel) -> Iterator[Chunk]:
        """The chunks of ``answer`` until it ends, or is to end."""
        while not cancel.is_set():
            event = process.next()
            assert event is not None
            if event[0] == "encoded":
                yield from answer.encoded()
            elif event[0] == "text":
                yield answer.text(event[1])
                finish = answer.complete()
                if finish is not None:
                    yield answer.last(finish)
                    return
            elif event[0] == "done":
                if event[2]:
                    self._leave()
                if event[1] is not None:
                    raise event[1]
                yield answer.last("length" if answer.full else "stop")
                return
            elif event[0] == "died":
                process.answering = False
                self._leave(restart=True)
                raise EngineError(f"{event[1]} while it answered. The model is loaded anew for the next question.")
        yield answer.last("cancelled")


class _Answer:
    """An answer as far as it is there, with its counts and times."""

    def __init__(self, question: _Question, options: Options, context: int | None, encodes_here: bool) -> None:
        """``context``: in tokens. ``encodes_here``: MaixPy says when the picture is encoded, a service does not."""
        self._question = question
        self._max_tokens = options.max_tokens
        self._context = context
        self._text = AnswerText(options.stop)
        self._encodes_here = encodes_here
        self._stage = Stage.PREFILL if question.picture is None else Stage.ENCODE
        self._pieces = 0
        self._estimate = 0.0
        self._started = time.monotonic()
        self._encode_time: float | None = None
        self._first_token_time: float | None = None

    def chunk(self, text: str = "", reasoning: str = "") -> Chunk:
        return Chunk(self._stage, text, reasoning, self._tokens)

    def encoded(self) -> Iterator[Chunk]:
        """The picture is where the model reads it."""
        if self._stage is Stage.ENCODE:
            if self._encodes_here:
                self._encode_time = time.monotonic() - self._started
            self._stage = Stage.PREFILL
            yield self.chunk()

    def text(self, text: str) -> Chunk:
        """``text`` came."""
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
        self._stage = Stage.DECODE
        self._pieces += 1
        self._estimate += likely_tokens(text)
        return self.chunk(*self._text.feed(text.encode()))

    def complete(self) -> FinishReason | None:
        """Why the request wants no more than what came; None when it does."""
        if self._text.stopped:
            return "stop"
        return "length" if self._max_tokens is not None and self._tokens >= self._max_tokens else None

    @property
    def full(self) -> bool:
        """Whether the context has no room for more, by estimate."""
        return self._context is not None and self._question.prompt_tokens + self._tokens >= self._context

    @property
    def _tokens(self) -> int:
        return max(self._pieces, round(self._estimate))

    def last(self, finish: FinishReason) -> Chunk:
        answer, reasoning = self._text.finish()
        usage = Usage(
            prompt_tokens=self._question.prompt_tokens,
            image_tokens=self._question.image_tokens,
            completion_tokens=self._tokens,
            encode_time=self._encode_time,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        return Chunk(self._stage, answer, reasoning, self._tokens, finish, usage)


def _sampling(options: Options) -> dict[str, float | int | bool]:
    """Fields of MaixPy's post_config: each that matters, always, as what one question sets the next one finds set.

    Unset ones get what Qwen recommends.
    Tokens are drawn by top-k, or by top-p where there is no top-k.
    """
    temperature = TEMPERATURE if options.temperature is None else options.temperature
    top_p = TOP_P if options.top_p is None else options.top_p
    top_k = TOP_K if options.top_k is None else options.top_k
    by_top_p = options.top_p is not None and options.top_p < 1 if options.top_k is None else options.top_k == 0
    if temperature < GREEDY:  # 0 is refused in silence
        temperature, top_k, by_top_p = GREEDY, 1, False
    penalty = 1.0 if options.repetition_penalty is None else options.repetition_penalty
    return {
        "enable_temperature": True,
        "temperature": temperature,
        "enable_top_p_sampling": True,
        "top_p": min(top_p, TOP_P_OFF),
        "enable_top_k_sampling": not by_top_p,
        "top_k": min(max(top_k, 1), MOST_TOP_K),
        "enable_repetition_penalty": True,
        "repetition_penalty": max(penalty, PENALTY_OFF),
    }
