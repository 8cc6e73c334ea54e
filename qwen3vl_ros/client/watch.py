"""A watch as a behaviour sees it: added, its events one after the other, removed at the end."""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Time
from rclpy.exceptions import InvalidHandle
from rclpy.qos import DurabilityPolicy, QoSProfile

from qwen3vl_ros.client.answer import Answer, answer_of_result
from qwen3vl_ros.client.exceptions import BadRequest, ServerInactive, ServerLost, ServerUnavailable, VlmError
from qwen3vl_ros.client.service_call import ServiceCaller
from qwen3vl_ros.msg import WatchEvent as EventMessage
from qwen3vl_ros.ros.polling_subscription import RclError
from qwen3vl_ros.srv import AddWatch, ListWatches, RemoveWatch

if TYPE_CHECKING:
    from rclpy.node import Node

_EVENTS = QoSProfile(depth=100, durability=DurabilityPolicy.VOLATILE)
"""The node keeps the last events for who comes later; those of an earlier watch of this name are none of this one."""

_KINDS = {EventMessage.ON: "on", EventMessage.OFF: "off", EventMessage.UPDATE: "update"}
_MOST_WAITING = 1000
_LOOK_PERIOD = 10.0
"""Seconds without an event after which the node is asked whether the watch still runs."""

_SLICE = 0.5
"""Seconds of one wait, so that :meth:`Watching.close` of another thread ends it soon."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What a watch saw; see WatchEvent.msg.

    ``kind``: "on", "off" or "update". ``stamp`` and ``frame_id`` are the image's. ``answer``: None where no model was
    asked. ``valid_until``: None = for ever. ``before``, ``after``, ``annotated``: JPEG files, b"" where there is none.
    """

    watch_id: str
    sequence: int
    kind: str
    active: bool
    message: str
    stamp: Time
    frame_id: str
    answer: Answer | None = None
    valid_until: Time | None = None
    before: bytes = b""
    after: bytes = b""
    annotated: bytes = b""

    @property
    def seconds(self) -> float:
        """Its stamp in seconds."""
        return float(self.stamp.sec + self.stamp.nanosec * 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it, without its images."""
        answer, valid = self.answer, self.valid_until
        return {
            "watch_id": self.watch_id,
            "sequence": self.sequence,
            "kind": self.kind,
            "active": self.active,
            "message": self.message,
            "stamp": self.seconds,
            "frame_id": self.frame_id,
            "valid_until": None if valid is None else valid.sec + valid.nanosec * 1e-9,
            "text": None if answer is None else answer.text,
            "json": None if answer is None else answer.json,
            "probability": None if answer is None else answer.probability,
        }


class Watching:
    """A watch that runs until :meth:`close`, or the end of a ``with`` block; made by :meth:`VlmClient.watch`.

    Iterating waits for event after event. Of events that nobody takes, the last 1000 are kept.
    """

    def __init__(self, node: Node, node_name: str, watch: Any, timeout: float) -> None:
        """Add ``watch`` to the node ``node_name``.

        Raises:
            BadRequest: The node refused it.
            ServerInactive: The node is not active.
            ServerUnavailable: No node keeps watches.
            NotSpinning: One does, but its reply did not arrive within ``timeout`` seconds.
        """
        watch.watch_id = watch.watch_id or f"client_{uuid.uuid4().hex[:12]}"
        self.watch_id: str = watch.watch_id
        self._node = node
        self._timeout = timeout
        self._ends = bool(watch.max_duration.sec or watch.max_duration.nanosec)
        self._closed = False
        self._interrupted = False
        self._next = 0
        self._events: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        # Before the watch and before all clients: what it says at once is to be heard.
        self._subscription = node.create_subscription(EventMessage, f"{node_name}/watch_events", self._take, _EVENTS)
        self._callers = {
            kind: ServiceCaller(node, kind, f"{node_name}/{service}")
            for kind, service in (
                (AddWatch, "add_watch"),
                (RemoveWatch, "remove_watch"),
                (ListWatches, "list_watches"),
            )
        }
        try:
            # Who gets the reply of a node is known to it, with all that was created before: the subscription.
            self._callers[ListWatches].call(ListWatches.Request(), timeout)
        except BaseException:
            self._free()
            raise
        try:
            response = self._callers[AddWatch].call(AddWatch.Request(watch=watch), timeout)
        except ServerUnavailable:
            self._free()
            raise
        except BaseException:  # such as Ctrl-C: it may run by now
            self.close()
            raise
        if not response.success:
            self._free()
            kind = ServerInactive if response.message.startswith("the node is not active") else BadRequest
            raise kind(response.message)

    def next_event(self, timeout: float | None = None) -> WatchEvent | None:
        """Wait for the next event; None after ``timeout`` seconds, or once it is closed, interrupted or over.

        Raises:
            ServerLost: The watch does not run any more, and nobody here has ended it.
            ServerUnavailable: The node is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        look = time.monotonic() + _LOOK_PERIOD
        while not (self._closed or self._interrupted):
            wait = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
            try:
                return event_of_message(self._events.get(timeout=max(0.0, wait)))
            except queue.Empty:
                pass
            if deadline is not None and time.monotonic() >= deadline:
                return None
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK_PERIOD
                if not self._still_runs():
                    return None
        return None

    def interrupt(self) -> None:
        """Have :meth:`next_event` of another thread return None soon, and from then on. Does not block."""
        self._interrupted = True

    def close(self) -> None:
        """Remove the watch. Idempotent; does not fail where the node is gone."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(VlmError, InvalidHandle, RclError):
            self._callers[RemoveWatch].call(RemoveWatch.Request(watch_id=self.watch_id), min(self._timeout, 5.0))
        self._free()

    def __iter__(self) -> Iterator[WatchEvent]:
        while (event := self.next_event()) is not None:
            yield event

    def __enter__(self) -> Watching:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _still_runs(self) -> bool:
        """Return whether the watch runs; False where its time is over. Raises ServerLost, ServerUnavailable."""
        states = self._callers[ListWatches].call(ListWatches.Request(), self._timeout).watches
        if any(state.watch.watch_id == self.watch_id for state in states):
            return True
        if self._ends or self._closed:
            return False
        raise ServerLost(
            f"The watch {self.watch_id} does not run any more: somebody removed it, or the node was cleaned up or "
            "restarted. Add it again."
        )

    def _take(self, message: Any) -> None:
        if message.watch_id != self.watch_id or message.sequence < self._next:
            return
        self._next = message.sequence + 1
        while True:
            try:
                self._events.put_nowait(message)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._events.get_nowait()
            else:
                return

    def _free(self) -> None:
        self._closed = True
        with contextlib.suppress(InvalidHandle, RclError):
            self._node.destroy_subscription(self._subscription)
            for caller in self._callers.values():
                caller.close()


def event_of_message(message: Any) -> WatchEvent:
    """Convert a WatchEvent message."""
    valid = message.valid_until
    return WatchEvent(
        watch_id=message.watch_id,
        sequence=message.sequence,
        kind=_KINDS.get(message.kind, str(message.kind)),
        active=message.active,
        message=message.message,
        stamp=message.header.stamp,
        frame_id=message.header.frame_id,
        answer=answer_of_result(message.answer) if message.answer.goal_id else None,
        valid_until=valid if valid.sec or valid.nanosec else None,
        before=bytes(message.before.data),
        after=bytes(message.after.data),
        annotated=bytes(message.annotated.data),
    )
