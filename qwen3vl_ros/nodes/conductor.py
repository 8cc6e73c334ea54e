"""Leads each question from the queue through camera and engine to its result.

A conductor thread per question that the engine can take at once; callbacks of the node only ever put jobs in the queue
or end them, so accepting, cancelling and status never wait for a model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    ModelNotFound,
    PromptTooLong,
    Stage,
    Unsupported,
)
from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import State
from qwen3vl_ros.nodes.answering import Answering, Draft
from qwen3vl_ros.nodes.cameras import Camera
from qwen3vl_ros.nodes.display import Display
from qwen3vl_ros.nodes.frame_source import CameraHealth, NoFrame
from qwen3vl_ros.nodes.goal_queue import GoalQueue
from qwen3vl_ros.nodes.job import Code, Ending, Job, Outcome, Progress
from qwen3vl_ros.nodes.parameters import Settings

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
        self._answers = Answering(
            lambda: self._engine, self._being_asked, cameras, display, settings, self.finish, log_exception
        )
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
        self._positions = threading.Lock()
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
        """Tell everybody who waits how many are before them, where that has changed."""
        with self._positions:  # whoever counts last tells last
            waiting = self._jobs.waiting()
            ahead = max(0, len(self.live) - len(waiting))
            for position, job in enumerate(waiting, ahead):
                if job.position != position:
                    job.position = position
                    job.asker.progress(Progress(Stage.QUEUED, queue_position=position))

    def _serve(self) -> None:
        while (job := self._jobs.take()) is not None:
            try:
                self._run(job)
                self.show_positions()
            except Exception as error:  # noqa: BLE001 whatever it is, this thread has other questions to answer
                self._log_exception(f"a defect of qwen3vl_ros, please report it: {type(error).__name__}: {error}")

    def _run(self, job: Job) -> None:
        draft = Draft(queue_time=time.monotonic() - job.accepted)
        ending: Ending | None = None
        try:
            self.show_positions()
            job.asker.started()
            self._on_start()
            self._answer(job, draft)
        except Exception as error:  # noqa: BLE001 whatever happened, the goal gets a result
            code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL_ERROR)
            message = str(error)
            if code == Code.INTERNAL_ERROR:
                message = f"a defect of qwen3vl_ros, please report it: {type(error).__name__}: {error}"
                self._log_exception(message)
            ending = Ending(code, message)
        self.finish(job, draft.outcome(job, ending))

    def _answer(self, job: Job, draft: Draft) -> None:
        """Fill ``draft``, as far as it goes before the job ends or something raises.

        A question that an engine had not even begun when its process went away is asked again, once: it was not at
        fault, and whoever asked never noticed.
        """
        with self._a_place(job):  # before looking: the picture is of the moment when the engine takes it
            try:
                self._answers.answer(job, draft)
            except (EngineCrashed, EngineNotReady):
                if draft.begun or self._engine.health.state in (State.FAILED, State.CLOSED):
                    raise
                self._answers.answer(job, draft)

    @contextmanager
    def _being_asked(self, job: Job) -> Iterator[EngineChain]:
        """The engine that ``job`` is put to; while it is, :meth:`use` knows who asks it."""
        with self._lock:
            engine = self._asked[job] = self._engine
        try:
            yield engine
        finally:
            with self._lock:
                del self._asked[job]

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
