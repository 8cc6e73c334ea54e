"""The thread that fills the memory: it looks through every camera again and again, and asks what is new.

A still scene costs no tokens: where the image has not changed since the last window of the camera, that window goes on.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from qwen3vl_ros import defect
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import BadRequest, Cancel, EngineError, Image
from qwen3vl_ros.index.entries import IndexFileError, Source, Thing, Window
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import NoFrame
from qwen3vl_ros.vlm.job import Code, GoalResult, Job
from qwen3vl_ros.vlm.messages import request_from
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.replies import KeptReply
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.watch_frames import Look, Looks, change_between

_PRIORITY: Final = -512
"""Below every goal's and every watch's."""

_TRY_AGAIN: Final = 0.5
"""Seconds after which a look is repeated whose questions had to make room for a goal."""

_ASLEEP: Final = 1.0
"""Most seconds until a change of the parameters is noticed."""

_MOST_DOUBLINGS: Final = 6
"""After failures in a row, looks become rarer: by a factor of two for each, as often as this at most."""

_PATIENCE: Final = 0.5
"""Seconds to wait for the thread's end."""


@dataclass(slots=True)
class _Newest:
    """The newest window of a camera. ``goes_on``: its scene has not changed, as far as was looked."""

    window: int
    end_ns: int
    view: Image
    goes_on: bool = True


@dataclass(frozen=True, slots=True)
class Counters:
    """What was done since the node was configured: windows asked about, looks at an unchanged image, failures."""

    asked: int = 0
    unchanged: int = 0
    failed: int = 0


class _Failed(Exception):
    """The questions about a frame have no answer; the text says why."""


