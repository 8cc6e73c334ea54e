"""The ``maix_http`` engine: the NPU of a Sipeed MaixCAM2 or another board with an Axera AX630C or AX650.

It uses the board's HTTP service (AXERA's ax-llm, Qwen3-VL variant; qwen3_vl.service, port 12346), from the board itself
or from another machine. The service resembles OpenAI's API and differs from it:

- A prompt that is too long makes the service hang until it is restarted, so it is refused before it is sent. Its number
  of tokens is an estimate; :mod:`qwen3vl_ros.engines.maix_http.tokens` gives the accuracy.
- It ignores the system role: this engine puts the system prompt in front of the question.
- It ignores max_tokens and stop: this engine ends the answer itself and tells the service to stop. Token counts are
  estimates (at least one for each piece of the answer; ax-llm sends about three tokens in a piece), never the service's
  own, which are bytes. ``finish_reason`` is "length" also when, by that estimate, the context is full.
- Settings persist from one client's request to the next one's, so all are sent every time.
- It samples by top_k or by top_p, never both: by top_k if a request sets both or neither.
- A question without an image is sent with a grey one. Without any, the service would mix in the previous image.
- The service silently drops an image that it cannot decode. This engine encodes the image itself and decodes it again
  as a check. If the service drops it all the same, that cannot be detected: its token counts are wrong.
- Nor can it be detected that the first words belong to an answer that *another* client, or this one when it was killed,
  disconnected from: all share one queue of tokens.
- It answers one question at a time. This engine waits for other clients' at most ``first_token_timeout`` seconds.
- Encoding and prefill cannot be told apart from outside: both are the stage ENCODE.
- Proxies in the environment are not used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    EngineError,
    EngineNotReady,
    FinishReason,
    FitMode,
    ImageInput,
    ModelNotFound,
    Options,
    Progress,
    Request,
    Stage,
    Usage,
)
from qwen3vl_ros.engines.maix_http import request as requests
from qwen3vl_ros.engines.maix_http.request import Limits, Prompt
from qwen3vl_ros.engines.maix_http.service import RESTART, NotYetError, Service
from qwen3vl_ros.engines.maix_http.tokens import likely_tokens
from qwen3vl_ros.engines.model_card import model_card
from qwen3vl_ros.engines.streaming import EventLoop
from qwen3vl_ros.engines.thinking import check_thinking

_INPUT_SIZE = 448
"""Side in pixels of the encoder's input, which the service does not report; a few published models have 320 or 384."""

_PROBE_TIMEOUT = 1.0

