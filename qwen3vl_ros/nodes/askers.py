"""Who asks the node: clients of the action AskImage, and callers of the service Ask."""

from __future__ import annotations

import uuid

from rclpy.action.server import ServerGoalHandle
from rclpy.executors import Executor
from rclpy.task import Future

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.nodes.job import Code, Outcome, Progress
from qwen3vl_ros.nodes.messages import feedback_message, fill_result
from qwen3vl_ros.srv import Ask


class ActionAsker:
    """A goal of the action: feedback goes straight out from the thread that has it, the result through the executor."""

    def __init__(self, goal_handle: ServerGoalHandle, executor: Executor) -> None:
        self._goal_handle = goal_handle
        self._executor = executor
        self._sequence = 0
        self._started = False
        self._outcome: Future = Future(executor=executor)

    @property
    def goal_id(self) -> str:
        return bytes(self._goal_handle.goal_id.uuid).hex()

    def started(self) -> None:
        """The goal leaves the queue: its status becomes EXECUTING."""
        if not self._started:
            self._started = True
            self._goal_handle.execute(self._wait_for_outcome)

    def progress(self, progress: Progress) -> None:
        self._goal_handle.publish_feedback(feedback_message(progress, self._sequence))
        self._sequence += 1

    def finished(self, outcome: Outcome) -> None:
        self.started()
        self._outcome.set_result(outcome)
        self._executor.wake()

    async def _wait_for_outcome(self, goal_handle: ServerGoalHandle) -> AskImage.Result:
        outcome: Outcome = await self._outcome
        # This runs on the executor's only thread, so a cancel request is either wholly processed or not yet begun.
        if outcome.ending is None:
            goal_handle.succeed()
        elif outcome.ending.code == Code.CANCELLED and goal_handle.is_cancel_requested:
            goal_handle.canceled()
        else:
            goal_handle.abort()
        return fill_result(AskImage.Result(), outcome)


class ServiceAsker:
    """A call of the service: there is nobody to tell of progress."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.goal_id = uuid.uuid4().hex
        self.outcome: Future = Future(executor=executor)

    def started(self) -> None:
        """Nothing to tell."""

    def progress(self, progress: Progress) -> None:
        """Nobody to tell."""

    def finished(self, outcome: Outcome) -> None:
        self.outcome.set_result(outcome)
        self._executor.wake()

    async def respond(self, response: Ask.Response) -> Ask.Response:
        """The service's response, once there is an outcome."""
        return fill_result(response, await self.outcome)


