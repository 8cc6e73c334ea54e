"""A subscription that is polled instead of spun: the caller waits for a message and takes it on its own thread.

rclpy's executor builds a wait set of everything a node has, twice for each message: about a millisecond of Python where
a model keeps the caches cold, and as much for a message that nobody needs.

What rclpy lacks: a public wait set, as rclcpp has one (https://github.com/ros2/rclcpp/pull/1047), and a public way to
take a message or an event. The calls below are those of rclpy's own wait_for_message() (https://github.com/ros2/rclpy/pull/960),
which makes a subscription for each message and drops it again. No proposal to change that was found.
"""

from __future__ import annotations

import contextlib
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

Closed = InvalidHandle
"""Raised when a subscription is used after it was closed."""

RclError = _rclpy.RCLError
"""Raised when a node is queried after a signal has shut ROS down, and when the middleware fails. rclpy raises it and
has no public name for it."""

_OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)

_NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)
"""Events need an executor, and this subscription has none."""


class _NeverExecuted(CallbackGroup):
    """A callback group whose entities every executor skips."""

    def can_execute(self, entity: Any) -> bool:  # noqa: ARG002
        return False

    def beginning_execution(self, entity: Any) -> bool:  # noqa: ARG002
        return False

    def ending_execution(self, entity: Any) -> None:
        """Do nothing: execution never begins."""


class PollingSubscription:
    """Leaves messages in the middleware's queue until they are taken. Thread-safe, but for one :meth:`wait` at a time.

    Args:
        node: the node that the subscription belongs to.
        message_type: the message class of the topic.
        topic: the topic's name, relative to the node's namespace or absolute.
        qos: its depth bounds how many messages wait to be taken.
        raw: take messages as bytes, serialized as they came (CDR).
        overridable: let the parameters ``qos_overrides.TOPIC.subscription.*`` replace reliability and durability.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        qos: QoSProfile,
        *,
        raw: bool = False,
        overridable: bool = False,
    ) -> None:
        self._node = node
        self.qos = qos
        self._subscription = node.create_subscription(
            message_type,
            topic,
            _ignore,
            qos,
            callback_group=_NeverExecuted(),
            event_callbacks=_NO_EVENTS,
            raw=raw,
            qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE if overridable else ()),
        )
        # The event is polled, too: no callback for it, which only an executor would call.
        lost = _rclpy.rcl_subscription_event_type_t.RCL_SUBSCRIPTION_MESSAGE_LOST
        self._lost: Any = _rclpy.EventHandle(self._subscription.handle, lost)
        self._interrupt = node.create_guard_condition(_ignore, callback_group=_NeverExecuted())
        context = node.context.handle
        assert context is not None
        self._wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, context)
        self.message_type = message_type
        self.topic: str = self._subscription.topic_name

    def take(self) -> tuple[Any, Any] | None:
        """Take the oldest message, without waiting.

        Returns:
            The message and rclpy's MessageInfo about it, or None if there is none.

        Raises:
            Closed: the subscription was closed.
        """
        handle = self._subscription.handle
        with handle:
            taken: tuple[Any, Any] | None = handle.take_message(self.message_type, self._subscription.raw)
        return taken

    @property
    def lost(self) -> int:
        """Messages that the publishers sent and the middleware saw to be missing, since this subscribed.

        Raises:
            Closed: the subscription was closed.
        """
        with self._lost:
            return int(self._lost.take_event().total_count)

    def wait(self, timeout: float) -> bool:
        """Wait until there is a message.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether there is one; False after the time-out, an :meth:`interrupt`, or a shutdown of ROS.

        Raises:
            Closed: the subscription was closed.
            RclError: the middleware failed.
        """
        # Entering a handle keeps close() on another thread from freeing it while the wait set points to it.
        with self._subscription.handle, self._interrupt.handle:
            try:
                self._wait_set.clear_entities()
                self._wait_set.add_subscription(self._subscription.handle)
                self._wait_set.add_guard_condition(self._interrupt.handle)
                self._wait_set.wait(int(timeout * 1e9))
                return bool(self._wait_set.is_ready("subscription", 0))
            except RclError:
                if self._node.context.ok():
                    raise
                return False

    def interrupt(self) -> None:
        """End a running :meth:`wait`, or else the next one. No effect once closed."""
        with contextlib.suppress(Closed):
            self._interrupt.trigger()

    def close(self) -> None:
        """Destroy the subscription; :meth:`wait` and :meth:`take` raise Closed from then on."""
        self._lost.destroy_when_not_in_use()
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_guard_condition(self._interrupt)


def _ignore(*_: Any) -> None:
    """Do nothing: the callback of entities that are never executed."""
