"""Records finished questions on a thread of its own, so that no answer waits for a disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from rclpy.executors import Executor
from rclpy.task import Future

from qwen3vl_ros import defect
from qwen3vl_ros.srv import CorrectAnswer
from qwen3vl_ros.vlm.job import GoalResult, Job
from qwen3vl_ros.vlm.record_entry import Finished
from qwen3vl_ros.vlm.recorded_answers import RecordingError
from qwen3vl_ros.vlm.recording import Recording, now

_MOST_WAITING: Final = 64
_MOST_BYTES: Final = 256_000_000
"""Most answers, and most bytes of their images in memory, that wait for the disk; one more is left out."""

_STOPPED: Final = "the node records no longer: activate it again, and correct the answer then"

Log: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RecorderHealth:
    """How the recording is. ``problem``: why nothing can be written now; "" = it can.

    ``recorded``, ``left_out``: answers since the node was configured. ``size``: bytes of the files.
    """

    directory: str
    problem: str
    recorded: int
    left_out: int
    size: int


@dataclass(frozen=True, slots=True)
class _Correction:
    goal_id: str
    text: str
    reply: Callable[[str], None]


class Recorder:
    """Records what :meth:`take` is given. Usable from any thread.

    What goes wrong is logged once, and over when an answer is written again: each one is tried.

    Args:
        directory: Of the recording.
        megabytes: Most megabytes of it.
        info: Logs a sentence.
        warn: Logs a sentence about a problem.
    """

    def __init__(self, directory: Path, megabytes: float, info: Log, warn: Log) -> None:
        self._directory = directory
        self._megabytes = megabytes
        self._info = info
        self._warn = warn
        self._recording: Recording | None = None
        self._waiting: deque[Finished | _Correction] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._slow = False
        self._problem = ""
        self._recorded = 0
        self._left_out = 0
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def take(self, job: Job, result: GoalResult) -> None:
        """Record a question that has its result; never blocks. Goals that made no sense are not recorded."""
        if job.checked is None:
            return
        inputs = {} if job.inputs is None else {"inputs": job.inputs}
        finished = Finished(job.reply.goal_id, now(), job.checked, result, job.messages, **inputs)
        with self._changed:
            if self._closed:
                return
            full = len(self._waiting) >= _MOST_WAITING or self._waiting_bytes + finished.nbytes > _MOST_BYTES
            slow, self._slow = self._slow, full
            if full and self._waiting:
                self._left_out += 1
            else:
                self._waiting.append(finished)
                self._waiting_bytes += finished.nbytes
                self._changed.notify()
                return
        if not slow:
            self._warn(
                f"recording: answers are left out, as the disk of {self._directory} is too slow; diagnostics count them"
            )

    def correct(self, goal_id: str, text: str, reply: Callable[[str], None]) -> None:
        """Write a correction after the answers that were taken before.

        Args:
            goal_id: Identifier of the answer, or its beginning.
            text: The right answer.
            reply: Called with "" once it is written, or with a sentence that says why not, on any thread.
        """
        with self._changed:
            if not self._closed:
                self._waiting.append(_Correction(goal_id, text, reply))
                self._changed.notify()
                return
        reply(_STOPPED)

    def health(self) -> RecorderHealth:
        """Return how the recording is."""
        with self._changed:
            size = 0 if self._recording is None else self._recording.size
            return RecorderHealth(str(self._directory), self._problem, self._recorded, self._left_out, size)

    def close(self, patience: float = 1.0) -> None:
        """Take nothing more, and give the disk ``patience`` seconds for what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(patience)

    def _write_all(self) -> None:
        """Write what comes until the recorder is closed."""
        self._note_problem(self._attempt(lambda _: None))
        while (item := self._next()) is not None:
            if isinstance(item, _Correction):
                item.reply(self._correct(item))
            else:
                self._write(item)
        if self._recording is not None:
            self._recording.close()

    def _next(self) -> Finished | _Correction | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            if isinstance(item, Finished):
                self._waiting_bytes -= item.nbytes
            return item

    def _write(self, finished: Finished) -> None:
        problem = self._attempt(lambda recording: recording.append(*finished.recorded()))
        with self._changed:
            if problem:
                self._left_out += 1
            else:
                self._recorded += 1
        self._note_problem(problem)

    def _correct(self, correction: _Correction) -> str:
        return self._attempt(lambda recording: recording.correct(correction.goal_id, correction.text))

    def _attempt(self, work: Callable[[Recording], None]) -> str:
        """Do something with the recording, which is opened if it is not; return why it failed, "" if it did not."""
        try:
            work(self._open())
        except RecordingError as error:
            return str(error)
        except OSError as error:
            return (
                f"{self._directory} cannot be written ({error.strerror or error}): make room there, or set "
                "record.directory to another directory"
            )
        except Exception as error:  # noqa: BLE001 this thread must go on with other answers
            return defect(f"{type(error).__name__}: {error}")
        return ""

    def _open(self) -> Recording:
        if self._recording is not None and not self._recording.is_there:  # somebody has deleted it
            self._recording.close()
            self._recording = None
        if self._recording is None:
            self._recording = Recording(self._directory, self._megabytes)
            self._info(
                f"questions, answers and images are recorded in {self._directory}: there may be people in the images; "
                "who answers for them is in its file NOTICE"
            )
        return self._recording

    def _note_problem(self, problem: str) -> None:
        """Log a problem that is new, and its end."""
        before, self._problem = self._problem, problem
        if problem and problem != before:
            self._warn(f"recording: answers are left out: {problem}")
        elif before and not problem:
            self._info("recording: answers are recorded again")


async def serve_correction(
    recorder: Recorder, executor: Executor, request: CorrectAnswer.Request, response: CorrectAnswer.Response
) -> CorrectAnswer.Response:
    """Serve ~/correct_answer without blocking the executor's thread."""
    done: Future[str] = Future(executor=executor)

    def reply(problem: str) -> None:
        done.set_result(problem)
        executor.wake()  # it resumes coroutines only when it is awake

    recorder.correct(request.goal_id, request.text, reply)
    response.message = await done or ""
    response.success = not response.message
    return response
