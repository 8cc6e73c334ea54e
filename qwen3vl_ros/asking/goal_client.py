"""rclpy's action client, made safe to send goals from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionClient

if TYPE_CHECKING:
    _ActionClient = ActionClient[Any, Any, Any]
else:
    _ActionClient = ActionClient  # not subscriptable on Jazzy


class GoalClient(_ActionClient):
    """An action client whose goals may be sent from any thread.

    rclpy registers a goal only after it was sent: on Jazzy, and in another way in rclpy 9.1, a quick answer finds
    nobody waiting for it and the goal's future never completes. Here the executor handles nothing that arrived
    before a send is complete. Futures are kept from the executor, so their callbacks run where the message is
    handled, and rclpy 9.1 does not keep one of them for ever per goal, which slows every feedback message down.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.sending = threading.Lock()
        self.on_status: Callable[[Any], None] = lambda _: None
        super().__init__(*arguments, **named)

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
