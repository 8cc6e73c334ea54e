"""Send a goal's feedback and result to a client of the action AskImage, a caller of the service Ask, or the node."""

from __future__ import annotations

import threading
import uuid
from typing import Any

from rclpy.action.server import ServerGoalHandle
from rclpy.executors import Executor
from rclpy.task import Future

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import Stage
from qwen3vl_ros.srv import Ask
from qwen3vl_ros.vlm.job import Code, GoalResult, Progress
from qwen3vl_ros.vlm.messages import fill_feedback, fill_result


class ActionReply:
    """Replies to a goal of the action: publishes feedback on the calling thread, the result through the executor."""

    def __init__(self, goal_handle: ServerGoalHandle[Any, Any, Any], executor: Executor) -> None:
        self._goal_handle = goal_handle
        self._executor = executor
        self._feedback = AskImage.Feedback()
        self._sequence = 0
        self._lock = threading.Lock()
        self._started = False
        self._over = False
        self._result: Future[GoalResult] = Future(executor=executor)

    @property
    def goal_id(self) -> str:
        """The goal's UUID, 32 hexadecimal digits."""
        return bytes(self._goal_handle.goal_id.uuid).hex()

    def started(self) -> None:
        """Set the goal's status to EXECUTING, since it has left the queue."""
        if not self._started:
            self._started = True
            # On the executor's thread, where no cancel request is half processed.
            self._executor.create_task(self._goal_handle.execute, self._wait_for_result)

    def progress(self, progress: Progress) -> None:
        """Publish ``progress`` as feedback."""
        with self._lock:
            if self._over or (self._started and progress.stage is Stage.QUEUED):
                return  # late: the position was counted before this goal left the queue, or one more token came
            fill_feedback(self._feedback, progress, self._sequence)
            self._goal_handle.publish_feedback(self._feedback)
            self._sequence += 1

    def finished(self, result: GoalResult) -> None:
        """Send the status, then the result."""
        self._over = True
        self.started()
        self._result.set_result(result)
        self._executor.wake()

    async def _wait_for_result(self, goal_handle: ServerGoalHandle[Any, Any, Any]) -> Any:
        result = await self._result
        assert result is not None
        if result.error is None:
            goal_handle.succeed()
        elif result.error.code == Code.CANCELLED and goal_handle.is_cancel_requested:
            goal_handle.canceled()
        else:
            goal_handle.abort()
        return fill_result(AskImage.Result(), result)


class ServiceReply:
    """Replies to a call of the service, which takes no feedback."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.goal_id = uuid.uuid4().hex
        self.result: Future[GoalResult] = Future(executor=executor)

    def started(self) -> None:
        """Do nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def finished(self, result: GoalResult) -> None:
        """Let :meth:`respond` return."""
        self.result.set_result(result)
        self._executor.wake()

    async def respond(self, response: Ask.Response) -> Ask.Response:
        """Wait for the result and fill ``response`` with it."""
        result = await self.result
        assert result is not None
        return fill_result(response, result)


class KeptReply:
    """Keeps the result of a question that the node asks itself; None before."""

    def __init__(self) -> None:
        self.goal_id = uuid.uuid4().hex
        self.result: GoalResult | None = None

    def started(self) -> None:
        """Do nothing."""

    def progress(self, progress: Progress) -> None:
        """Do nothing."""

    def finished(self, result: GoalResult) -> None:
        """Keep the result."""
        self.result = result
