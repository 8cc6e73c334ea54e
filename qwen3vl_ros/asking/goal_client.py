"""rclpy's action client, made safe to send goals from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionClient
from rclpy.exceptions import InvalidHandle

if TYPE_CHECKING:
    _ActionClient = ActionClient[Any, Any, Any]
else:
    _ActionClient = ActionClient  # not subscriptable on Jazzy


class GoalClient(_ActionClient):
    """An action client whose goals may be sent from any thread, and which any thread may destroy.

    rclpy registers a goal only after it was sent: on Jazzy, and in another way in rclpy 9.1, a quick answer finds
    nobody waiting for it and the goal's future never completes. Here the executor handles nothing that arrived
    before a send is complete. Futures are kept from the executor, so their callbacks run where the message is
    handled, and rclpy 9.1 does not keep one of them for ever per goal, which slows every feedback message down.

    An executor of rclpy that comes upon a client that another thread has just destroyed, or in rclpy 9.1 not yet
    completed, raises, which ends whoever spins it. Here it sees one that has nothing to do.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.sending = threading.Lock()
        self.on_status: Callable[[Any], None] = lambda _: None
        self._is_complete = self._is_held = False
        super().__init__(*arguments, **named)
        self._is_complete = True

    def __enter__(self) -> None:
        """The executor keeps the client from being destroyed while it waits; InvalidHandle: too early, or too late."""
        self._is_held = False
        if not self._is_complete:
            raise InvalidHandle("the client is not complete yet")
        super().__enter__()
        self._is_held = True

    def add_to_wait_set(self, wait_set: Any) -> None:
        """Wait for what arrives here."""
        if self._is_held:
            super().add_to_wait_set(wait_set)

    def is_ready(self, wait_set: Any) -> bool:
        """Whether anything has arrived. Statuses, which list all goals of all clients, wait until nothing else does."""
        if not (self._is_held and super().is_ready(wait_set)):
            return False
        if self._is_feedback_ready or self._is_result_response_ready or self._is_goal_response_ready:
            self._is_status_ready = False  # the newest one stays where it is
        return True

    def take_data(self) -> Any:
        """What has arrived; nothing any more once it is destroyed."""
        try:
            with self._client_handle:
                return super().take_data()
        except InvalidHandle:
            return {}

    async def execute(self, taken_data: Any) -> None:
        """Handle what arrived, after any send that is under way; then pass statuses on."""
        with self.sending:
            pass
        await super().execute(taken_data)
        if "status" in taken_data:
            self.on_status(taken_data["status"].status_list)

    def add_future(self, future: Any) -> None:
        """Not for the executor, see above."""

    def remove_future(self, future: Any) -> None:
        """Not for the executor, see above."""