_SUPPORTS = frozenset(
    {"system_prompt", "stop", "max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "text_only"}
)


class MaixHttpEngine:
    """Asks the board's service. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:12346",
        model: str = "",
        prompt_limit: int = 0,
        context_length: int = 0,
        input_size: int = 0,
        fit: FitMode = "contain",
        load_timeout: float = 180.0,
        first_token_timeout: float = 60.0,
        token_timeout: float = 15.0,
        progress: Progress = lambda _: None,
    ) -> None:
        """Wait until the service has loaded its model.

        Args:
            base_url: Scheme, host and port of the service.
            model: The model that the service must run, "" for any. The name may have more parts than the service's,
                above all P and CTX, as in Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448.
            prompt_limit: In tokens; 0 takes it from the name.
            context_length: In tokens; 0 takes it from the name.
            input_size: Width and height in pixels of the encoder's image; 0 is 448.
            fit: How the caller brings images to that size.
            load_timeout: Seconds to wait for the service.
            first_token_timeout: Seconds to the first piece of the answer, including encoding and prefill. Empty events
                are no pieces.
            token_timeout: Seconds from one piece to the next.
            progress: Called with sentences about the waiting.

        Raises:
            EngineNotReady: The service was not ready in time.
            ModelNotFound: Something else answers at ``base_url``, or the service runs another model.
        """
        self._first_token_timeout = first_token_timeout
        self._token_timeout = token_timeout
        self._size = input_size or _INPUT_SIZE
        self._busy = threading.Lock()
        self._service = Service(base_url)
        self._loop = EventLoop()
        self._closed = False
        try:
            self._model = self._loop.run(self._service.wait_ready(load_timeout, progress))
            _check_model(base_url, self._model, model)
        except BaseException:
            self.close()
            raise
        names = (model, self._model)
        self._limits: Limits = requests.limits_of(names, prompt_limit, context_length)
        self._description = Description(
            engine="maix_http",
            model=model or self._model,
            context_length=self._limits.context,
            prompt_limit=self._limits.prompt,
            max_images=1,
            image_input=ImageInput(size=(self._size, self._size), fit=fit),
            supports=_SUPPORTS,
            card=replace(model_card(model or self._model), conversation=False),  # the service reads the last question
            details={
                "url": self._service.url,
                "limits": self._limits.source,
                "tokens": "counted by estimate",
                "system_prompt": "put in front of the question",
                "text_only": "sent with a grey image",
                "sampling": "by top_k or by top_p; by top_k where both are asked for, or neither",
            },
        )

    @staticmethod
    def probe(*, base_url: str = "http://127.0.0.1:12346", model: str = "", **_: object) -> str:
        """Ask the service once for its model, and name it; raises :class:`EngineNotReady`, :class:`ModelNotFound`."""
        service = Service(base_url)
        loop = EventLoop()
        try:
            listed = loop.run(service.model(_PROBE_TIMEOUT))
        except NotYetError as reason:
            raise EngineNotReady(service.not_ready(reason)) from None
        finally:
            loop.run(service.close())
            loop.close()
        _check_model(base_url, listed, model)
        return f"{service.url}: {model or listed}"

    def describe(self) -> Description:
        """Return the description of this engine and its model."""
        return self._description

    def close(self) -> None:
        """Wait until the service has ended the last answer, at most :data:`.service.STOP_TIME`. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.run(self._service.close())
            self._loop.close()

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        A cancelled answer ends at once. The service ends it within :data:`.service.STOP_TIME`; the next question waits
        for that, and a few seconds more if the service did not. Then ``first_token_timeout`` may run twice: while
        another client is answered, and until the first piece.

        Raises:
            BadRequest: The request makes no sense; raised before anything is sent, as are the next three.
            BadImage: There are several images, or one of another size.
            PromptTooLong: The prompt does not fit, by estimate.
            Unsupported: The service cannot honour a field.
            EngineNotReady: The service is not reachable or still loads its model.
            EngineError: A request is running already, or the service failed.
        """
        check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
        prompt = requests.build(request, self._model, self._limits, self._size)
        if not self._busy.acquire(blocking=False):
            raise EngineError("The service answers one question at a time: end or close the running one first.")
        try:
            answer = _Answer(self._service, prompt, request.options, self._limits.context)
            if not cancel.is_set():
                yield from self._loop.iterate(answer.run(self._first_token_timeout, self._token_timeout), cancel)
            yield answer.last("cancelled" if answer.finish is None else answer.finish)
        finally:
            self._busy.release()


def _check_model(url: str, listed: str, wanted: str) -> None:
    """Raise :class:`ModelNotFound` unless one of the names ``wanted`` and ``listed`` contains the other."""
    short = listed.rsplit("/", 1)[-1].lower()
    if short not in wanted.lower() and wanted.lower() not in listed.lower():
        raise ModelNotFound(
            f"{url} runs {listed}, not {wanted}: leave maix_http.model empty, or start the other model."
        )


class _Answer:
    """Sends one question and turns the answer into chunks; estimates its tokens and measures its times."""

    def __init__(self, service: Service, prompt: Prompt, options: Options, context: int | None) -> None:
        self._service = service
        self._prompt = prompt
        self._limit = options.max_tokens
        self._context = context
        self._text = AnswerText(options.stop)
        self._started = time.monotonic()
        self._stage = Stage.ENCODE
        self._pieces = 0
        self._estimate = 0.0
        self._bytes_sent = 0
        self._first_token_time: float | None = None
        self.finish: FinishReason | None = None

    async def run(self, first_token_timeout: float, token_timeout: float) -> AsyncIterator[Chunk]:
        """Yield all chunks but the last, then set :attr:`finish`, which stays None after a cancel."""
        answer = await self._service.ask(self._prompt.body, first_token_timeout)
        try:
            self._bytes_sent = answer.bytes_sent
            yield Chunk(self._stage)
            late = (
                f"no token within {first_token_timeout:g} s. If it is slow, raise first_token_timeout; if it hangs, as "
                f"it does after an image it could not encode, restart it with {RESTART}"
            )
            deadline = time.monotonic() + first_token_timeout
            while self.finish is None:
                piece = await answer.next(deadline - time.monotonic(), late)
                if piece is None:
                    self.finish = "length" if self._is_full() else "stop"
                elif piece:
                    late = f"no further token within {token_timeout:g} s. Ask again, or raise token_timeout"
                    deadline = time.monotonic() + token_timeout
                    chunk = self._take(piece)
                    if chunk.text or chunk.reasoning or self._pieces == 1:
                        yield chunk
        finally:
            self._service.leave(answer)
        if not self._pieces:
            raise EngineError(
                f"{self._service.url} answered without a word, as it does when another client stops it or when a "
                "prompt is longer than its model reads. Ask again, with fewer words."
            )

    def _take(self, piece: bytes) -> Chunk:
        self._pieces += 1
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
        self._stage = Stage.DECODE
        text, reasoning = self._text.feed(piece)
        self._estimate += likely_tokens(piece.decode("utf-8", "replace"))
        if self._text.stopped:
            self.finish = "stop"
        elif self._limit is not None and self._tokens() >= self._limit:
            self.finish = "length"
        return Chunk(self._stage, text, reasoning, self._tokens())

    def last(self, finish: FinishReason) -> Chunk:
        """Return the last chunk."""
        text, reasoning = self._text.finish()
        usage = Usage(
            prompt_tokens=self._prompt.tokens,
            image_tokens=self._prompt.image_tokens,
            completion_tokens=self._tokens(),
            bytes_sent=self._bytes_sent,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        return Chunk(self._stage, text, reasoning, self._tokens(), finish, usage)

    def _tokens(self) -> int:
        return max(self._pieces, round(self._estimate))

    def _is_full(self) -> bool:
        return self._context is not None and self._prompt.tokens + self._tokens() >= self._context
