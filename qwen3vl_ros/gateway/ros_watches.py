"""The watches of a node ``vlm`` over ROS, for the gateway."""

from __future__ import annotations

import collections
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from qwen3vl_ros.client.exceptions import BadRequest
from qwen3vl_ros.client.service_call import ServiceCaller
from qwen3vl_ros.client.watch import WatchEvent, event_of_message
from qwen3vl_ros.gateway.watches import EventReport, ImageName, WatchesReport, WatchReport
from qwen3vl_ros.msg import WatchEvent as EventMessage
from qwen3vl_ros.srv import AddWatch, ListWatches, MuteWatch, RemoveWatch

_EVENTS: Final = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_KEPT: Final = 50
"""Events that are kept, with their images."""

_PATIENCE: Final = 5.0
_IMAGES: Final[tuple[ImageName, ...]] = ("before", "after", "annotated")


class RosWatches:
    """Asks the node ``vlm`` through ``node``, which the caller spins. ``to_ros``: the camera's name that HTTP has."""

    def __init__(self, node: Node, vlm: str, to_ros: Callable[[str], str]) -> None:
        self._to_ros = to_ros
        self._lock = threading.Lock()
        self._events: collections.deque[tuple[int, WatchEvent]] = collections.deque(maxlen=_KEPT)
        self._heard = 0
        self._add = ServiceCaller(node, AddWatch, f"{vlm}/add_watch")
        self._remove = ServiceCaller(node, RemoveWatch, f"{vlm}/remove_watch")
        self._list = ServiceCaller(node, ListWatches, f"{vlm}/list_watches")
        self._mute = ServiceCaller(node, MuteWatch, f"{vlm}/mute_watch")
        node.create_subscription(EventMessage, f"{vlm}/watch_events", self._take, _EVENTS)

    def report(self) -> WatchesReport:
        """See :class:`qwen3vl_ros.gateway.watches.WatchBackend`."""
        states = self._list.call(ListWatches.Request(), _PATIENCE).watches
        with self._lock:
            events = list(self._events)
        return WatchesReport([_watch_report(state) for state in states], [_event_report(*e) for e in reversed(events)])

    def add(self, watch: Any) -> str:
        """See :class:`qwen3vl_ros.gateway.watches.WatchBackend`."""
        watch.watch_id = watch.watch_id or f"page_{uuid.uuid4().hex[:12]}"
        watch.cameras = [self._to_ros(name) for name in watch.cameras]
        response = self._add.call(AddWatch.Request(watch=watch), _PATIENCE)
        if not response.success:
            raise BadRequest(response.message)
        return str(response.watch_id)

    def remove(self, watch_id: str) -> bool:
        """See :class:`qwen3vl_ros.gateway.watches.WatchBackend`."""
        return bool(self._remove.call(RemoveWatch.Request(watch_id=watch_id), _PATIENCE).success)

    def mute(self, watch_id: str, muted: bool) -> bool:
        """See :class:`qwen3vl_ros.gateway.watches.WatchBackend`."""
        return bool(self._mute.call(MuteWatch.Request(watch_id=watch_id, muted=muted), _PATIENCE).success)

    def image(self, number: int, name: str) -> bytes:
        """See :class:`qwen3vl_ros.gateway.watches.WatchBackend`."""
        with self._lock:
            images = (getattr(event, name) for known, event in self._events if known == number)
            return bytes(next(images, b""))

    def _take(self, message: Any) -> None:
        event = event_of_message(message)
        with self._lock:
            self._events.append((self._heard, event))
            self._heard += 1


def _watch_report(state: Any) -> WatchReport:
    return WatchReport(
        watch_id=state.watch.watch_id,
        what=state.watch.message or state.watch.prompt or state.watch.task or state.watch.watch_id,
        cameras=list(state.watch.cameras),
        active=state.active,
        muted=state.watch.muted,
        asked=state.asked,
        unchanged=state.unchanged,
        events=state.events,
        failed=state.failed,
        late=state.late,
        error=state.error_msg,
        text=state.last_answer.text,
    )


def _event_report(number: int, event: WatchEvent) -> EventReport:
    return EventReport(
        number=number,
        watch_id=event.watch_id,
        kind=event.kind,
        active=event.active,
        message=event.message,
        stamp=event.seconds,
        text=None if event.answer is None else event.answer.text,
        probability=None if event.answer is None else event.answer.probability,
        images=[name for name in _IMAGES if getattr(event, name)],
    )
