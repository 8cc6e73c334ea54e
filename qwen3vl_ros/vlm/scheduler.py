"""Schedules questions: check, queue, slots of the engine, result.

One thread per slot (the engine answers as many questions at once as it has slots) runs jobs, and one thread checks
goals before they are queued. The node's callbacks only hand jobs over or end them, so accepting, cancelling and status
never wait for a model, nor for a goal that takes long to check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from qwen3vl_ros import defect
from qwen3vl_ros.engines.base import BadRequest, Cancel, EngineNotReady, Image, Stage
from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import CANNOT_ANSWER, State
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.prompts.sandbox import Killed, Sandbox
from qwen3vl_ros.prompts.schema import validate_answer
from qwen3vl_ros.vlm.cameras import Camera, chosen
from qwen3vl_ros.vlm.frame_source import CameraHealth
from qwen3vl_ros.vlm.goal_queue import GoalQueue
from qwen3vl_ros.vlm.history import HistorySpan
from qwen3vl_ros.vlm.history_recorder import HistoryRecorder
from qwen3vl_ros.vlm.images import DECODE_TIME, decoded
from qwen3vl_ros.vlm.job import Code, GoalError, GoalResult, Job, Progress
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.pipeline import VALIDATION_TIME, ActiveEngine, PartialAnswer, Pipeline
from qwen3vl_ros.vlm.sessions import Sessions
from qwen3vl_ros.vlm.transforms import Transforms
from qwen3vl_ros.vlm.visualization import Display, NoDisplay

_MOST_UNCHECKED = 64
"""Most goals that wait for their check, which takes 0.1 ms, with the worst schema 1 s."""


class Busy(Exception):
    """A goal is not taken because of others; the text says what to do."""

    code_name = "BUSY"  # as in engines/base.py


class Scheduler:
    """Runs jobs through the :class:`Pipeline`, as many at once as the engine has slots, until it is closed.

    Args:
        engine: Answers, until :meth:`use` names another.
        cameras: By name; closed with the scheduler.
        display: Shows questions and answers.
        settings: Returns the current parameters.
        sessions: The conversations that goals continue.
        transforms: What tf knows; closed with the scheduler.
        recall: Fills the answer to a goal that is answered from the memory, or raises; it may take as long as a disk.
        on_change: Called when a job was queued or leaves the queue, and when histories have changed.
        on_finish: Called once per job, with its result.
        log_exception: Takes a sentence when a defect of this package ended a question.
    """

    def __init__(
        self,
        engine: EngineChain,
        cameras: dict[str, Camera],
        display: Display,
        settings: Callable[[], Settings],
        sessions: Sessions,
        transforms: Transforms,
        recall: Callable[[AskRequest, PartialAnswer], None],
        on_change: Callable[[], None],
        on_finish: Callable[[Job, GoalResult], None],
        log_exception: Callable[[str], None],
    ) -> None:
        self._jobs: GoalQueue[Job] = GoalQueue(settings().queue_size, self._is_next)
        self._engine = ActiveEngine(engine)
        self._cameras = cameras
        self._settings = settings
        self._sessions = sessions
        self._transforms = transforms
        self._display = display
        self._recall = recall
        self._rememberer = ThreadPoolExecutor(1, "remember")  # apart from the questions to the model, which take longer
        self._sandbox = Sandbox()
        self._sandbox.warm_up()  # it takes as long to start as a small model to answer
        self.recorder = HistoryRecorder(cameras, settings().history, on_change, log_exception)

        def pipeline(display: Display | NoDisplay) -> Pipeline:
            return Pipeline(
                self._engine,
                cameras,
                display,
                settings,
                self._sandbox,
                self.recorder,
                sessions,
                transforms,
                log_exception,
            )

        self._pipeline = pipeline(display)
        # What the answers of watches show stays off the topics on which people follow those of goals.
        self._pipeline_beside = pipeline(NoDisplay())
        self._beside: set[Job] = set()
        self._wanting_slot = 0
        self._closed = False
        self._checker = ThreadPoolExecutor(1, "check-goals")  # one thread keeps goals in the order of acceptance
        self._unchecked: set[Job] = set()
        self._on_change = on_change
        self._on_finish = on_finish
        self._log_exception = log_exception
        self._lock = threading.Lock()
        self._live: dict[str, Job] = {}
        self._remembering: set[Job] = set()
        self._unfinished = 0
        self._idle = threading.Condition()
        self._n_threads = 0
        self._slots = 1
        self._slots_taken = 0
        self._slot_freed = threading.Condition()
        self._positions = threading.Lock()
        self.engine_changed()

    @property
    def waiting(self) -> int:
        """Number of questions in the queue."""
        return len(self._jobs)

    @property
    def live(self) -> list[Job]:
        """Questions that were accepted and have no result yet, in the order of acceptance."""
        with self._lock:
            return list(self._live.values())

    @property
    def running(self) -> list[Job]:
        """The live questions that have left the queue; those that the memory answers need no slot and do not count."""
        waiting = self._jobs.waiting()
        with self._lock:
            elsewhere = {*waiting, *self._unchecked, *self._remembering}
            return [job for job in self._live.values() if job not in elsewhere]

    def accept(self, job: Job, check: Callable[[], AskRequest]) -> None:
        """Check and queue ``job`` on the checking thread; finish it with an error if it cannot be queued.

        Args:
            job: Accepted just now.
            check: Returns the validated goal, or raises :class:`BadRequest`.
        """
        with self._idle:
            self._unfinished += 1
        with self._lock:
            self._live[job.reply.goal_id] = job
            full = len(self._unchecked) >= _MOST_UNCHECKED
            if not full:
                self._unchecked.add(job)
        if full:
            job.finish(
                GoalResult(GoalError(Code.BUSY, f"{_MOST_UNCHECKED} goals wait to be looked at: try again later"))
            )
        else:
            self._checker.submit(self._check, job, check)

    def _check(self, job: Job, check: Callable[[], AskRequest]) -> None:
        """Queue ``job`` unless it is over already. Runs on the checking thread."""
        refusal: GoalError | None = None
        try:
            job.checked = check()
            if not job.request.from_memory:
                self._apply_busy_policy(job)
        except Exception as error:  # noqa: BLE001 no goal, however strange, ends the thread that checks them all
            refusal = self._error_of(error)
        with self._lock:
            if job not in self._unchecked:
                return  # it ended during the check, and has its result
            self._unchecked.remove(job)
            if refusal is None and job.request.from_memory:
                self._remembering.add(job)
            if refusal is None and job.request.session:
                self._sessions.enter(job.request.session, job)
            elsewhere = len(self._jobs) + len(self._unchecked) + len(self._remembering)
            free = self._n_threads - (len(self._live) - 1 - elsewhere)
        if refusal is None and job.request.from_memory:
            self._rememberer.submit(self._remember, job)
            return
        if refusal is None:
            assert job.checked is not None
            if job.checked.response_schema is not None:
                self._sandbox.warm_up()
            queue_size = self._settings().queue_size
            self._jobs.capacity = queue_size + max(0, free)
            job.doing = "it was waiting in the queue"
            if self._jobs.put(job):
                self.show_positions()
                self._on_change()
                if job.error is not None:  # it ended before it was queued
                    self.ended(job)
                return
            refusal = GoalError(
                Code.BUSY, f"the queue is full ({self.waiting} goals wait): try again later, or raise queue_size"
            )
        job.finish(GoalResult(job.error or refusal))

    def _apply_busy_policy(self, job: Job) -> None:
        """Apply the parameter ``busy_policy`` to ``job`` and those accepted before it. Raises :class:`Busy`."""
        policy = self._settings().busy_policy
        with self._lock:
            others = [one for one in self._live.values() if one is not job and one not in self._remembering]
        others = [other for other in others if other.accepted <= job.accepted]
        if policy == "reject" and others:
            raise Busy("another goal is running and busy_policy is reject: try again later")
        if policy == "preempt":
            for other in others:
                if other.priority <= job.priority:
                    other.end(Code.PREEMPTED, "a newer goal of the same or a higher priority took its place")

    def find(self, goal_id: str) -> Job | None:
        """Return the live question of that goal, or None."""
        with self._lock:
            return self._live.get(goal_id)

    def use(self, engine: EngineChain) -> list[Job]:
        """Send jobs to ``engine`` from now on; return those that the previous one is still answering."""
        asked_before = self._engine.replace(engine)
        self.engine_changed()
        return asked_before

    def engine_changed(self) -> None:
        """Apply the engine's state: wake jobs that wait for it, and provide as many slots as it has."""
        with self._slot_freed:  # serialized so that the newest state wins
            description = self._engine.chain.health.description
            wanted = self._slots = 1 if description is None else description.concurrency
            self._slot_freed.notify_all()
        with self._lock:
            new, self._n_threads = max(0, wanted - self._n_threads), max(wanted, self._n_threads)
        for _ in range(new):
            threading.Thread(target=self._serve, name="scheduler", daemon=True).start()
        for job in (*self.live, *self._jobs_beside()):
            job.wake()

    def ended(self, job: Job) -> None:
        """Finish ``job``, whose :meth:`Job.end` was called, unless the engine is asked about it."""
        with self._slot_freed:
            self._slot_freed.notify_all()
        with self._lock:
            not_asked = job in self._unchecked or job in self._remembering
            self._unchecked.discard(job)
        if not_asked or self._jobs.withdraw(job):
            job.finish(GoalResult(job.error, queue_time=time.monotonic() - job.accepted))
            self.show_positions()

    def finished(self, job: Job, result: GoalResult) -> None:
        """Forget ``job``, which has its result."""
        with self._lock:
            self._live.pop(job.reply.goal_id, None)
            self._remembering.discard(job)
        if job.checked is not None and job.checked.session:
            self._sessions.leave(job.checked.session, job)
            self._jobs.look_again()
        try:
            self._on_finish(job, result)
        finally:
            with self._idle:
                self._unfinished -= 1
                self._idle.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until every accepted question has its result; return False after ``timeout`` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unfinished == 0, timeout)

    def camera_health(self) -> dict[str, CameraHealth]:
        """Return the health of each camera by name."""
        return {name: camera.health() for name, camera in self._cameras.items()}

    def histories(self) -> dict[str, HistorySpan]:
        """Return what is kept of each camera by name, where something is."""
        spans = {name: camera.history.span for name, camera in self._cameras.items()}
        return {name: span for name, span in spans.items() if span.frames}

    def close(self, code: int, message: str) -> None:
        """Take no more questions, end every live one with this error, and close the camera."""
        self._closed = True
        self._jobs.close()
        self.end_all(code, message)
        self._checker.shutdown(wait=False)
        self._rememberer.shutdown(wait=False)
        self._sandbox.close()
        self.recorder.close()
        self._transforms.close()
        for camera in self._cameras.values():
            camera.close()

    def end_all(self, code: int, message: str) -> None:
        """End every live question with the same error."""
        for job in (*self.live, *self._jobs_beside()):
            job.end(code, message)

    # --- questions beside the goals ----------------------------------------------------------------------------------

    @property
    def not_ready(self) -> str:
        """Why the engine cannot answer now, "" if it can."""
        health = self._engine.chain.health
        return "" if health.state is State.READY else health.message or "the model is still loading"

    def has_room_beside(self, timeout: float = 0.0) -> bool:
        """Wait until a slot is free that no goal needs; return False after ``timeout`` seconds."""
        with self._slot_freed:
            return self._slot_freed.wait_for(self._room_beside, timeout)

    def ask_beside(self, job: Job) -> PartialAnswer:
        """Answer ``job`` on the calling thread; it gets its result before this returns.

        It counts as no goal: not in the queue, for no ``busy_policy``, not in the status. A goal that needs its slot
        ends it with PREEMPTED, as does the want of a free slot at the beginning.
        """
        answer, failure = PartialAnswer(queue_time=time.monotonic() - job.accepted), None
        with self._slot_freed:
            free = self._room_beside()
            if free:
                self._slots_taken += 1
                self._beside.add(job)
        try:
            if self._closed:
                job.end(Code.SHUTDOWN, "the node was deactivated")
            elif not free:
                job.end(Code.PREEMPTED, "goals need every slot of the engine")
            if job.error is None:
                self._ask(job, answer, self._pipeline_beside)
        except Exception as error:  # noqa: BLE001 the caller gets it as a result
            failure = self._error_of(error)
        finally:
            if free:
                with self._slot_freed:
                    self._beside.remove(job)
                    self._slots_taken -= 1
                    self._slot_freed.notify_all()
        job.finish(answer.result(job, failure))
        return answer

    def satisfies(self, text: str, schema: Mapping[str, Any], cancel: Cancel) -> bool:
        """Return whether JSON ``text`` satisfies a checked ``schema``; raises BadRequest if that takes too long."""
        try:
            self._sandbox.run(validate_answer, text, schema, timeout=VALIDATION_TIME, cancel=cancel)
        except ValueError:
            return False
        except Killed as error:
            raise BadRequest(
                f"condition_schema: the answer could not be held against it, {error}: simplify its patterns and "
                "references"
            ) from error
        return True

    def camera(self, name: str) -> Camera:
        """Return the camera of that name, the first one for ""; raises :class:`BadRequest` if there is none."""
        return chosen(self._cameras, [name] if name else [])[0]

    def decode(self, message: Any, cancel: Cancel) -> Image:
        """Decode an image, in the sandbox if that may take long; raises :class:`BadImage`."""
        return decoded(message, DECODE_TIME, self._sandbox, cancel)

    def _jobs_beside(self) -> list[Job]:
        with self._slot_freed:
            return list(self._beside)

    def _room_beside(self) -> bool:
        free = self._slots_taken < self._slots and not self._wanting_slot and not len(self._jobs)
        return free and not self._unchecked

    def show_positions(self) -> None:
        """Send each waiting job its position where that has changed."""
        with self._positions:  # serialized so that the newest position wins
            waiting = self._jobs.waiting()
            ahead = len(self.running)
            for position, job in enumerate(waiting, ahead):
                if job.position != position:
                    job.position = position
                    job.reply.progress(Progress(Stage.QUEUED, queue_position=position))

    def _serve(self) -> None:
        while (job := self._jobs.take()) is not None:
            try:
                self._run(job)
                self.show_positions()
            except Exception as error:  # noqa: BLE001 this thread must go on with other questions
                self._log_exception(defect(f"{type(error).__name__}: {error}"))

    def _run(self, job: Job) -> None:
        answer = PartialAnswer(queue_time=time.monotonic() - job.accepted)
        failure: GoalError | None = None
        try:
            self.show_positions()
            job.reply.started()
            self._on_change()
            self._answer(job, answer)
        except Exception as error:  # noqa: BLE001 the goal must get a result
            failure = self._error_of(error)
        result = answer.result(job, failure)
        if result.error is None and answer.session is not None:
            answer.session.end()  # before the result: the next question may follow at once
        job.finish(result)

    def _remember(self, job: Job) -> None:
        """Answer ``job`` from the memory, without the engine."""
        answer, failure = PartialAnswer(queue_time=time.monotonic() - job.accepted), None
        try:
            job.reply.started()
            if job.error is None:
                self._recall(job.request, answer)
                text = str(answer.text)
                job.reply.progress(Progress(Stage.DECODE, delta=text, text=text))
                self._display.answered(job.request.prompt, text, answer.inputs.images, answer.regions)
        except Exception as error:  # noqa: BLE001 the goal must get a result
            failure = self._error_of(error)
        job.inputs = answer.inputs
        job.finish(answer.result(job, failure))

    def _is_next(self, job: Job) -> bool:
        """Return whether the questions of its session that came before ``job`` are over."""
        session = job.request.session
        return not session or self._sessions.is_next(session, job)

    def _error_of(self, error: Exception) -> GoalError:
        code = getattr(Code, getattr(error, "code_name", "UNKNOWN"))
        message = str(error)
        if code == Code.UNKNOWN:
            message = defect(f"{type(error).__name__}: {error}")
            self._log_exception(message)
        return GoalError(code, message)

    def _answer(self, job: Job, answer: PartialAnswer) -> None:
        """Fill ``answer`` until the answer is complete, the job ends or something raises.

        Retries once, without the client's notice, if the engine returned the question because it was replaced or is
        being reloaded. Does not retry after a crash of the engine's process, which the question may have caused.
        """
        with self._slot(job):  # before a frame is taken, so that it is fresh when the engine gets it
            self._ask(job, answer, self._pipeline)

    def _ask(self, job: Job, answer: PartialAnswer, pipeline: Pipeline) -> None:
        try:
            pipeline.run(job, answer)
        except EngineNotReady:
            if answer.begun or self._engine.chain.health.state in CANNOT_ANSWER:
                raise
            pipeline.run(job, answer)

    @contextmanager
    def _slot(self, job: Job) -> Iterator[None]:
        """Hold one of the engine's slots within the block; wait for a free one, or until the job ends.

        Where none is free, questions beside the goals give theirs up.
        """
        with self._slot_freed:
            self._wanting_slot += 1
            job.doing = "it was waiting for a free slot of the engine"
            beside = list(self._beside) if self._slots_taken >= self._slots else []
        for other in beside:  # not within the lock: a cancel takes the engine's locks
            other.end(Code.PREEMPTED, "a goal needs its slot of the engine")
        with self._slot_freed:
            self._slot_freed.wait_for(lambda: self._slots_taken < self._slots or job.error is not None)
            self._wanting_slot -= 1
            self._slots_taken += 1
        try:
            yield
        finally:
            with self._slot_freed:
                self._slots_taken -= 1
                self._slot_freed.notify_all()
