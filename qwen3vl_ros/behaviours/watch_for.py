"""WatchFor: waits until something happens."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from py_trees.common import Status
from rclpy.exceptions import InvalidHandle

from qwen3vl_ros.behaviours.leaf import Leaf
from qwen3vl_ros.client.exceptions import BadRequest, Cancelled, VlmError
from qwen3vl_ros.client.watch_message import build_watch
from qwen3vl_ros.ros.polling_subscription import RclError

if TYPE_CHECKING:
    from qwen3vl_ros.client.vlm_client import VlmClient
    from qwen3vl_ros.client.watch import WatchEvent, Watching

_REMOVAL = 8.0
"""Seconds that :meth:`WatchFor.shutdown` waits for the node to remove the watch: longer than that takes at most."""


class WatchFor(Leaf):
    """Adds a watch to the node and waits for its first event: SUCCESS, with the :class:`WatchEvent` at ``key``.

    It is RUNNING until then, and the node asks by itself, whatever the rate of the ticks. The watch is removed at the
    end, and when the leaf is stopped. FAILURE where the watch is refused, is ended by somebody else or by
    ``max_duration``, or the node is gone.

    Args:
        name: of the leaf.
        prompt: the question, such as "Is the door open?"; "" with ``condition="image"``.
        kind: "on" (it becomes true, or is), "off" (it stops being true) or "update" (``condition="text"``).
        key: where the event is written.
        error_key: where the reason of a failure is written; "" = nowhere.
        valid_for: seconds after its image for which an event counts: until then the leaf succeeds again at once; None =
            it waits for a new one at each start.
        client: a VlmClient of your own, which stays open; None = the tree's.
        node_name: name of the vlm node.
        **watch: the others of :meth:`VlmClient.watch`: ``task``, ``condition``, ``needed``, ``region``, ...
    """

    def __init__(
        self,
        name: str,
        prompt: str = "",
        *,
        kind: str = "on",
        key: str = "event",
        error_key: str = "",
        valid_for: float | None = None,
        client: VlmClient | None = None,
        node_name: str = "vlm",
        **watch: Any,
    ) -> None:
        super().__init__(name, key=key, error_key=error_key, valid_for=valid_for, client=client, node_name=node_name)
        for taken, instead in (("kinds", "kind"), ("watch_id", "a VlmClient's own watch()"), ("muted", "nothing")):
            if taken in watch:
                raise BadRequest(f"{taken} is the leaf's own business: use {instead}.")
        self._prompt = prompt
        self._watch = {**watch, "kinds": [kind], "valid_for": valid_for}
        self._waiting: _Waiting | None = None
        self._ended: Status | None = None
        build_watch(prompt, **self._watch)  # a mistake is told where it was made

    def initialise(self) -> None:
        """Add the watch, unless the last event still counts."""
        self._ended = self._resume()
        if self._ended is None:
            self._waiting = _Waiting(self.client, self._prompt, self._watch)

    def update(self) -> Status:
        """Return RUNNING until the event is there."""
        if self._ended is None and self._waiting is not None and self._waiting.ended.is_set():
            waiting = self._waiting
            if isinstance(waiting.outcome, VlmError):
                self._ended = self._fail(waiting.outcome)
            elif waiting.outcome is None:
                self._ended = self._fail("The watch is over (max_duration), and nothing has happened.")
            else:
                event = waiting.outcome
                self._ended = self._end(Status.SUCCESS, event, event.stamp, event.message, keep=True)
        if self._ended is not None:
            return self._ended
        self.feedback_message = "watching"
        return Status.RUNNING

    def terminate(self, new_status: Status) -> None:  # noqa: ARG002
        """Have the watch removed."""
        if self._waiting is not None:
            self._waiting.stop()

    def shutdown(self) -> None:
        """Wait until the node has removed the watch, and give the client back."""
        self.stop(Status.INVALID)
        if self._waiting is not None:
            self._waiting.join(_REMOVAL)
        super().shutdown()


class _Waiting:
    """Adds a watch and waits for one event, on a thread of its own: both block.

    ``ended``: set once ``outcome`` is there: the event, the error, or None where the watch is over.
    """

    def __init__(self, client: VlmClient, prompt: str, watch: dict[str, Any]) -> None:
        self.ended = threading.Event()
        self.outcome: WatchEvent | VlmError | None = None
        self._stop = threading.Event()
        self._watching: Watching | None = None
        self._thread = threading.Thread(
            target=self._run, args=(client, prompt, watch), name="vlm_watch_for", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Have the watch removed. Returns at once."""
        self._stop.set()
        if self._watching is not None:
            self._watching.interrupt()

    def join(self, seconds: float) -> None:
        """Wait until the watch is removed."""
        self._thread.join(seconds)

    def _run(self, client: VlmClient, prompt: str, watch: dict[str, Any]) -> None:
        try:
            with client.watch(prompt, **watch) as self._watching:
                if not self._stop.is_set():
                    self.outcome = self._watching.next_event()
        except VlmError as error:
            self.outcome = error
        except (InvalidHandle, RclError):
            self.outcome = Cancelled("The ROS node of the tree was destroyed, or ROS was shut down.")
        finally:
            self.ended.set()
