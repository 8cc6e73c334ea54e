"""A subscription that no executor spins: its messages are taken by whoever wants them, when they want them.

rclpy's executor makes a wait set of everything a node has, twice for each message: about a millisecond of Python where
a model keeps the caches cold, and as much for a message that nobody needs. The calls below are those of rclpy's own
wait_for_message(), which has no public counterpart that keeps its subscription.
"""

from __future__ import annotations

import contextlib
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile

Closed = _rclpy.InvalidHandle
"""Raised where a subscription is used after it was closed."""

RclError = _rclpy.RCLError
"""Raised by whatever a node is asked when a signal has shut ROS down, and where the middleware fails."""

_NO_EVENTS = SubscriptionEventCallbacks(use_default_callbacks=False)
"""They would be the executor's to look at."""


class _NeverSpun(CallbackGroup):
    """A callback group whose entities no executor waits for."""

    def can_execute(self, entity: Any) -> bool:  # noqa: ARG002
        return False

    def beginning_execution(self, entity: Any) -> bool:  # noqa: ARG002
        return False

    def ending_execution(self, entity: Any) -> None:
        """Never called: nothing begins."""


class UnspunSubscription:
    """Keeps what arrives in the middleware until it is taken. Usable from any thread; one :meth:`wait` at a time.

    ``raw``: messages are taken as bytes, serialized as they came.
    """

    def __init__(self, node: Node, message_type: type, topic: str, qos: QoSProfile, *, raw: bool = False) -> None:
        self._node = node
        self._subscription = node.create_subscription(
            message_type, topic, _ignore, qos, callback_group=_NeverSpun(), event_callbacks=_NO_EVENTS, raw=raw
        )
        self._interrupt = node.create_guard_condition(_ignore, callback_group=_NeverSpun())
        context = node.context.handle
        assert context is not None
        self._wait_set = _rclpy.WaitSet(1, 1, 0, 0, 0, 0, context)
        self.message_type = message_type
        self.topic: str = self._subscription.topic_name

    def take(self) -> tuple[Any, Any] | None:
        """The oldest message and what the middleware says about it; None when there is none."""
        handle = self._subscription.handle
        with handle:
            taken: tuple[Any, Any] | None = handle.take_message(self.message_type, self._subscription.raw)
        return taken

    def wait(self, timeout: float) -> bool:
        """Wait until there is a message; False after ``timeout`` seconds, once interrupted, or without ROS."""
        # Entering a handle keeps close() in another thread from freeing it while the wait set points to it.
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
        """Drop the subscription; whoever waits for it or takes from it then gets Closed."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_guard_condition(self._interrupt)


def _ignore(*_: Any) -> None:
    """A callback for entities that are never spun."""
