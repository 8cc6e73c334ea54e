"""A client of the node under test that tests drive step by step: everything that arrives is an event to wait for."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.srv import Ask
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from unique_identifier_msgs.msg import UUID

from ros_node import FEEDBACK, RosNode

PATIENCE = 60.0
"""Seconds after which something that should have happened has not: generous, since machines are slow and busy."""

SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Goal:
    """A goal that was sent."""

    def __init__(self, ros: RosClient, goal: AskImage.Goal) -> None:
        self._ros = ros
        self._feedback: queue.Queue[Any] = queue.Queue()
        self.seen: list[Any] = []
        goal_id = UUID(uuid=list(uuid.uuid4().bytes))
        ros.feedback[bytes(goal_id.uuid)] = self._feedback
        self.handle, _ = ros.send_goal(goal, goal_id)
        self.accepted: bool = self.handle.accepted
        self._result = ros.on_executor(self.handle.get_result_async) if self.accepted else None

    def next_feedback(self) -> Any:
        try:
            self.seen.append(self._feedback.get(timeout=self._ros.patience))
        except queue.Empty:
            ended = f"the goal ended: {self.result()}" if self.done else "the goal still runs"
            raise RuntimeError(f"no feedback for {self._ros.patience:g} s; {ended}") from None
        return self.seen[-1]

    def wait_for_stage(self, stage: int) -> Any:
        """The first feedback message of ``stage``."""
        while True:
            feedback = self.next_feedback()
            if feedback.stage == stage:
                return feedback

    def wait_for_text(self) -> Any:
        """The first feedback message with text."""
        while True:
            feedback = self.next_feedback()
            if feedback.delta:
                return feedback

    def cancel(self) -> bool:
        """Ask for cancellation; whether the node agreed."""
        answer = self._ros.complete(self._ros.on_executor(self.handle.cancel_goal_async))
        return bool(answer.goals_canceling)

    @property
    def done(self) -> bool:
        return bool(self._result.done())

    def result(self) -> AskImage.Result:
        return self._ros.complete(self._result).result

    def status(self) -> str:
        """The final goal status: "succeeded", "canceled" or "aborted"."""
        status = self._ros.complete(self._result).status
        return {
            GoalStatus.STATUS_SUCCEEDED: "succeeded",
            GoalStatus.STATUS_CANCELED: "canceled",
            GoalStatus.STATUS_ABORTED: "aborted",
        }[status]

    def feedback_until_result(self) -> list[Any]:
        """All feedback, once the result and everything sent before it has arrived."""
        expected = len(self.result().text)
        while not self._feedback.empty() or sum(len(message.delta) for message in self.seen) < expected:
            self.next_feedback()
        return self.seen


class RosClient(RosNode):
    """Asks the node under test, and calls its services."""

    def __init__(self) -> None:
        super().__init__("tests", PATIENCE)
        self.feedback: dict[bytes, queue.Queue[Any]] = {}
        self._hears_feedback = threading.Event()

    def __enter__(self) -> RosClient:
        super().__enter__()
        # A subscription of our own: rclpy's action client drops feedback that it handles after the result.
        self.node.create_subscription(
            AskImage.Impl.FeedbackMessage,
            "/vlm/ask_image/_action/feedback",
            self._on_feedback,
            FEEDBACK,
            event_callbacks=SubscriptionEventCallbacks(matched=self._on_matched),
        )
        return self

    def meet(self) -> None:
        """Wait until the node under test knows us, and we its feedback."""
        super().meet()
        if not self._hears_feedback.wait(PATIENCE):
            raise RuntimeError("the node does not serve its action")

    def _on_feedback(self, message: Any) -> None:
        if asked := self.feedback.get(bytes(message.goal_id.uuid)):
            asked.put(message.feedback)

    def _on_matched(self, change: Any) -> None:
        self._hears_feedback.set() if change.current_count else self._hears_feedback.clear()

    def ask(self, prompt: str = "What is it?", *, options: dict[str, Any] | None = None, **fields: Any) -> Goal:
        """Send a goal; it is accepted or rejected when this returns."""
        goal = AskImage.Goal(prompt=prompt, **fields)
        for name, value in ({"temperature": 0.0} | (options or {})).items():
            setattr(goal.options, name, value)
        return Goal(self, goal)

    def ask_service(self, **fields: Any) -> Ask.Response:
        return self.call(Ask, "/vlm/ask", Ask.Request(**fields))

    def set_parameter(self, name: str, value: Any) -> SetParametersResult:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "/vlm/set_parameters", request).results[0]

    def get_parameter(self, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        return parameter_value_to_python(self.call(GetParameters, "/vlm/get_parameters", request).values[0])

    @contextmanager
    def parameters(self, **values: Any) -> Iterator[None]:
        """Within it, parameters of the node have these values: a node of a test's own costs seconds."""
        before = {name: self.get_parameter(name) for name in values}
        try:
            for name, value in values.items():
                assert self.set_parameter(name, value).successful, name
            yield
        finally:
            for name, value in before.items():
                assert self.set_parameter(name, value).successful, name

    def lifecycle(self, transition: str) -> bool:
        """Whether the transition ("configure", "activate", ...) was made."""
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, "/vlm/change_state", request).success)

    def lifecycle_state(self) -> str:
        return str(self.call(GetState, "/vlm/get_state", GetState.Request()).current_state.label)


def noise_image(width: int = 96, height: int = 64, encoding: str = "rgb8", seed: int = 0) -> Image:
    """An image of noise, 3 bytes a pixel."""
    pixels = np.random.default_rng(seed).integers(0, 255, width * height * 3, dtype=np.uint8)
    image = Image(height=height, width=width, encoding=encoding, step=width * 3)
    image.data = pixels.tobytes()
    return image
