"""The watches of the node, and the two threads that keep them while the node is active.

One thread asks the model: of all watches that are due together each camera gives one frame, so that the engine encodes
it once. The other compares images where no model is asked, sends what a cooldown held back, and ends what is over.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import cv2
from rclpy.time import Time as Instant

from qwen3vl_ros import defect
from qwen3vl_ros.engines.base import BadRequest, Cancel, EngineError, Image
from qwen3vl_ros.msg import WatchState as WatchStateMessage
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import NoFrame
from qwen3vl_ros.vlm.job import Code, GoalResult, Job
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.replies import KeptReply
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.watch import Watch
from qwen3vl_ros.vlm.watch_frames import Look, Looks, change_between, view_of
from qwen3vl_ros.vlm.watch_request import check, check_identifier, question

MOST_WATCHES = 256

_LOOK_FOR_ROOM = 0.2
"""Seconds between two looks whether the watches have ended while goals keep every slot."""

_PATIENCE = 0.5
"""Seconds to wait for a thread that was told to end."""

_LOWEST = -256
"""Priority of a watch of priority 0: below every goal's."""


class Watches:
    """Every method may be called from any thread.

    Args:
        settings: Returns the node's parameters.
        tasks: Returns the tasks that a watch may name.
        deadlines: End questions that take too long.
        clock: Returns the node's time.
        publish: Takes each WatchEvent.msg.
        on_change: Called when there are more or fewer watches.
        on_answer: Takes the result of each question.
        log_error: Takes a sentence about a defect of this package.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        tasks: Callable[[], Tasks],
        deadlines: Deadlines,
        clock: Callable[[], Instant],
        publish: Callable[[Any], None],
        on_change: Callable[[], None],
        on_answer: Callable[[GoalResult], None],
        log_error: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.tasks = tasks
        self.deadlines = deadlines
        self.clock = clock
        self._publish = publish
        self._on_change = on_change
        self.on_answer = on_answer
        self.log_error = log_error
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        self._rounds: list[_Rounds] = []
        self._scheduler: Scheduler | None = None
        self._histories: dict[str, contextlib.ExitStack] = {}

    def __len__(self) -> int:
        return len(self._watches)

    @property
    def all(self) -> list[Watch]:
        """The watches, in the order in which they were added."""
        with self._lock:
            return list(self._watches.values())

    def add(self, message: Any, scheduler: Scheduler) -> str:
        """Add a watch and return its identifier. What runs already with the very same fields is left as it is.

        Raises:
            BadRequest: It makes no sense, its identifier is in use, or there are too many.
        """
        message.watch_id = message.watch_id or uuid.uuid4().hex[:12]
        check_identifier(message.watch_id)
        request = check(message, self.settings(), self.tasks(), scheduler)
        with self._lock:
            known = self._watches.get(message.watch_id)
            if known is None and len(self._watches) >= MOST_WATCHES:
                raise BadRequest(f"there are {MOST_WATCHES} watches, and no more are taken: remove one first")
            if known is None:
                self._watches[message.watch_id] = Watch(message, request, self._publish)
            elif not known.is_as(message):
                raise BadRequest(
                    f"watch_id: {message.watch_id!r} is another watch: remove that first, or leave watch_id empty"
                )
        self._changed()
        return str(message.watch_id)

    def remove(self, watch_id: str) -> int:
        """End a watch, "" = all of them, and whatever is asked for it; return how many there were."""
        with self._lock:
            names = [watch_id] if watch_id else list(self._watches)
            gone = [watch for name in names if (watch := self._watches.pop(name, None)) is not None]
        for watch in gone:
            watch.remove()
        if gone:
            self._changed()
        return len(gone)

    def end(self, watch: Watch) -> None:
        """End this very watch, and no other one that has got its name meanwhile."""
        with self._lock:
            known = self._watches.get(watch.name) is watch
            if known:
                del self._watches[watch.name]
        watch.remove()
        if known:
            self._changed()

    def mute(self, watch_id: str, muted: bool) -> int:
        """Mute a watch, "" = all of them, or have it send events again; return how many there are."""
        found = [watch for watch in self.all if watch_id in ("", watch.name)]
        for watch in found:
            watch.mute(muted)
        return len(found)

    def states(self) -> list[WatchStateMessage]:
        """Return how each watch is doing."""
        clock, now = self.clock().nanoseconds, time.monotonic()
        return [watch.state_message(clock, now) for watch in self.all]

    def start(self, scheduler: Scheduler) -> None:
        """Keep the watches from now on."""
        self._scheduler = scheduler
        self._keep_history()
        self._rounds = [_Asking(self, scheduler), _Comparing(self, scheduler)]
        for rounds in self._rounds:
            rounds.start()

    def stop(self) -> None:
        """Let the watches rest: end what is asked, and both threads."""
        rounds, self._rounds = self._rounds, []
        self._scheduler = None
        self._keep_history()
        for one in rounds:
            one.close()
        for watch in self.all:
            watch.interrupt(Code.SHUTDOWN, "the node was deactivated")
        for one in rounds:
            one.join(_PATIENCE)  # not for ever: what still runs then sends nothing any more

    def wake(self) -> None:
        """Have both threads look at all watches anew."""
        for rounds in self._rounds:
            rounds.wake()

    def _changed(self) -> None:
        """Note that there are more or fewer watches."""
        self._keep_history()
        self.wake()
        self._on_change()

    def _keep_history(self) -> None:
        """Have the frames of the cameras kept that are watched: what led to an event may be asked for."""
        with self._lock:
            scheduler, wanted = self._scheduler, set()
            if scheduler is not None:
                for watch in self._watches.values():
                    for name in watch.message.cameras or [""]:
                        with contextlib.suppress(BadRequest):  # there is no such camera any more
                            wanted.add(scheduler.camera(name).name)
                for name in wanted - self._histories.keys():
                    self._histories[name] = contextlib.ExitStack()
                    self._histories[name].enter_context(scheduler.recorder.held(name))
            for name in self._histories.keys() - wanted:
                self._histories.pop(name).close()


class _Rounds(threading.Thread, ABC):
    """Serves its watches when they are due, round after round, until it is closed."""

    def __init__(self, watches: Watches, scheduler: Scheduler, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._watches = watches
        self._scheduler = scheduler
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._cancel = Cancel()
        self._blind: set[str] = set()

    @abstractmethod
    def due(self, watch: Watch) -> float:
        """Return when this thread has to do something for ``watch``, infinite = never."""

    @abstractmethod
    def serve(self, watch: Watch, looks: Looks) -> bool:
        """Do what is due; return False to begin a new round, with new frames."""

    def wake(self) -> None:
        """Have it look at all watches anew."""
        self._changed.set()

    def close(self) -> None:
        """End the thread soon."""
        self._closing.set()
        self._cancel.set()
        self._changed.set()

    def run(self) -> None:
        """Serve until closed."""
        while not self._closing.is_set():
            try:
                self._round()
            except Exception as error:  # noqa: BLE001 the other watches must go on
                self._watches.log_error(defect(f"{type(error).__name__}: {error}"))
                self._closing.wait(1.0)

    def _round(self) -> None:
        self._changed.clear()
        times = {watch: self.due(watch) for watch in self._watches.all}
        now = time.monotonic()
        due = [watch for watch, when in times.items() if when <= now]
        if not due:
            wait = min(times.values(), default=math.inf) - now
            self._changed.wait(None if math.isinf(wait) else min(max(0.0, wait), threading.TIMEOUT_MAX))
            return
        due.sort(key=lambda watch: (-watch.message.priority, times[watch]))
        looks = Looks(self._scheduler, self._watches.settings().max_frame_age, self._cancel, self._blind)
        for watch in due:
            if self._closing.is_set() or not self.serve(watch, looks):
                return

    def _look(self, watch: Watch, looks: Looks) -> list[Look] | None:
        """Return the frames of its cameras; None, and its failure noted, where there are none."""
        try:
            seen = [looks.of(name) for name in watch.message.cameras or [""]]
            for look in seen:
                look.view(watch.request.polygon)
        except (NoFrame, EngineError) as error:
            if not self._closing.is_set():
                watch.fails(str(error))
            return None
        return seen


class _Comparing(_Rounds):
    """Watches that need no model; and for all of them, what is to be sent later, and their end."""

    def __init__(self, watches: Watches, scheduler: Scheduler) -> None:
        super().__init__(watches, scheduler, "watch-images")

    def due(self, watch: Watch) -> float:
        later = watch.state.next_event
        return min(later, watch.state.next_look) if watch.needs_no_model else later

    def serve(self, watch: Watch, looks: Looks) -> bool:
        now = time.monotonic()
        if watch.state.is_over(now):
            self._watches.end(watch)
            return True
        watch.send(now)
        if not watch.needs_no_model or watch.state.next_look > now:
            return True
        seen = self._look(watch, looks)
        if seen is not None:
            (look,) = seen
            try:
                watch.compare(look, self._difference(watch, look))
            except EngineError as error:
                watch.fails(str(error))
        return True

    @staticmethod
    def _difference(watch: Watch, look: Look) -> float:
        view = look.view(watch.request.polygon)
        given = watch.request.reference
        if watch.reference is None and given is None:
            watch.take_reference(look, view)
        elif watch.reference is None and given is not None:
            watch.reference = view_of(_as_large_as(look.pixels, given), watch.request.polygon)
        assert watch.reference is not None
        change = change_between([view], [watch.reference])
        if change is None:
            raise BadRequest("reference: the camera's images have another size than its first one had; add it anew")
        return change


def _as_large_as(image: Image, reference: Image) -> Image:
    (height, width), (own_height, own_width) = image.shape[:2], reference.shape[:2]
    if abs(width * own_height - height * own_width) > 0.01 * width * own_height:
        raise BadRequest(
            f"reference: it has {own_width}x{own_height} pixels and the camera's image {width}x{height}, which is of "
            "another shape: take an image of this camera"
        )
    if (width, height) == (own_width, own_height):
        return reference
    return cv2.resize(reference, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class _Asking(_Rounds):
    """Watches that ask the model, in slots of the engine that no goal needs."""

    def __init__(self, watches: Watches, scheduler: Scheduler) -> None:
        super().__init__(watches, scheduler, "watch-questions")

    def due(self, watch: Watch) -> float:
        return math.inf if watch.needs_no_model else watch.state.next_look

    def serve(self, watch: Watch, looks: Looks) -> bool:
        settings, now = self._watches.settings(), time.monotonic()
        if watch.state.next_look > now or watch.is_removed:
            return True
        seen = self._look(watch, looks)
        if seen is None:
            return True
        views = [look.view(watch.request.polygon) for look in seen]
        change = change_between(views, watch.asked_views) if watch.asked_views else None
        if not watch.state.wants(change, settings.watch_change, time.monotonic()):
            watch.left_out()
            return True
        if why := self._scheduler.not_ready:
            watch.put_off(why)
            return True
        if not self._scheduler.has_room_beside():
            while not self._closing.is_set() and not self._scheduler.has_room_beside(_LOOK_FOR_ROOM):
                pass
            return False  # the frames are old by now
        return self._ask(watch, seen, settings) and not self._outranked(watch)

    def _outranked(self, served: Watch) -> bool:
        """Return whether a watch became due meanwhile that goes before those of the priority of ``served``."""
        now, priority = time.monotonic(), served.message.priority
        return any(watch.message.priority > priority and self.due(watch) <= now for watch in self._watches.all)

    def _ask(self, watch: Watch, seen: Sequence[Look], settings: Settings) -> bool:
        """Ask about the frames; return False where a goal took the slot."""
        watches = self._watches
        reply = KeptReply()
        job = Job(reply, _LOWEST + watch.message.priority, settings.timeout, _nothing, _nothing, watches.deadlines)
        job.frames = {look.camera.name: look.frame for look in seen}
        try:
            job.checked = question(watch.message, settings, watches.tasks())
        except BadRequest as error:  # a task that there is no more
            job.finish(GoalResult())
            watch.fails(str(error))
            return True
        if not watch.begins(job):
            job.finish(GoalResult())
            return True
        for look in seen:
            look.keep()  # an event may be about it: a clip that ends with the event is to have it
        answer = self._scheduler.ask_beside(job)
        watch.ended(job)
        result = reply.result
        assert result is not None
        watches.on_answer(result)
        if result.error is not None:
            if result.error.code == Code.PREEMPTED:
                return False  # by a goal, or by another engine: it is still due
            if not watch.is_removed and not self._closing.is_set():
                watch.fails(result.error.message)
            return True
        try:
            watch.answered(seen, job, result, answer.regions, watches.clock().to_msg(), self._scheduler)
        except EngineError as error:
            watch.fails(str(error))
        watches.wake()  # what a cooldown holds back is sent by the other thread
        return True


def _nothing(*_: Any) -> None:
    """Do nothing."""
