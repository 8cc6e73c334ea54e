"""A client of the action AskImage, built on the parts of a ROS action: three services and two topics.

It replaces rclpy's ActionClient for two reasons:

- Cost: rclpy hands every feedback message, one per token, to the executor, which builds a wait set of everything the
  node has for each (about 1 ms more per token beside a busy model, docs/performance.md), and turns every status, which
  lists the goals of all clients, into Python objects. Here the client's reader thread calls :meth:`next_feedback`.
- Late replies: rclpy offers cancel and result on a goal handle, which exists once the reply to the goal has arrived.
  Here the client chooses the goal's id, so that both work for a goal whose reply is late or lost.

Beside these, rclpy's has lost replies: one that arrived before the thread that asked had registered its future was
dropped (https://github.com/ros2/rclpy/issues/1123, fixed in rclpy 9.1.3 and 7.1.7). In 9.1 and 7.1, feedback that is
handled after the result is dropped, and an executor that comes upon a client which another thread has just destroyed
raises.

Names and types: https://design.ros2.org/articles/actions.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from action_msgs.srv import CancelGoal
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from unique_identifier_msgs.msg import UUID

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.ros.polling_subscription import PollingSubscription, RclError
from qwen3vl_ros.ros.requests import REQUESTS

if TYPE_CHECKING:
    from rclpy.node import Node

_T = TypeVar("_T")

_FEEDBACK = QoSProfile(depth=200)
"""Queue of feedback messages; beyond it some are lost, which an AnswerFuture tolerates."""

_STATUS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)
"""Each event would be one more entity in the wait set that the executor builds for every message."""


class GoalClient:
    """Sends requests about goals, each known by its id of 16 bytes. Thread-safe; :meth:`next_feedback` blocks.

    The callback of a request, ``then``, runs on the executor's thread, as a task of its own, which belongs to no
    callback group. Once the ROS node is destroyed, requests have no reply.

    Args:
        node: the ROS node that the client lives in.
        action: full name of the action.
        group: callback group of the replies and statuses.
    """

    def __init__(self, node: Node, action: str, group: CallbackGroup) -> None:
        def client(kind: Any, name: str) -> Any:
            return node.create_client(kind, f"{action}/_action/{name}", qos_profile=REQUESTS, callback_group=group)

        self._node = node
        self._newest_status: bytes | None = None
        self._lock = threading.Lock()
        self._awaited: dict[bytes, list[tuple[Any, Any]]] = {}
        kinds = AskImage.Impl
        self._goals = client(kinds.SendGoalService, "send_goal")
        self._cancels = client(kinds.CancelGoalService, "cancel_goal")
        self._results = client(kinds.GetResultService, "get_result")
        self._status = node.create_subscription(
            kinds.GoalStatusMessage,
            f"{action}/_action/status",
            self._take_status,
            _STATUS,
            callback_group=group,
            event_callbacks=_NO_EVENTS,
            raw=True,
        )
        self.status_topic: str = self._status.topic_name
        self._feedback = PollingSubscription(
            node, kinds.FeedbackMessage, f"{action}/_action/feedback", _FEEDBACK, raw=True
        )

    def is_destroyed(self) -> bool:
        """Return whether the ROS node, or the client, was destroyed: no message can arrive any more."""
        # Of all that next_feedback() uses, destroy_node() frees this subscription first.
        try:
            with self._status.handle:
                return False
        except InvalidHandle:
            return True

    def server_is_ready(self) -> bool:
        """Return whether a node serves the action, according to the ROS graph."""
        return self.server_is_there() and self._query_graph(
            lambda: (
                all(service.service_is_ready() for service in (self._cancels, self._results))
                and all(self._node.count_publishers(topic) for topic in (self._feedback.topic, self.status_topic))
            ),
            False,
        )

    def server_is_there(self) -> bool:
        """Return whether a node serves a part of the action, which takes a fifth of the time to check."""
        return self._query_graph(self._goals.service_is_ready, False)

    def servers(self) -> frozenset[bytes]:
        """Return an identity for each server of the action on the ROS graph; one that is started anew has another."""
        return self._query_graph(
            lambda: frozenset(
                bytes(publisher.endpoint_gid)
                for publisher in self._node.get_publishers_info_by_topic(self.status_topic)
            ),
            frozenset(),
        )

    def _query_graph(self, query: Callable[[], _T], stopped: _T) -> _T:
        """Return what ``query`` does, or ``stopped`` if the ROS node was destroyed or ROS was shut down."""
        try:
            return query()
        except InvalidHandle:
            return stopped
        except RclError:
            if self._node.context.ok():
                raise
            return stopped

    def send(self, key: bytes, goal: AskImage.Goal, then: Callable[[Any], object]) -> None:
        """Send a goal; ``then`` gets the AskImage.Impl.SendGoalService.Response."""
        request = AskImage.Impl.SendGoalService.Request(goal_id=_uuid(key), goal=goal)
        self._call(self._goals, key, request, then)

    def cancel(self, key: bytes, then: Callable[[Any], object]) -> None:
        """Request that a goal be cancelled; ``then`` gets the CancelGoal.Response."""
        request = CancelGoal.Request()
        request.goal_info.goal_id = _uuid(key)
        self._call(self._cancels, key, request, then)

    def ask_result(self, key: bytes, then: Callable[[Any], object]) -> None:
        """Request a goal's result; after its end ``then`` gets the AskImage.Impl.GetResultService.Response."""
        request = AskImage.Impl.GetResultService.Request(goal_id=_uuid(key))
        self._call(self._results, key, request, then)

    def forget(self, key: bytes) -> None:
        """Drop the pending replies about a goal."""
        with self._lock:
            awaited = self._awaited.pop(key, [])
        for service, reply in awaited:
            service.remove_pending_request(reply)

    def next_feedback(self, timeout: float) -> tuple[bytes, bytes] | None:
        """Wait for the next feedback message, on a goal of any client; one thread at a time.

        Args:
            timeout: seconds to wait at most.

        Returns:
            The goal's id and its serialized feedback, for :func:`feedback_of`; None after ``timeout`` or :meth:`wake`.

        Raises:
            InvalidHandle: the ROS node, or the client, was destroyed.
        """
        # A serialized FeedbackMessage is (CDR, OMG DDS-RTPS 10.2) an encapsulation header of 4 bytes, the goal's 16 and
        # those of the Feedback, which are aligned the same without them.
        if not self._feedback.wait(timeout) or (taken := self._feedback.take()) is None:
            return None
        serialized: bytes = taken[0]
        return serialized[4:20], serialized[:4] + serialized[20:]

    def wake(self) -> None:
        """End a running :meth:`next_feedback`, or else the next one."""
        self._feedback.interrupt()

    def new_statuses(self) -> Mapping[bytes, int]:
        """Return the statuses (GoalStatus constants) of all clients' goals; empty if unchanged since the last call."""
        newest, self._newest_status = self._newest_status, None
        if newest is None:
            return {}
        return statuses_of(newest)

    def destroy(self) -> None:
        """Remove all entities from the ROS node."""
        for client in (self._goals, self._cancels, self._results):
            self._node.destroy_client(client)
        self._node.destroy_subscription(self._status)
        self._feedback.close()

    def _call(self, service: Any, key: bytes, request: Any, then: Callable[[Any], object]) -> None:
        try:
            reply = service.call_async(request)
        except InvalidHandle:
            return
        with self._lock:
            self._awaited.setdefault(key, []).append((service, reply))
        reply.add_done_callback(lambda reply: then(reply.result()))

    def _take_status(self, message: bytes) -> None:
        self._newest_status = message


def feedback_of(serialized: bytes) -> AskImage.Feedback:
    """Deserialize what :meth:`GoalClient.next_feedback` returned."""
    feedback: AskImage.Feedback = deserialize_message(serialized, AskImage.Feedback)
    return feedback


def statuses_of(serialized: bytes) -> dict[bytes, int]:
    """Deserialize a message of the status topic: the status of each goal that a server knows, by the goal's id."""
    message: Any = deserialize_message(serialized, AskImage.Impl.GoalStatusMessage)
    return {bytes(status.goal_info.goal_id.uuid): status.status for status in message.status_list}


def _uuid(key: bytes) -> UUID:
    return UUID(uuid=list(key))