class Looker(threading.Thread):
    """Looks until it is closed. ``size``: bytes of the file. ``waits_for``: why the engine cannot answer, "" if it can.

    Args:
        scheduler: Has the cameras, and answers.
        settings: Returns the node's parameters.
        tasks: Returns the tasks that the questions are made of.
        deadlines: End questions that take too long.
        store: Returns the open index, or raises IndexFileError.
        on_answer: Takes the result of each question.
        on_problem: Takes why nothing is remembered now, "" once something is again.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        settings: Callable[[], Settings],
        tasks: Callable[[], Tasks],
        deadlines: Deadlines,
        store: Callable[[], Store],
        on_answer: Callable[[GoalResult], None],
        on_problem: Callable[[str], None],
    ) -> None:
        super().__init__(name="memory", daemon=True)
        self._scheduler = scheduler
        self._settings = settings
        self._tasks = tasks
        self._deadlines = deadlines
        self._store = store
        self._on_answer = on_answer
        self._on_problem = on_problem
        self.counters = Counters()
        self.size = 0
        self.waits_for = ""
        self._newest: dict[str, _Newest] = {}
        self._newest_in: Store | None = None  # which has their numbers
        self._failures: dict[str, int] = {}
        self._problems: dict[str, str] = {}
        self._blind: set[str] = set()
        self._closing = threading.Event()
        self._cancel = Cancel()
        self._mutex = threading.Lock()
        self._job: Job | None = None

    def sees(self, window: int) -> bool:
        """Return whether the scene of that window had not changed at the last look."""
        return any(newest.window == window and newest.goes_on for newest in list(self._newest.values()))

    def close(self) -> None:
        """End the thread, and what it asks."""
        self._closing.set()
        self._cancel.set()
        with self._mutex:
            job = self._job
        if job is not None:
            job.end(Code.SHUTDOWN, "the node was deactivated")
        self.join(_PATIENCE)

    def run(self) -> None:
        """Look through the cameras when they are due."""
        due = dict.fromkeys(self._settings().cameras, time.monotonic())
        period = self._settings().memory.period
        while not self._closing.wait(min(_ASLEEP, max(0.0, min(due.values()) - time.monotonic()))):
            if period != self._settings().memory.period:  # the parameter was changed
                period, due = self._settings().memory.period, dict.fromkeys(due, time.monotonic())
            for name in [name for name, when in due.items() if when <= time.monotonic()]:
                begin = time.monotonic()
                try:
                    wait = self._look(name)
                except Exception as error:  # noqa: BLE001 the other cameras, and later frames, must go on
                    wait = self._fails(name, defect(f"{type(error).__name__}: {error}"))
                due[name] = max(begin + wait, time.monotonic())
                if self._closing.is_set():
                    return

    def _look(self, name: str) -> float:
        """Look through a camera once; return the seconds from the beginning of this look to the next one."""
        settings = self._settings()
        period = settings.memory.period
        looks = Looks(self._scheduler, settings.max_frame_age, self._cancel, self._blind)
        try:
            look = looks.of(name)
            view = look.view(())
        except (NoFrame, EngineError):  # the camera's diagnostics say why
            self._newest.pop(name, None)  # nobody knows what was there meanwhile
            return period
        try:
            store = self._store()  # first: without a place for them, answers are not worth their tokens
            if store is not self._newest_in:  # the file was deleted, and numbers begin anew
                self._newest.clear()
                self._newest_in = store
            stamp, newest = look.camera.stamp_of(look.frame), self._newest.get(name)
            if newest is not None and self._goes_on(store, newest, name, view, stamp, settings.watch_change):
                return period
            if newest is not None:
                newest.goes_on = False
            if why := self._scheduler.not_ready:
                self.waits_for = why
                return period
            self.waits_for = ""
            if not self._scheduler.has_room_beside():
                return min(_TRY_AGAIN, period)
            window = self._asked(look, name, stamp)
            if window is None:
                return min(_TRY_AGAIN, period)
            number = store.add(window)
            self._keep_small(store)
        except (IndexFileError, BadRequest, _Failed) as error:
            return self._fails(name, str(error))
        self._newest[name] = _Newest(number, stamp, view)
        self.counters = Counters(self.counters.asked + 1, self.counters.unchanged, self.counters.failed)
        self._note(name, "")
        return period

    def _goes_on(self, store: Store, newest: _Newest, name: str, view: Image, stamp: int, tolerance: float) -> bool:
        """Let the newest window last until ``stamp`` if its scene has not changed. Raises IndexFileError."""
        change = change_between([view], [newest.view])
        if not newest.goes_on or change is None or change > tolerance or stamp < newest.end_ns:
            return False
        if not store.extend(newest.window, stamp):
            return False  # it was deleted
        self._keep_small(store)  # the log of what is written counts, too
        newest.end_ns = stamp
        self.counters = Counters(self.counters.asked, self.counters.unchanged + 1, self.counters.failed)
        self._note(name, "")
        return True

    def _keep_small(self, store: Store) -> None:
        """Delete the oldest windows that are too many. Raises IndexFileError."""
        store.trim(int(self._settings().memory.megabytes * 1e6))
        self.size = store.size()

    def _fails(self, name: str, problem: str) -> float:
        """Note a failure; return the seconds until the next look."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self.counters = Counters(self.counters.asked, self.counters.unchanged, self.counters.failed + 1)
        self._newest.pop(name, None)
        if not self._closing.is_set():
            self._note(name, problem)
        return self._settings().memory.period * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)

    def _note(self, name: str, problem: str) -> None:
        """Note why nothing is remembered of a camera now, "" if something is."""
        if problem:
            self._problems[name] = problem
        else:
            self._failures.pop(name, None)
            self._problems.pop(name, None)
        self._on_problem("; ".join(dict.fromkeys(self._problems.values())))

    # --- asking ------------------------------------------------------------------------------------------------------

    def _asked(self, look: Look, name: str, stamp: int) -> Window | None:
        """Ask what a frame shows; None where a goal took the place of the question. Raises _Failed, BadRequest."""
        wanted = [thing for thing in self._settings().memory.things if thing.strip()]
        found: GoalResult | None = None
        if wanted:
            task, prompt = ("locate", wanted[0]) if len(wanted) == 1 else ("detect", "")
            slots = "" if len(wanted) == 1 else json.dumps({"labels": wanted})
            found = self._ask(look, name, task, prompt, slots)
            if found.error is not None and found.error.code == Code.PREEMPTED:
                return None
        described = self._ask(look, name, "caption", "", "")
        results = [result for result in (found, described) if result is not None]
        errors = {result.error.code: result.error.message for result in results if result.error is not None}
        if errors.pop(Code.PREEMPTED, "") and (found is None or found.error is not None):
            return None  # what was found is kept without a caption
        unanswerable = {Code.UNSUPPORTED, Code.BAD_RESPONSE}  # asked again, it would say the same
        if others := [message for code, message in errors.items() if code not in unanswerable]:
            raise _Failed(others[0])
        if errors and all(result.error is not None for result in results):
            raise _Failed(next(iter(errors.values())))
        caption = "" if described.error is not None else described.text.strip()
        frame_id = look.message.header.frame_id
        regions = () if found is None else found.regions
        things = tuple(_thing(region, stamp, frame_id, wanted[0]) for region in regions)
        return Window(Source("camera", name), stamp, stamp, stamp, caption, things, look.jpeg(), frame_id)

    def _ask(self, look: Look, name: str, task: str, prompt: str, slots: str) -> GoalResult:
        """Ask a task about a frame, in a slot of the engine that no goal needs. Raises BadRequest."""
        settings = self._settings()
        reply = KeptReply()
        goal = AskImage.Goal(task=task, prompt=prompt, cameras=[name] if name else [], slots=slots)
        job = Job(reply, _PRIORITY, settings.timeout, lambda _: None, lambda *_: None, self._deadlines)
        job.frames = {look.camera.name: look.frame}
        try:
            job.checked = request_from(goal, settings, self._tasks())
        except BadRequest:
            job.finish(GoalResult())
            raise
        with self._mutex:
            self._job = job
        if self._closing.is_set():
            job.end(Code.SHUTDOWN, "the node was deactivated")
        self._scheduler.ask_beside(job)
        with self._mutex:
            self._job = None
        assert reply.result is not None
        self._on_answer(reply.result)
        return reply.result


def _thing(region: Region, stamp: int, frame_id: str, otherwise: str) -> Thing:
    """Return a region as a thing; ``otherwise``: its name where the model says none."""
    box = None
    if region.box is not None:
        left, top, right, bottom = region.box
        x, y = math.floor(left), math.floor(top)
        box = (x, y, max(1, math.ceil(right) - x), max(1, math.ceil(bottom) - y))
    place = (region.frame_id or frame_id) if region.position else ""
    return Thing(region.label.strip() or otherwise, stamp, box, region.position, place)
