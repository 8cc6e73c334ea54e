"""What all leaves have in common: the client, the keys on the blackboard, and how long an answer counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from py_trees.behaviour import Behaviour
from py_trees.common import Access, Status
from rclpy.time import Time as RclpyTime

from qwen3vl_ros.behaviours.clients import give_back_client, take_client
from qwen3vl_ros.client.exceptions import BadRequest, VlmError

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from qwen3vl_ros.client.vlm_client import VlmClient


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last answer that counted, and the status that it gave the leaf."""

    status: Status
    value: Any
    stamp: Time
    message: str


class Leaf(Behaviour):
    """A leaf that asks the vlm node. It never waits: whoever ticks it goes on while the model thinks.

    At its start it removes ``key`` from the blackboard, unless the value there still counts: then it ends at once with
    that, and nothing is asked. Stopped while it runs (INVALID), it cancels what it asked.

    Args:
        name: of the leaf.
        key: on the blackboard, where the answer is written.
        error_key: on the blackboard, where the reason of a failure is written, a sentence; "" = nowhere. Removed at
            the start. It is always in ``feedback_message``, too.
        valid_for: seconds after its image, in the clock of the node, for which an answer counts: until then the leaf
            does not ask again, and an answer that comes later than that is a failure. None = it asks at every start,
            and takes every answer.
        client: the VlmClient to use; None = one that all leaves of the tree share, with the node that
            ``tree.setup(node=...)`` hands over or, without one, a node and a thread of its own.
        node_name: name of the vlm node, as of VlmClient; not together with ``client``.
    """

    def __init__(
        self,
        name: str,
        *,
        key: str,
        error_key: str = "",
        valid_for: float | None = None,
        client: VlmClient | None = None,
        node_name: str = "vlm",
    ) -> None:
        super().__init__(name)
        if valid_for is not None and not (math.isfinite(valid_for) and valid_for > 0):
            raise BadRequest(f"valid_for is a number of seconds greater than zero, or None, got {valid_for}.")
        self._key = key
        self._error_key = error_key
        self._valid_for = valid_for
        self._given_client = client
        self._shared_client: VlmClient | None = None
        self._node_name = node_name
        self._kept: _Kept | None = None
        self._board = self.attach_blackboard_client()
        for one in filter(None, (key, error_key)):
            self._board.register_key(one, Access.WRITE)

    def setup(self, **kwargs: Any) -> None:
        """Take the tree's client. ``node``: a ROS node that the caller spins; without one the client has its own."""
        if self._given_client is None and self._shared_client is None:
            self._shared_client = take_client(self, kwargs.get("node"), self._node_name)

    def shutdown(self) -> None:
        """Give the client back; the last leaf of the tree closes it."""
        self.stop(Status.INVALID)
        if self._shared_client is not None:
            client, self._shared_client = self._shared_client, None
            give_back_client(client)

    @property
    def client(self) -> VlmClient:
        """The client. Raises RuntimeError before :meth:`setup`."""
        client = self._given_client or self._shared_client
        if client is None:
            raise RuntimeError(
                f"The behaviour '{self.name}' was ticked before its tree was set up: call setup() of the "
                "py_trees.trees.BehaviourTree, or py_trees.trees.setup(root)."
            )
        return client

    # For the leaves.

    def _resume(self) -> Status | None:
        """Clear the keys; write the last answer again and return its status, if it still counts, else None."""
        for one in filter(None, (self._key, self._error_key)):
            self._board.unset(one)
        if self._kept is not None and self._why_too_old(self._kept.stamp) == "":
            return self._write(self._kept)
        self._kept = None
        return None

    def _end(self, status: Status, value: Any, stamp: Time, message: str, *, keep: bool) -> Status:
        """Write an answer, and keep it for as long as it counts if ``keep``; return the leaf's status.

        Args:
            status: What the leaf returns where the answer counts.
            value: What is written.
            stamp: Of the image, or of the question where it has none.
            message: What the answer says, for people.
            keep: Whether the next start may end with this answer.
        """
        if why := self._why_too_old(stamp):
            return self._fail(why)
        written = _Kept(status, value, stamp, message)
        self._kept = written if keep and self._valid_for is not None else None
        return self._write(written)

    def _write(self, answer: _Kept) -> Status:
        self._board.set(self._key, answer.value)
        if answer.status is Status.FAILURE:
            self._fail(answer.message)
        self.feedback_message = answer.message
        return answer.status

    def _fail(self, why: str | VlmError) -> Status:
        """Note the reason of a failure, and return the status."""
        self.feedback_message = f"{why.name}: {why}" if isinstance(why, VlmError) else why
        if self._error_key:
            self._board.set(self._error_key, self.feedback_message)
        return Status.FAILURE

    def _now(self) -> Time:
        return self.client.node.get_clock().now().to_msg()

    def _why_too_old(self, stamp: Time) -> str:
        """Return why an answer about an image of that time does not count; "" = it does."""
        if self._valid_for is None:
            return ""
        age = (_nanoseconds(self._now()) - _nanoseconds(stamp)) * 1e-9
        if abs(age) <= self._valid_for:
            return ""
        if age < 0:
            return (
                f"The answer does not count: its image is stamped {-age:.3g} s in the future. The node that ticks the "
                "tree and the camera have different clocks: see use_sim_time."
            )
        return (
            f"The answer does not count any more: its image is {age:.3g} s old, and it is valid for "
            f"{self._valid_for:g} s. Give valid_for more than an answer takes; where the camera has simulated time, "
            "hand setup() a node with use_sim_time."
        )


def _nanoseconds(stamp: Time) -> int:
    return int(RclpyTime.from_msg(stamp).nanoseconds)
