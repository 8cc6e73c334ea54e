"""One watch of the node: its state, the frame that it was asked about last, and the events that it sends."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadRequest, Image
from qwen3vl_ros.engines.choices import bare
from qwen3vl_ros.msg import Answer, WatchEvent
from qwen3vl_ros.msg import Watch as WatchMessage
from qwen3vl_ros.msg import WatchState as WatchStateMessage
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.annotate import annotate
from qwen3vl_ros.vision.image_message import byte_field
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.job import Code, GoalResult, Job
from qwen3vl_ros.vlm.messages import answer_message
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.watch_frames import Look
from qwen3vl_ros.vlm.watch_request import WatchRequest
from qwen3vl_ros.vlm.watch_state import WatchState

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Content:
    """What an answer brings to an event."""

    header: Header
    answer: Answer
    before: bytes = b""
    after: bytes = b""
    annotated: bytes = b""


class Watch:
    """Every method may be called from any thread.

    ``asked_views``: what was compared of the frames that the last answer was about. ``reference``: what is compared of
    the image that CONDITION_IMAGE compares with; None = not known yet.
    """

    def __init__(self, message: Any, request: WatchRequest, publish: Callable[[Any], None]) -> None:
        self._original = copy.deepcopy(message)
        self.message = copy.deepcopy(message)
        self.message.reference.data = byte_field(b"")  # it is large, and everybody who lists the watches would get it
        self.request = request
        self.name = str(message.watch_id)
        self.needs_no_model = message.condition == WatchMessage.CONDITION_IMAGE
        self.state = WatchState(request.rules, time.monotonic(), muted=message.muted)
        self.asked_views: tuple[Image, ...] = ()
        self.reference: Image | None = None
        self._before = b"" if request.reference is None or not message.evidence else jpeg_of(request.reference)
        self._publish = publish
        self._answer = Answer()
        self._lock = threading.RLock()
        self._job: Job | None = None
        self._removed = False

    def is_as(self, message: Any) -> bool:
        """Return whether it was added with these fields."""
        return bool(self._original == message)

    # --- asking ------------------------------------------------------------------------------------------------------

    @property
    def is_removed(self) -> bool:
        """Whether it has ended."""
        return self._removed

    def begins(self, job: Job) -> bool:
        """Note that ``job`` asks for it; return False if it has ended."""
        with self._lock:
            if self._removed:
                return False
            self._job = job
            self.state.begins(job.accepted)
            return True

    def ended(self, job: Job) -> None:
        """Note that ``job`` is over."""
        with self._lock:
            if self._job is job:
                self._job = None

    def interrupt(self, code: int, message: str) -> None:
        """End what is asked for it."""
        with self._lock:
            job = self._job
        if job is not None:
            job.end(code, message)

    def remove(self) -> None:
        """End it: it sends nothing any more."""
        with self._lock:
            self._removed = True
        self.interrupt(Code.CANCELLED, "the watch was removed")

    def mute(self, muted: bool) -> None:
        """Have it send no events, or events again."""
        with self._lock:
            self.state.muted = muted
            self.message.muted = muted

    # --- what happened -----------------------------------------------------------------------------------------------

    def left_out(self) -> None:
        """Note that its image has not changed."""
        with self._lock:
            self.state.left_out(time.monotonic())

    def put_off(self, why: str) -> None:
        """Note that the engine cannot answer now."""
        with self._lock:
            self.state.put_off(why, time.monotonic())

    def fails(self, why: str) -> None:
        """Note that its question failed."""
        with self._lock:
            self.state.fails(why, time.monotonic())

    def take_reference(self, look: Look, view: Image) -> None:
        """Compare with this frame from now on."""
        self.reference = view
        self._before = look.jpeg() if self.message.evidence else b""

    def compare(self, look: Look, difference: float) -> None:
        """Take the difference of a frame from the reference, grey levels."""
        value = True if difference >= self.request.on else False if difference <= self.request.off else None
        answer = Answer(header=look.message.header)

        def content() -> _Content:
            if not self.message.evidence:
                return _Content(look.message.header, answer)
            drawn = annotate(look.pixels, self._sentence(), f"changed by {difference:.0f} of 255")
            return _Content(look.message.header, answer, self._before, look.jpeg(), jpeg_of(drawn))

        with self._lock:
            if not self._removed:
                self.state.answers(value, look.message.header.stamp, content, time.monotonic())
                self.send(time.monotonic())

    def answered(
        self,
        seen: Sequence[Look],
        job: Job,
        result: GoalResult,
        regions: Sequence[Region],
        end_time: Time,
        scheduler: Scheduler,
    ) -> None:
        """Take an answer.

        Args:
            seen: The frames that it is about.
            job: What was asked.
            result: The answer.
            regions: What it points at.
            end_time: When it ended, by the node's clock.
            scheduler: Validates its JSON.

        Raises:
            BadRequest: It cannot be said whether the condition holds.
        """
        look, request = seen[0], job.request
        value = self._value(job, result, scheduler)
        answer = answer_message(request, job.reply.goal_id, result)
        answer.header, answer.end_time = look.message.header, end_time
        before, self._before = self._before, look.jpeg() if self.message.evidence else b""
        self.asked_views = tuple(one.view(self.request.polygon) for one in seen)

        def content() -> _Content:
            if not self.message.evidence:
                return _Content(look.message.header, answer)
            of_first = [region for region in regions if region.image_index == 0]
            drawn = annotate(look.pixels, request.prompt, result.text, of_first)
            return _Content(look.message.header, answer, before, look.jpeg(), jpeg_of(drawn))

        with self._lock:
            if self._removed:
                return
            self._answer = answer
            # From the look on, so that those who were asked about one frame are due together the next time, too.
            self.state.answers(value, look.message.header.stamp, content, time.monotonic(), look.taken)
            self.send(time.monotonic())

    def _value(self, job: Job, result: GoalResult, scheduler: Scheduler) -> bool | str | None:
        """Return what an answer counts as. Raises :class:`BadRequest`."""
        if self.message.condition == WatchMessage.CONDITION_TEXT:
            return " ".join(result.text.split())
        if self.message.condition == WatchMessage.CONDITION_JSON:
            assert self.request.schema is not None
            if not result.json:
                raise BadRequest("the answer is no whole JSON: a larger max_tokens may help")
            return scheduler.satisfies(result.json, self.request.schema, job.cancellation)
        probability = result.certainty.probability
        if probability is None:
            probability = _probability_of_text(job.request, result)
        return True if probability >= self.request.on else False if probability <= self.request.off else None

    # --- telling -----------------------------------------------------------------------------------------------------

    def send(self, now: float) -> None:
        """Publish the event that is due, if there is one."""
        with self._lock:  # also around the publishing: events come in their order
            event = None if self._removed else self.state.poll(now)
            if event is None:
                return
            content: _Content = event.content
            message = WatchEvent(
                header=content.header,
                watch_id=self.name,
                sequence=event.sequence,
                kind=int(event.kind),
                active=event.active,
                message=self._sentence(),
                answer=content.answer,
            )
            if self.request.valid_for:
                message.valid_until = _later(content.header.stamp, self.request.valid_for)
            for field in ("before", "after", "annotated"):
                if jpeg := getattr(content, field):
                    setattr(
                        message, field, CompressedImage(format="jpeg", data=byte_field(jpeg), header=content.header)
                    )
            self._publish(message)

    def state_message(self, clock: int, now: float) -> WatchStateMessage:
        """Return how it is doing.

        Args:
            clock: Now, nanoseconds of the node's clock.
            now: Now, time.monotonic().
        """
        with self._lock:
            state = self.state
            message = WatchStateMessage(
                watch=self.message,
                active=state.active,
                last_answer=self._answer,
                asked=state.asked,
                unchanged=state.unchanged,
                events=state.events,
                failed=state.failed,
                late=state.late(now),
                error_msg=state.error,
            )
            if state.since is not None:
                message.since = state.since
            if self._job is None:
                ahead = (state.next_look if self.needs_no_model else max(state.latest, state.next_look)) - now
                message.next_run = _stamp(max(0, clock + int(ahead * _SECOND)))
            return message

    def _sentence(self) -> str:
        return str(self.message.message or self.message.prompt or self.message.task or self.name)


def _probability_of_text(request: AskRequest, result: GoalResult) -> float:
    """Return 1 for an answer that begins with the first choice, 0 for another one: the engine tells no probabilities.

    Raises:
        BadRequest: It begins with none of them.
    """
    text = bare(result.text)
    found = [
        (len(word), number == 0)
        for number, words in enumerate(request.choices)
        for word in map(bare, words)
        if text.startswith(word) and not (word.isascii() and text[len(word) : len(word) + 1].isalnum())
    ]
    if not found:
        raise BadRequest(f"the answer {result.text!r:.100} begins with none of the choices of {request.task}")
    return float(max(found)[1])


def _later(stamp: Time, seconds: float) -> Time:
    return _stamp(stamp.sec * _SECOND + stamp.nanosec + int(seconds * _SECOND))


def _stamp(nanoseconds: int) -> Time:
    return Time(sec=min(nanoseconds // _SECOND, 2**31 - 1), nanosec=nanoseconds % _SECOND)
