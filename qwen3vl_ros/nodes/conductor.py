"""Leads each question from the queue through camera and engine to its result.

A conductor thread per question that the engine can take at once; callbacks of the node only ever put jobs in the queue
or end them, so accepting, cancelling and status never wait for a model.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from qwen3vl_ros.dialogue.question import Question, again_prompt, check_supported, supported_options, validate_answer
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Chunk,
    Description,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    Image,
    Message,
    ModelNotFound,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
    Usage,
)
from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import State
from qwen3vl_ros.nodes.cameras import DEPTH_PATIENCE, Camera, chosen
from qwen3vl_ros.nodes.display import Display
from qwen3vl_ros.nodes.frame_source import CameraHealth, Frame, NoFrame
from qwen3vl_ros.nodes.goal_queue import GoalQueue
from qwen3vl_ros.nodes.job import Code, Ending, Job, Outcome, Progress
from qwen3vl_ros.nodes.parameters import Settings
from qwen3vl_ros.nodes.pointing import Picture, points_at_something, prompt_of, regions_of
from qwen3vl_ros.vision.compressed import decode
from qwen3vl_ros.vision.encodings import to_rgb
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.grounding import GroundingError, Scale
from qwen3vl_ros.vision.region import Region

RESULT_GRACE = 0.25
"""Seconds that an ended question waits for the engine's last words before its result goes out without them."""

STOP_GRACE = 2.0
"""Seconds after which an engine that was told to stop and did not is killed."""

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (Unsupported, Code.UNSUPPORTED),
    (BadImage, Code.BAD_IMAGE),
    (PromptTooLong, Code.PROMPT_TOO_LONG),
    (BadRequest, Code.BAD_REQUEST),
    (NoFrame, Code.NO_FRAME),
    (EngineCrashed, Code.ENGINE_CRASHED),
    (EngineNotReady, Code.ENGINE_NOT_READY),
    (ModelNotFound, Code.ENGINE_NOT_READY),
    (EngineError, Code.ENGINE_ERROR),
)
"""Error code of every exception a question can meet, most special first."""


