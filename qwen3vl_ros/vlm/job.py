"""An accepted question, and the types that the stages of its processing exchange."""

from __future__ import annotations

import enum
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import Cancel, Chunk, Message, Stage, Usage
from qwen3vl_ros.msg import Moment
from qwen3vl_ros.prompts.probability import Certainty
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import Frame
from qwen3vl_ros.vlm.image_budget import ImageBudget

if TYPE_CHECKING:
    from qwen3vl_ros.vlm.images import InputImages

Code = AskImage.Result
"""Has the constants of error codes."""


class Wake(enum.Enum):
    """In a job's inbox: nothing came, but the job or the engine's state has changed."""

    UP = enum.auto()


@dataclass(frozen=True, slots=True)
class GoalError:
    """Why a goal fails: an AskImage error code and its sentence."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class GoalResult:
    """The result of a goal. Times in seconds; None = that stage was not reached. ``notes``: a sentence each.

    ``pixel_stamps``: of the frames whose pixels were read, one for each of ``headers``. ``image_change``: grey levels,
    None = unknown.
    """

    error: GoalError | None = None
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    json: str = ""
    headers: tuple[Header, ...] = ()
    pixel_stamps: tuple[Time, ...] = ()
    image_change: float | None = None
    regions: tuple[Region, ...] = ()
    moments: tuple[Moment, ...] = ()
    certainty: Certainty = field(default_factory=Certainty)
    notes: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    budget: ImageBudget = field(default_factory=ImageBudget)
    queue_time: float | None = None
    image_time: float | None = None
    total_time: float = 0.0
    engine: str = ""
    model: str = ""


@dataclass(slots=True)
class Progress:
    """One feedback message. ``text`` None = thinned out."""

    stage: Stage
    queue_position: int = 0
    delta: str = ""
    text: str | None = ""
    reasoning_delta: str = ""
    completion_tokens: int = 0
    budget: ImageBudget = field(default_factory=ImageBudget)


class GoalReply(Protocol):
    """Sends a goal's feedback and result. Its methods may be called from any thread."""

    @property
    def goal_id(self) -> str:
        """Identifier, 32 hexadecimal digits."""
        ...

    def started(self) -> None:
        """Report that the question has left the queue."""

    def progress(self, progress: Progress) -> None:
        """Publish ``progress`` as feedback."""

    def finished(self, result: GoalResult) -> None:
        """Send the result; called once."""


class Job:
    """A question, its deadline, and the one way to end it early.

    Cancel, time-out, preemption and shutdown all call :meth:`end`; the first one wins, whatever stage the question is
    in. That sets ``cancellation``, which every stage is given, and then calls ``on_end``, once, in that caller's
    thread. What the engine has for the job, and :class:`Wake` when the job or the engine's state changed, arrives in
    ``inbox``. ``position``: how many are before it, as its client was told last; None = not yet.
    ``priority``: higher is served first. ``timeout`` in seconds from now. ``frames``: by camera, those that the
    question is about in the place of the newest. ``messages`` and ``inputs``: what the engine got, for the recording;
    () and None before. ``doing``: what happens to it now, for the sentence of a time-out.
    """

    def __init__(
        self,
        reply: GoalReply,
        priority: int,
        timeout: float,
        on_end: Callable[[Job], None],
        on_finish: Callable[[Job, GoalResult], None],
        deadlines: Deadlines,
    ) -> None:
        self.reply = reply
        self.priority = priority
        self.accepted = time.monotonic()
        self.inbox: queue.SimpleQueue[Chunk | Exception | Wake] = queue.SimpleQueue()
        self.cancellation = Cancel()
        self.done = threading.Event()
        self.position: int | None = None
        self.checked: AskRequest | None = None
        self.frames: Mapping[str, Frame] = {}
        self.messages: tuple[Message, ...] = ()
        self.inputs: InputImages | None = None
        self.doing = "it was still being checked"
        self._on_end = on_end
        self._on_finish = on_finish
        self._lock = threading.Lock()
        self._error: GoalError | None = None
        self._finished = False
        self._timeout = timeout
        self._deadline = deadlines.add(self.accepted + timeout, self.expire)

    @property
    def request(self) -> AskRequest:
        """The validated goal, after the check."""
        assert self.checked is not None
        return self.checked

    @property
    def deadline(self) -> float:
        """The deadline, time.monotonic() seconds."""
        return self._deadline.when

    @property
    def error(self) -> GoalError | None:
        """Why the job must end early, None otherwise."""
        return self._error

    def end(self, code: int, message: str) -> None:
        """End the job with this error, at whatever stage it is. No effect after its end or a second time."""
        with self._lock:
            if self._error is not None or self._finished:
                return
            self._error = GoalError(code, message)
        self.wake()
        self.cancellation.set()
        self._on_end(self)

    def expire(self) -> None:
        """End the job because its deadline has come."""
        sentence = f"the answer was not complete {self._timeout:g} s after the goal was accepted"
        self.end(Code.TIMEOUT, f"{sentence}; {self.doing}")

    def wake(self) -> None:
        """Let who waits for the inbox look at the job and the engine anew."""
        self.inbox.put(Wake.UP)

    def finish(self, result: GoalResult) -> None:
        """Send the result, unless one was sent, and call ``on_finish`` with it."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
        self._deadline.forget()
        result = replace(result, total_time=time.monotonic() - self.accepted)
        self.reply.finished(result)
        self.done.set()
        self._on_finish(self, result)
