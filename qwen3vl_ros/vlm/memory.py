"""What the node remembers of what its cameras saw: filled while the node is active, asked by the task where_last."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from rclpy.time import Time as Instant

from qwen3vl_ros.engines.base import Unsupported
from qwen3vl_ros.index.entries import IndexFileError
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.job import GoalResult
from qwen3vl_ros.vlm.memory_answer import check_alone, fill_described, fill_not_seen, fill_seen, name_in
from qwen3vl_ros.vlm.memory_file import MemoryFile
from qwen3vl_ros.vlm.memory_looks import Counters, Looker
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.pipeline import PartialAnswer
from qwen3vl_ros.vlm.scheduler import Scheduler

Log: TypeAlias = Callable[[str], None]

_PATIENCE: Final = 0.5
"""Seconds to wait until the file is closed."""


@dataclass(frozen=True, slots=True)
class MemoryHealth:
    """How the memory is. ``problem``: why nothing is remembered now; "" = something is. ``size``: bytes of the file."""

    path: str
    problem: str
    counters: Counters
    size: int


class Memory:
    """The memory of a node; off, it does nothing. Every method may be called from any thread.

    Args:
        settings: Returns the node's parameters.
        tasks: Returns the tasks that its questions are made of.
        deadlines: End questions that take too long.
        clock: Returns the node's time.
        on_answer: Takes the result of each question.
        info: Logs a sentence.
        warn: Logs a sentence about a problem.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        tasks: Callable[[], Tasks],
        deadlines: Deadlines,
        clock: Callable[[], Instant],
        on_answer: Callable[[GoalResult], None],
        info: Log,
        warn: Log,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._deadlines = deadlines
        self._clock = clock
        self._on_answer = on_answer
        self._info = info
        self._warn = warn
        self._lock = threading.Lock()
        self._file: MemoryFile | None = None
        self._looker: Looker | None = None
        self._problem = ""

    def configure(self) -> None:
        """Read the parameters: remember from the next :meth:`start` on, or be off."""
        self.close()
        settings = self._settings().memory
        if not settings.enabled:
            return
        try:
            directory = _directory(settings.directory)
        except RuntimeError as error:  # such as the home directory of a user that does not exist
            self._note_problem(f"memory.directory cannot be used: {error}")
            return
        self._file = MemoryFile(
            directory,
            lambda: self._info(
                f"what the cameras see is remembered in {directory}: there may be people in the images; who answers "
                "for them is in its file NOTICE"
            ),
        )

    def start(self, scheduler: Scheduler) -> None:
        """Look through the cameras from now on."""
        if self._file is not None:
            self._looker = Looker(
                scheduler,
                self._settings,
                self._tasks,
                self._deadlines,
                self._file.store,
                self._on_answer,
                self._note_problem,
            )
            self._looker.start()

    def stop(self) -> None:
        """Look no longer. What was seen can still be asked for."""
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.close()

    def close(self) -> None:
        """End everything; :meth:`configure` begins anew."""
        self.stop()
        file, self._file = self._file, None
        if file is not None:  # which waits for whoever writes it, and the node's services must not
            closing = threading.Thread(target=file.close, name="close-memory", daemon=True)
            closing.start()
            closing.join(_PATIENCE)
        self._problem = ""

    def health(self) -> MemoryHealth | None:
        """Return how the memory is, None if it is off."""
        file, looker = self._file, self._looker
        if file is None:
            return MemoryHealth("", self._problem, Counters(), 0) if self._problem else None
        if looker is None:
            return MemoryHealth(str(file.path), self._problem or "the node is not active", Counters(), 0)
        return MemoryHealth(str(file.path), self._problem or looker.waits_for, looker.counters, looker.size)

    def recall(self, request: AskRequest, answer: PartialAnswer) -> None:
        """Fill ``answer`` with where and when the thing of a goal was seen last.

        Raises:
            Unsupported: The memory is off or cannot be read, or a field is set that only a model could honour.
            BadRequest: The goal names no thing.
        """
        check_alone(request)
        file, looker = self._file, self._looker
        if file is None and self._problem:
            raise Unsupported(f"task: {request.task} is answered from the memory, and {self._problem}")
        if file is None:
            raise Unsupported(
                f"task: {request.task} is answered from the memory, which is off: set memory.enabled to true before "
                "the node is configured"
            )
        what = name_in(request.prompt)
        answer.finish_reason = "stop"
        try:
            store = file.store()
            sighting = store.last_seen(what, cameras=request.cameras)
            window = store.last_described(what, cameras=request.cameras) if sighting is None else sighting.window
            in_view = looker is not None and window is not None and looker.sees(window.id)
            now = self._clock().nanoseconds
            if sighting is not None:
                fill_seen(answer, store, sighting, in_view, now, request.target_frame)
            elif window is not None:
                fill_described(answer, store, what, window, in_view, now)
            else:
                fill_not_seen(answer, store, what, request.cameras)
        except IndexFileError as error:
            raise Unsupported(f"task: {request.task} is answered from the memory, and {error}") from error

    def _note_problem(self, problem: str) -> None:
        """Log a problem that is new, and its end."""
        with self._lock:
            before, self._problem = self._problem, problem
        if problem and problem != before:
            self._warn(f"memory: what a camera sees is not remembered now: {problem}")
        elif before and not problem:
            self._info("memory: what the cameras see is remembered again")


def _directory(parameter: str) -> Path:
    """Return the directory that the parameter names. Raises RuntimeError."""
    if parameter:
        return Path(parameter).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data, "qwen3vl_ros", "memory").absolute()
