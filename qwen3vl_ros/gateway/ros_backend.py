"""The gateway's backend over ROS: sends questions to a node ``vlm``, and reads its status, cameras and tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from qwen3vl_ros.client import VlmClient
from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.client.exceptions import NotSpinning, ServerUnavailable
from qwen3vl_ros.client.service_call import ServiceCaller
from qwen3vl_ros.client.tasks import Task
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.gateway.backend import (
    CameraStatus,
    CorrectionRefused,
    NodeStatus,
    Snapshot,
    Unavailable,
    UnknownCamera,
)
from qwen3vl_ros.gateway.logs import MODEL
from qwen3vl_ros.gateway.node_status import cameras_of, parts_of, status_of, tools_of
from qwen3vl_ros.gateway.ros_watches import RosWatches
from qwen3vl_ros.msg import VlmStatus
from qwen3vl_ros.srv import CorrectAnswer
from qwen3vl_ros.vision.compressed import pixels_of
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vlm.frame_source import FrameSource, NoFrame

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.goal import Arguments

NAMELESS: Final = "default"
"""Name over HTTP of the camera without a name, since a path needs one."""

_LATCHED: Final = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_FRAME_AGE: Final = 2.0
"""Greatest age in seconds of a frame that is shown."""

_FRAME_PATIENCE: Final = 3.0
"""Seconds to wait for a frame: a new subscription needs a part of that to discover its publisher."""

_IDLE: Final = 10.0
"""Seconds without a request after which a camera is unsubscribed: images cost network and CPU time."""

_ANSWER_PATIENCE: Final = 5.0
"""Seconds that the node has to list its tasks, or to take a correction."""


class RosBackend:
    """Asks the node ``node_name`` through ``node``, which the caller spins. Methods may be called on any thread."""

    def __init__(self, node: Node, node_name: str) -> None:
        self._node = node
        self._client = VlmClient(node, node_name=node_name)
        self.vlm = self._client.action.rpartition("/")[0]
        self._corrections = ServiceCaller(node, CorrectAnswer, f"{self.vlm}/correct_answer")
        self._status: VlmStatus | None = None
        self._cameras: tuple[CameraStatus, ...] = ()
        self._parts: Mapping[str, DiagnosticStatus] = {}
        self._views: dict[str, _View] = {}
        self._views_lock = threading.Lock()
        self._tasks: tuple[tuple[str, ...], Sequence[Task]] = ((), ())
        self._watches = RosWatches(node, self.vlm, self._to_ros)
        node.create_subscription(VlmStatus, f"{self.vlm}/status", self._on_status, _LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        node.create_timer(1.0, self._close_idle_views, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def send(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerFuture:
        """Send a goal; see :class:`qwen3vl_ros.gateway.backend.Backend`."""
        arguments["cameras"] = [self._to_ros(name) for name in arguments.get("cameras", ())]
        return self._client.send(prompt, **arguments)

    def status(self) -> NodeStatus:
        """Return the node's last status, or ``absent`` without a node."""
        status = self._status
        if status is None or not self._node.count_publishers(f"{self.vlm}/status"):
            return NodeStatus("absent", f"nothing was heard of {self.vlm}")
        tools = tools_of(self._parts, status.model)
        return replace(status_of(status), records=self._corrections.is_there, tools=tools)

    def cameras(self) -> Sequence[CameraStatus]:
        """Return the cameras in the node's latest diagnostics; none while the node is absent."""
        return () if self.status().state == "absent" else self._cameras

    def snapshot(self, name: str, width: int | None) -> Snapshot:
        """Return the newest frame of a camera; block until there is one, at most ``_FRAME_PATIENCE``."""
        cameras = {camera.name: camera for camera in self.cameras()}
        if name not in cameras:
            known = ", ".join(map(repr, cameras)) or "none, as far as the node has told"
            raise UnknownCamera(f"there is no camera {name!r}; there are {known}")
        return self._view(cameras[name].topic).snapshot(width)

    def watches(self) -> RosWatches:
        """Return what keeps the node's watches."""
        return self._watches

    def tasks(self) -> Sequence[Task]:
        """Return the node's tasks; request them if their names have changed."""
        status = self.status()
        names, known = self._tasks
        if not status.tasks or status.tasks == names:
            return known if status.tasks else ()
        try:
            self._tasks = (status.tasks, self._client.tasks(_ANSWER_PATIENCE))
        except (ServerUnavailable, NotSpinning) as error:
            raise Unavailable(str(error)) from None
        return self._tasks[1]

    def correct(self, goal_id: str, text: str) -> None:
        """Have the node write a correction; see :class:`qwen3vl_ros.gateway.backend.Backend`."""
        if not self._corrections.is_there:
            raise CorrectionRefused("the node records nothing: set its parameter record.directory")
        try:
            response = self._corrections.call(CorrectAnswer.Request(goal_id=goal_id, text=text), _ANSWER_PATIENCE)
        except (ServerUnavailable, NotSpinning) as error:
            raise Unavailable(str(error)) from None
        if not response.success:
            raise CorrectionRefused(response.message)

    def close(self) -> None:
        """Cancel all questions, and unsubscribe from every camera."""
        self._client.close()
        with self._views_lock:
            views, self._views = list(self._views.values()), {}
        for view in views:
            view.close()

    def _to_ros(self, name: str) -> str:
        """Return the node's own name of a camera that is named over HTTP."""
        return "" if name == NAMELESS and name in {camera.name for camera in self._cameras} else name

    def _on_status(self, status: VlmStatus) -> None:
        before, self._status = self._status, status
        if before is None or _shown(before) != _shown(status):
            MODEL.info("%s: %s, engine %s, model %s %s", self.vlm, *_shown(status))

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        """Replace the cameras: the node's diagnostics of all parts are in one message."""
        if parts := parts_of(array, self.vlm):
            self._parts, self._cameras = parts, cameras_of(parts, NAMELESS)

    def _view(self, topic: str) -> _View:
        with self._views_lock:
            view = self._views.get(topic)
            if view is None:
                view = self._views[topic] = _View(self._node, topic)
            view.used = time.monotonic()
            return view

    def _close_idle_views(self) -> None:
        with self._views_lock:
            idle = [topic for topic, view in self._views.items() if time.monotonic() - view.used > _IDLE]
            views = [self._views.pop(topic) for topic in idle]
        for view in views:
            view.close()