@dataclass(slots=True)
class _Answer:
    """What is known of an answer while it is made."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    json: str = ""
    headers: tuple[Header, ...] = ()
    pictures: tuple[Picture, ...] = ()
    regions: tuple[Region, ...] = ()
    usage: Usage = field(default_factory=Usage)
    begun: bool = False
    withheld: bool = False
    loading: str = ""
    completion_tokens: int = 0
    queue_time: float | None = None
    image_time: float | None = None
    engine: str = ""
    model: str = ""


class Conductor:
    """Answers jobs with ``engine``, looking through ``cameras``, until it is closed; ``display`` shows them.

    ``settings`` gives the parameters as they are now. ``on_finish`` gets every job with its outcome, ``log_exception``
    a sentence when a defect of this package ended a question.
    """

    def __init__(
        self,
        engine: EngineChain,
        cameras: dict[str, Camera],
        display: Display,
        settings: Callable[[], Settings],
        on_start: Callable[[], None],
        on_finish: Callable[[Job, Outcome], None],
        log_exception: Callable[[str], None],
    ) -> None:
        self._jobs: GoalQueue[Job] = GoalQueue(settings().queue_size)
        self._engine = engine
        self._cameras = cameras
        self._display = display
        self._settings = settings
        self._on_start = on_start
        self._on_finish = on_finish
        self._log_exception = log_exception
        self._lock = threading.Lock()
        self._live: dict[str, Job] = {}
        self._asked: dict[Job, EngineChain] = {}
        self._unfinished = 0
        self._idle = threading.Condition()
        self._slots = 0
        self._concurrency = 1
        self._answering = 0
        self._place = threading.Condition()
        self.engine_changed()

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._jobs)

    @property
    def live(self) -> list[Job]:
        """Questions that were accepted and have no result yet, in the order of acceptance."""
        with self._lock:
            return list(self._live.values())

    @property
    def running(self) -> list[Job]:
        """Those of them that are out of the queue."""
        waiting = self._jobs.waiting()
        return [job for job in self.live if job not in waiting]

    def accept(self, job: Job, queue_size: int) -> bool:
        """Queue ``job``; False when ``queue_size`` goals wait already."""
        with self._lock:
            self._live[job.asker.goal_id] = job
        with self._idle:
            self._unfinished += 1
        self._jobs.capacity = queue_size + max(0, self._slots - (len(self._live) - 1 - len(self._jobs)))
        if self._jobs.put(job):
            self.show_positions()
            if job.ending is not None:  # its time was up before it stood in the queue
                self.ended(job)
            return True
        return False

    def find(self, goal_id: str) -> Job | None:
        """The live question of that goal."""
        with self._lock:
            return self._live.get(goal_id)

    def use(self, engine: EngineChain) -> list[Job]:
        """From now on ask ``engine``; returns the jobs that the one before is answering."""
        with self._lock:
            self._engine = engine
            asked_before = [job for job, asked in self._asked.items() if asked is not engine]
        self.engine_changed()
        return asked_before

    def engine_changed(self) -> None:
        """The engine's state is another now: jobs that wait for it look again, and its concurrency is used."""
        with self._place:  # whoever comes last has looked last
            description = self._engine.health.description
            wanted = self._concurrency = 1 if description is None else description.concurrency
            self._place.notify_all()
        with self._lock:
            new, self._slots = max(0, wanted - self._slots), max(wanted, self._slots)
        for _ in range(new):
            threading.Thread(target=self._serve, name="conductor", daemon=True).start()
        for job in self.live:
            job.inbox.put(None)

    def ended(self, job: Job) -> None:
        """``job`` was told to end early: one that still waits in the queue is finished here and now."""
        with self._place:
            self._place.notify_all()
        if self._jobs.withdraw(job):
            self.finish(job, Outcome(job.ending, queue_time=time.monotonic() - job.accepted))
            self.show_positions()

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Give ``job`` its result, unless it has one."""
        final = job.finish(outcome)
        if final is not None:
            with self._lock:
                self._live.pop(job.asker.goal_id, None)
            try:
                self._on_finish(job, final)
            finally:
                with self._idle:
                    self._unfinished -= 1
                    self._idle.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until every accepted question has its result; False when that takes longer than ``timeout`` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unfinished == 0, timeout)

    def camera_health(self) -> dict[str, CameraHealth]:
        """How the cameras are doing, by name."""
        return {name: camera.health() for name, camera in self._cameras.items()}

    def close(self, code: int, message: str) -> None:
        """Take no more questions, end every live one with this error, and close the camera."""
        self._jobs.close()
        self.end_all(code, message)
        for camera in self._cameras.values():
            camera.close()

    def end_all(self, code: int, message: str) -> None:
        """End every live question with the same error."""
        for job in self.live:
            job.end(code, message)

    def show_positions(self) -> None:
        """Tell everybody who waits how many are before them."""
        ahead = max(0, len(self.live) - len(self._jobs))
        for position, job in enumerate(self._jobs.waiting()):
            job.asker.progress(Progress(Stage.QUEUED, queue_position=ahead + position))

    def _serve(self) -> None:
        while (job := self._jobs.take()) is not None:
            try:
                self._run(job)
                self.show_positions()
            except Exception as error:  # noqa: BLE001 whatever it is, this thread has other questions to answer
                self._log_exception(f"a defect of qwen3vl_ros, please report it: {type(error).__name__}: {error}")

    def _run(self, job: Job) -> None:
        answer = _Answer(queue_time=time.monotonic() - job.accepted)
        ending: Ending | None = None
        try:
            self.show_positions()
            job.asker.started()
            self._on_start()
            self._answer(job, answer)
        except Exception as error:  # noqa: BLE001 whatever happened, the goal gets a result
            code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL_ERROR)
            message = str(error)
            if code == Code.INTERNAL_ERROR:
                message = f"a defect of qwen3vl_ros, please report it: {type(error).__name__}: {error}"
                self._log_exception(message)
            ending = Ending(code, message)
        self.finish(job, self._outcome(job, answer, ending))

    def _outcome(self, job: Job, answer: _Answer, ending: Ending | None) -> Outcome:
        """What the job ended with. That it was told to end outweighs what went wrong while it was ending."""
        ending = job.ending or ending
        if ending is not None and ending.code == Code.TIMEOUT and answer.loading:
            ending = Ending(Code.ENGINE_NOT_READY, f"{ending.message}, because no model was ready: {answer.loading}")
        finish_reason = answer.finish_reason
        if ending is not None and answer.completion_tokens and not finish_reason:
            finish_reason = "cancelled"
        usage = answer.usage
        if not usage.completion_tokens:
            usage = Usage(completion_tokens=answer.completion_tokens)
        return Outcome(
            ending=ending,
            text=answer.text,
            reasoning=answer.reasoning,
            finish_reason=finish_reason,
            json=answer.json,
            headers=answer.headers,
            regions=answer.regions,
            usage=usage,
            queue_time=answer.queue_time,
            image_time=answer.image_time,
            engine=answer.engine,
            model=answer.model,
        )

    def _answer(self, job: Job, answer: _Answer) -> None:
        """Fill ``answer``, as far as it goes before the job ends or something raises.

        A question that an engine had not even begun when its process went away is asked again, once: it was not at
        fault, and whoever asked never noticed.
        """
        with self._a_place(job):  # before looking: the picture is of the moment when the engine takes it
            try:
                self._try_answer(job, answer)
            except (EngineCrashed, EngineNotReady):
                if answer.begun or self._engine.health.state in (State.FAILED, State.CLOSED):
                    raise
                self._try_answer(job, answer)

    def _try_answer(self, job: Job, answer: _Answer) -> None:
        description = self._ready(job)
        if description is None:
            health = self._engine.health
            if health.state is not State.READY:
                answer.loading = health.message or "it is still loading"
            return
        answer.engine, answer.model = description.engine, description.model
        question = job.question
        check_supported(question, description)
        begin = time.monotonic()
        images = self._images(job, answer, description)
        if images is None:
            return
        answer.image_time = time.monotonic() - begin
        constrained = question.response_schema is None or "json_schema" in description.supports
        answer.withheld = not constrained  # it may have to be given again, and what was streamed cannot be taken back
        prompt = prompt_of(question, answer.pictures, constrained=constrained)
        problem = self._ask(job, answer, description, images, prompt)
        if problem and not constrained and job.ending is None:
            first = replace(answer)
            answer.text = answer.reasoning = answer.finish_reason = ""
            again = f"{prompt}\n\n{again_prompt(first.text, problem)}"
            try:
                problem = self._ask(job, answer, description, images, again)
            except EngineError as error:  # such as PromptTooLong: the first answer is what there is
                answer.text, answer.reasoning, answer.finish_reason = first.text, first.reasoning, first.finish_reason
                problem = f"{problem}; asking again failed: {error}"
        if answer.withheld and answer.text:
            self._show(job, answer, Chunk(Stage.DECODE, answer.text, "", answer.completion_tokens), True)
        if problem:
            job.end(Code.BAD_RESPONSE, problem)
        self._display.answered(question.prompt, answer.text, answer.pictures, answer.regions)

    def _ask(
        self, job: Job, answer: _Answer, description: Description, images: Sequence[str | Image], prompt: str
    ) -> str:
        """Have the engine answer; returns what is wrong with the answer, "" when nothing is or the job ended."""
        question = job.question
        messages = [Message("user", (*images, prompt))]
        if question.system_prompt:
            messages.insert(0, Message("system", (question.system_prompt,)))
        schema = question.response_schema if "json_schema" in description.supports else None
        request = Request(tuple(messages), supported_options(question, description), schema)
        if job.ending is None:
            with self._lock:
                engine = self._asked[job] = self._engine
            try:
                self._stream(job, answer, request, description, engine)
            finally:
                with self._lock:
                    del self._asked[job]
        return "" if job.ending is not None else self._read(question, answer)

    def _read(self, question: Question, answer: _Answer) -> str:
        """Take what a complete answer says, the JSON and what it points at; returns what is wrong with it, or ""."""
        scale = cast("Scale", self._settings().coordinates)
        try:
            if question.parser in ("regions", "regions_3d"):
                answer.regions = regions_of(answer.text, answer.pictures, scale, self._log_exception)
                with suppress(ValueError):  # regions are read even from JSON that is cut off
                    answer.json = validate_answer(answer.text, question.response_schema or {})
            elif question.response_schema is not None:
                answer.json = validate_answer(answer.text, question.response_schema)
            elif answer.pictures and points_at_something(answer.text):
                with suppress(GroundingError):  # nobody asked for regions
                    answer.regions = regions_of(answer.text, answer.pictures, scale, self._log_exception)
        except ValueError as error:
            return str(error)
        return ""

    def _ready(self, job: Job) -> Description | None:
        """What the engine is, once it is loaded; None when the job ended before."""
        while job.ending is None:
            health = self._engine.health
            if health.state is State.READY and health.description is not None:
                return health.description
            if health.state in (State.FAILED, State.CLOSED):
                raise EngineNotReady(health.message)
            job.inbox.get()  # engine_changed() or the job's own end
        return None

    def _images(self, job: Job, answer: _Answer, description: Description) -> list[str | Image] | None:
        """The pictures the question is about, fitted for the engine; None when the job ended before.

        Those of several cameras are preceded by their names.
        """
        question = job.question
        if question.text_only:
            return []
        sources: list[tuple[Any, Camera | None, Frame | None]] = [(message, None, None) for message in question.images]
        if not sources:
            job.asker.progress(Progress(Stage.WAITING_FRAME))
            frame_timeout = self._settings().frame_timeout
            deadline = min(job.deadline, time.monotonic() + frame_timeout) if frame_timeout else job.deadline
            for source in chosen(self._cameras, question.cameras):
                taken = self._frame(job, source, deadline)
                if taken is None:
                    return None
                sources.append((taken.message(), source, taken))
        if description.max_images is not None and len(sources) > description.max_images:
            raise BadRequest(
                f"{len(sources)} pictures in the goal; engine {description.engine!r} takes {description.max_images}"
            )
        if len(sources) < question.pictures:
            raise BadRequest(f"task {question.task} is about {question.pictures} pictures; the goal has {len(sources)}")
        if len(sources) > 1 and question.parser in ("regions", "regions_3d"):
            raise BadRequest(f"task {question.task} looks at one picture; the goal has {len(sources)}: ask about each")
        answer.headers = tuple(message.header for message, _, _ in sources)
        content: list[str | Image] = []
        pictures = []
        for number, (message, camera, frame) in enumerate(sources, 1):
            pixels = decode(message) if isinstance(message, CompressedImage) else to_rgb(message)
            wanted = description.image_input
            if camera is not None and camera.fit is not None:
                wanted = replace(wanted, fit=camera.fit)
            image, fit = fit_image(pixels, wanted)
            pictures.append(Picture(message.header, pixels, fit, camera, frame))
            if camera is not None and len(sources) > 1:
                content.append(f"Picture {number}, camera {camera.name}: ")
            content.append(image)
        answer.pictures = tuple(pictures)
        return content

    @staticmethod
    def _frame(job: Job, camera: Camera, deadline: float) -> Frame | None:
        """A fresh frame; None when the job ended before. Raises :class:`NoFrame` at ``deadline``."""
        question = job.question

        def interrupted_by(interrupt: Callable[[], None]) -> None:
            job.interrupt = interrupt

        return camera.wait(
            question.not_before, question.max_frame_age, deadline, lambda: job.ending is not None, interrupted_by
        )

    @contextmanager
    def _a_place(self, job: Job) -> Iterator[None]:
        """Wait until the engine takes one more question, or the job ended."""
        with self._place:
            self._place.wait_for(lambda: self._answering < self._concurrency or job.ending is not None)
            self._answering += 1
        try:
            yield
        finally:
            with self._place:
                self._answering -= 1
                self._place.notify()

    def _stream(
        self, job: Job, answer: _Answer, request: Request, description: Description, engine: EngineChain
    ) -> None:
        """Send the request and pass on what comes, until it is complete or the job ended."""
        last_full_text = -float("inf")

        def deliver(item: Chunk | EngineError) -> None:
            """On the engine's thread, so that a token waits for no other; only what ends the answer goes on."""
            nonlocal last_full_text
            try:
                if isinstance(item, Chunk):
                    now = time.monotonic()
                    full = now - last_full_text >= self._settings().full_text_interval
                    last_full_text = now if full else last_full_text
                    self._take_chunk(job, answer, item, full)
                    self._display.writing(job.question.prompt, answer.text, answer.pictures)
                    if item.finish_reason is None:
                        return
                job.inbox.put(item)
            except Exception as error:  # noqa: BLE001 raised again where the goal gets its result
                job.inbox.put(error)

        call = engine.submit(request, description, deliver)
        job.interrupt = call.cancel
        if job.ending is not None:
            call.cancel()
        give_up = time.monotonic() + DEPTH_PATIENCE
        for picture in answer.pictures:  # while the engine works: a later depth picture is of another moment
            picture.fetch_depth(self._settings().depth_tolerance, give_up, lambda: job.ending is not None)
        told_to_stop: float | None = None
        while True:
            if job.ending is not None and told_to_stop is None:
                told_to_stop = time.monotonic()
            try:
                item = job.inbox.get(timeout=self._patience(told_to_stop))
            except queue.Empty:
                self.finish(job, self._outcome(job, answer, None))
                if told_to_stop is not None and time.monotonic() - told_to_stop >= STOP_GRACE:
                    call.kill(f"it did not stop within {STOP_GRACE:g} s of being told to")
                    return
                continue
            if isinstance(item, Exception):
                call.cancel()  # a defect of ours: the engine may be at it still
                raise item
            if item is not None:
                if item.finish_reason == "cancelled" and job.ending is None:
                    raise EngineNotReady("the engine was given up before the answer was complete; ask again")
                return

    @staticmethod
    def _patience(told_to_stop: float | None) -> float | None:
        """Seconds to wait for the next chunk: for ever while the job runs, within the graces once it ended."""
        if told_to_stop is None:
            return None
        since = time.monotonic() - told_to_stop
        return max(0.0, (RESULT_GRACE if since < RESULT_GRACE else STOP_GRACE) - since)

    def _take_chunk(self, job: Job, answer: _Answer, chunk: Chunk, full_text: bool) -> None:
        answer.begun = answer.begun or chunk.finish_reason != "cancelled"
        answer.text += chunk.text
        answer.reasoning += chunk.reasoning
        answer.completion_tokens = chunk.completion_tokens
        if chunk.finish_reason is not None:
            answer.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            answer.usage = chunk.usage
        if answer.withheld:
            chunk = replace(chunk, text="", reasoning="")
        self._show(job, answer, chunk, full_text and not answer.withheld)

    @staticmethod
    def _show(job: Job, answer: _Answer, chunk: Chunk, full_text: bool) -> None:
        """Feedback of what came."""
        if job.ending is None and (chunk.finish_reason is None or chunk.text or chunk.reasoning):
            job.asker.progress(
                Progress(
                    chunk.stage,
                    delta=chunk.text,
                    text=answer.text if full_text else None,
                    reasoning_delta=chunk.reasoning,
                    completion_tokens=chunk.completion_tokens,
                )
            )
