"""The interface between HTTP and the node; :mod:`qwen3vl_ros.gateway.ros_backend` implements it over ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.client.tasks import Task
from qwen3vl_ros.engines.base import ModelCard

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.gateway.watches import WatchBackend

State: TypeAlias = Literal["absent", "unconfigured", "loading", "inactive", "ready", "busy", "failed"]
"""``absent``: no node serves the action. The others are those of VlmStatus.msg."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The last known status of the node ``vlm``; fields as in VlmStatus.msg. ``message``: why it is not ready.

    ``records``: whether it records its answers, so that they can be corrected. ``tools``: the format in which its model
    knows tools (:mod:`qwen3vl_ros.engines.tool_template`), None = not known yet.
    """

    state: State
    message: str = ""
    engine: str = ""
    model: str = ""
    queue_length: int = 0
    queue_capacity: int = 0
    tasks: tuple[str, ...] = ()
    context_length: int = 0
    model_card: ModelCard = field(default_factory=ModelCard)
    records: bool = False
    tools: str | None = None

    @property
    def answers(self) -> bool:
        """Return whether a question would be accepted and answered now."""
        return self.state in ("ready", "busy")


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """A camera as the node sees it: ``rate`` in Hz and ``age`` of its newest frame in seconds, None = unknown."""

    name: str
    topic: str
    rate: float | None = None
    age: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest frame of a camera. ``stamp``: seconds and nanoseconds of the camera's clock.

    ``age``: seconds by the robot's clock when the snapshot was ready. ``width`` and ``height`` in pixels are those of
    the original frame; the JPEG may be smaller.
    """

    jpeg: bytes
    stamp: tuple[int, int]
    age: float
    width: int
    height: int


def why_not(status: NodeStatus) -> str:
    """Return the reason why the node takes no questions."""
    reasons: dict[State, str] = {
        "absent": "no node is there: start it with `qwen3vl-ros node`, or wait until it is found",
        "unconfigured": "the node has no model",
        "loading": "the node is loading its model",
        "inactive": "the node is not active: `qwen3vl-ros lifecycle activate` changes that",
        "failed": "the engine of the node cannot answer",
    }
    return f"{reasons.get(status.state, status.state)}{': ' * bool(status.message)}{status.message}"


class UnknownCamera(LookupError):
    """There is no camera of that name; the text lists the known names."""


class Unavailable(Exception):
    """The backend cannot provide something now, such as a frame; the text is a sentence that says why."""


class CorrectionRefused(Exception):
    """The node does not take a correction; the text is a sentence that says why."""


class Backend(Protocol):
    """Answers questions. ``status`` and ``cameras`` return at once; the others may block for a while."""

    def send(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerFuture:
        """Send a goal; see :meth:`qwen3vl_ros.client.VlmClient.send`. Raises BadRequest."""

    def status(self) -> NodeStatus:
        """Return the last known status of the node."""

    def cameras(self) -> Sequence[CameraStatus]:
        """Return the cameras that questions may name."""

    def snapshot(self, name: str, width: int | None) -> Snapshot:
        """Return the newest frame of a camera.

        Args:
            name: Of the camera.
            width: Largest width of the JPEG in pixels; None for the frame's own.

        Raises:
            UnknownCamera: There is no such camera.
            Unavailable: The camera gives no frame.
        """

    def watches(self) -> WatchBackend:
        """Return what keeps watches."""

    def tasks(self) -> Sequence[Task]:
        """Return the ready-made tasks. Raises :class:`Unavailable` when the node does not answer."""

    def correct(self, goal_id: str, text: str) -> None:
        """Have the node write into its recording what would have been right.

        Raises:
            CorrectionRefused: It does not: it records nothing, or does not know the answer.
            Unavailable: It does not respond.
        """
