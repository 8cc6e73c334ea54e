"""The ``maix`` engine: a model on the NPU of a Sipeed board through MaixPy, on the board itself.

MaixPy's ``send()`` holds the GIL until the answer is complete, so MaixPy runs in a child process of the engine's worker
(:mod:`qwen3vl_ros.engines.maix.host`), which stays free to react to a cancel and to send heartbeats.

``nn.Qwen3VL`` is a client of a service on the board that holds the model. Its ``cancel()`` breaks the object, and a new
one needs the service stopped and the model loaded again, for a minute. So an answer is ended at the service,
``GET /v1/stop``: ``send()`` then returns as after any answer, and the next question needs no loading.
``nn.InternVL`` has the model in its own process and survives ``cancel()``, which is called from its reply callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx

from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    EngineError,
    EngineNotReady,
    FitMode,
    ImageInput,
    Options,
    Progress,
    Request,
)
from qwen3vl_ros.engines.maix.answer import Answer
from qwen3vl_ros.engines.maix.model import find_maix_model
from qwen3vl_ros.engines.maix.process import MaixProcess
from qwen3vl_ros.engines.maix.request import MaixPayload, abilities, payload_of
from qwen3vl_ros.engines.model_card import model_card
from qwen3vl_ros.engines.thinking import check_thinking

_STOP_PERIOD = 0.5
"""Seconds between requests to stop: a service ignores them while it encodes an image."""

_END_TIMEOUT = 30.0
"""Seconds that an abandoned answer has to end; an unstoppable one of 448 tokens takes about as long."""

_RELEASE_TIMEOUT = 20.0
"""Seconds that :meth:`MaixEngine.close` waits: at most 10 for MaixPy to return, 5 for the service to stop."""

_log = logging.getLogger(__name__)


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
        """Load the model.

        Args:
            model: A .mud file.
            model_class: The class of maix.nn that runs it, ``Qwen3VL`` or ``InternVL``.
            fit: How the caller brings images to the model's size.
            load_timeout: Seconds that loading may take, including the wait for another process that uses the model.
            progress: Called with sentences about the loading.

        Raises:
            ModelNotFound: A file, the class or MaixPy is missing.
            EngineNotReady: The model is in use elsewhere, or was not loaded in time.
        """
        self._model = find_maix_model(model, model_class)
        self._load_timeout = load_timeout
        self._progress = progress
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
        self._progress = _log.info  # a later reload has no caller that waits for it
        self._description = Description(
            engine="maix",
            model=self._model.name,
            context_length=self._model.limits.context,
            prompt_limit=self._model.limits.prompt,
            max_images=1,
            image_input=ImageInput(size=(self._width, self._height), fit=fit),
            supports=abilities(self._model),
            card=replace(model_card(self._model.name), conversation=False),  # the board remembers nothing
            details={
                "file": str(self._model.path),
                "kind": f"nn.{model_class}, {self._version}",
                "service": self._model.service_url or "none: the model runs in MaixPy's process",
                "limits": self._model.limits.source,
            },
        )

    @staticmethod
    def probe(*, model: str, model_class: str = "Qwen3VL", **_: object) -> str:
        """Check that MaixPy and the model's files exist, without importing native code; raises ModelNotFound."""
        return f"{find_maix_model(model, model_class).name}, with MaixPy on this board"

    def describe(self) -> Description:
        """Return the description of this engine and its model."""
        return self._description

    def close(self) -> None:
        """Release the model, which stops its service. Idempotent; no call may follow."""
        self._leave()
        while self._left:
            self._left.pop().close(_RELEASE_TIMEOUT)

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        Tokens are estimated, since MaixPy reports none: at least one for each call of its reply callback, which covers
        about three tokens.

        Raises:
            BadRequest: The request makes no sense; raised before any work, as are the next three.
            BadImage: An image cannot be used.
            PromptTooLong: Prompt and image do not fit.
            Unsupported: MaixPy or the board cannot honour a field.
            EngineNotReady: The model could not be loaded again in time.
            EngineError: A request is running already, or MaixPy failed.
        """
        check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
        payload = payload_of(request, self._model, (self._width, self._height))
        if not self._busy.acquire(blocking=False):
            raise EngineError("The maix engine answers one request at a time: end or close the running one first.")
        try:
            yield from self._answer(payload, request.options, cancel)
        finally:
            self._busy.release()

    def _prepare(self, cancel: Cancel) -> MaixProcess | None:
        """Wait for a process that has loaded the model and runs no answer, starting one if necessary.

        Returns:
            The process, or None if ``cancel`` was set first.

        Raises:
            EngineNotReady: The model was not loaded within ``load_timeout``.
            EngineError: Loading failed.
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
            elif event[0] == "done" and event[2]:  # an abandoned answer ended and spoilt the model
                self._leave()
            elif event[0] == "died":
                loading = process.loading
                self._leave(restart=not loading)
                if loading:
                    raise EngineError(f"{event[1]} while it loaded {self._model.path}. What it printed may say why.")
        return None

    def _hurry(self, process: MaixProcess, waited: float) -> None:
        """Handle a silent process: check its timeouts, and stop its answer again; raises :class:`EngineNotReady`."""
        if process.loading and time.monotonic() - process.started > self._load_timeout:
            process.kill()  # but not the service, which may have loaded almost all of the model
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
        """Ask MaixPy or the service to end the running answer; :meth:`_prepare` waits until it has."""
        if not self._model.service_url:
            process.tell("stop")
            return
        try:
            httpx.get(f"{self._model.service_url}/v1/stop", timeout=2.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning("the service could not be told to stop (%s): it will end by itself", error)

    def _leave(self, restart: bool = False) -> None:
        """Abandon the process, which releases the model unless it is dead; the next question starts another.

        ``restart``: the next process restarts the service, which a dead one may have left in the middle of an answer.
        """
        if self._process is not None:
            self._process.release()
            self._left.append(self._process)
        self._process, self._restart = None, restart and bool(self._model.service_url)

    def _wake(self) -> None:
        process = self._process
        if process is not None:
            process.wake()

    def _answer(self, payload: MaixPayload, options: Options, cancel: Cancel) -> Iterator[Chunk]:
        answer = Answer(payload, options, self._model.limits.context, encodes_here=not self._model.service_url)
        with cancel.calling(self._wake):
            process = self._prepare(cancel)
            if process is None:
                yield answer.last("cancelled")
                return
            yield answer.chunk()
            process.tell("ask", payload.text, payload.image, payload.sampling)
            try:
                yield from self._listen(process, answer, cancel)
            finally:
                if process.answering:
                    self._end_answer(process)

    def _listen(self, process: MaixProcess, answer: Answer, cancel: Cancel) -> Iterator[Chunk]:
        """Yield the chunks of ``answer`` until it is complete or cancelled."""
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