class _View:
    """The subscription of a camera whose frames were requested recently."""

    def __init__(self, node: Node, topic: str) -> None:
        self._frames = FrameSource(node, topic)
        self._turn = threading.Lock()
        self.used = time.monotonic()

    def snapshot(self, width: int | None) -> Snapshot:
        try:
            with self._turn:
                frame = self._frames.wait(0, _FRAME_AGE, time.monotonic() + _FRAME_PATIENCE)
            if frame is None:
                raise Unavailable("the camera was closed meanwhile")
            message = frame.message()
            pixels = pixels_of(message)
        except (NoFrame, BadImage) as error:
            raise Unavailable(str(error)) from None
        height, full_width = pixels.shape[:2]
        if width is not None and width < full_width:
            size = (width, max(1, round(height * width / full_width)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        jpeg = jpeg_of(pixels)
        stamp = self._frames.moment(frame)  # of a camera that does not stamp, the time of arrival
        return Snapshot(jpeg, divmod(stamp, 1_000_000_000), self._frames.age(frame), full_width, height)

    def close(self) -> None:
        self._frames.close()


def _shown(status: VlmStatus) -> tuple[str, str, str, str]:
    """Return the parts of a status for model.log, with "ready" for "busy"."""
    shown = status_of(status)
    return "ready" if shown.state == "busy" else shown.state, shown.engine, shown.model, shown.message
