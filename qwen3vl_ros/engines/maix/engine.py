"""The ``maix`` engine: a model on the NPU of a Sipeed board through MaixPy, on the board itself.

MaixPy's ``send()`` holds the GIL until the whole answer is there, so it has a process of its own below the engine's
(:mod:`qwen3vl_ros.engines.maix.host`): this one stays free to hear a cancel and to show that it is alive.

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

_STOP_PERIOD = 0.5
"""Seconds after which a service is told again to stop: it forgets that while it encodes an image."""

_END_TIMEOUT = 30.0
"""Seconds that an answer nobody wants gets to end. One of 448 tokens that cannot be stopped takes about as long."""

_RELEASE_TIMEOUT = 20.0
"""Seconds that closing waits: 10 at most for MaixPy to return, 5 for the service to stop."""

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
        """Load the model. Raises :class:`ModelNotFound`, :class:`EngineNotReady`.

        ``model``: a .mud file. ``model_class``: what runs it, ``Qwen3VL`` or ``InternVL``. ``fit``: how the caller is
        to bring images to the model's size. ``load_timeout``: seconds that loading may take, waiting for another
        process that has the model included.
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
        self._progress = _log.info  # loading anew later is not the caller's loading
        self._description = Description(
            engine="maix",
            model=self._model.name,
            context_length=self._model.limits.context,
            prompt_limit=self._model.limits.prompt,
            max_images=1,
            image_input=ImageInput(size=(self._width, self._height), fit=fit),
            supports=abilities(self._model),
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
        """Return the description of this engine and its model."""
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
        payload = payload_of(request, self._model, (self._width, self._height))
        if not self._busy.acquire(blocking=False):
            raise EngineError("The maix engine answers one request at a time: end or close the running one first.")
        try:
            yield from self._answer(payload, request.options, cancel)
        finally:
            self._busy.release()

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
