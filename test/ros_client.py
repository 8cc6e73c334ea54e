"""A client of the node under test that tests drive step by step: everything that arrives is an event to wait for."""

from __future__ import annotations

import queue
import threading
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import VlmStatus
from qwen3vl_ros.srv import Ask
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

PATIENCE = 60.0
"""Seconds after which something that should have happened has not: generous, since machines are slow and busy."""

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class Goal:
    """A goal that was sent."""

    def __init__(self, client: RosClient, goal: AskImage.Goal) -> None:
        self._client = client
        self._feedback: queue.Queue[Any] = queue.Queue()
        self.seen: list[Any] = []
        future = client.action.send_goal_async(goal, feedback_callback=lambda m: self._feedback.put(m.feedback))
        self.handle = client.complete(future)
        self.accepted: bool = self.handle.accepted
        self._result = self.handle.get_result_async() if self.accepted else None

    def next_feedback(self) -> Any:
        self.seen.append(self._feedback.get(timeout=PATIENCE))
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
        return bool(self._client.complete(self.handle.cancel_goal_async()).goals_canceling)

    @property
    def done(self) -> bool:
        return bool(self._result.done())

    def result(self) -> AskImage.Result:
        return self._client.complete(self._result).result

    def status(self) -> str:
        """The final goal status: "succeeded", "canceled" or "aborted"."""
        status = self._client.complete(self._result).status
        return {
            GoalStatus.STATUS_SUCCEEDED: "succeeded",
            GoalStatus.STATUS_CANCELED: "canceled",
            GoalStatus.STATUS_ABORTED: "aborted",
        }[status]

    def has_feedback(self) -> bool:
        """Whether any feedback arrived until the result did."""
        self.result()
        return not self._feedback.empty()

    def feedback_until_result(self) -> list[Any]:
        """All feedback, once the result and everything sent before it has arrived."""
        expected = len(self.result().text)
        while not self._feedback.empty() or (self.seen and sum(len(m.delta) for m in self.seen) < expected):
            self.next_feedback()
        return self.seen


class RosClient:
    """Node, executor thread and clients for everything the node under test serves."""

    def __enter__(self) -> RosClient:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("tests", context=self.context)
        feedback = QoSProfile(depth=1000)
        self.action = ActionClient(self.node, AskImage, "/vlm/ask_image", feedback_sub_qos_profile=feedback)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.context.try_shutdown()
        self._thread.join()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def complete(self, future: Any) -> Any:
        """The result of a rclpy future that the background thread completes."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), "nothing came back"
        return future.result()

    def ask(self, prompt: str = "What is it?", *, options: dict[str, Any] | None = None, **fields: Any) -> Goal:
        """Send a goal; it is accepted or rejected when this returns."""
        goal = AskImage.Goal(prompt=prompt, **fields)
        for name, value in ({"temperature": 0.0} | (options or {})).items():
            setattr(goal.options, name, value)
        assert self.action.wait_for_server(PATIENCE)
        return Goal(self, goal)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service once."""
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(PATIENCE)
            return self.complete(client.call_async(request))
        finally:
            self.node.destroy_client(client)

    def ask_service(self, **fields: Any) -> Ask.Response:
        return self.call(Ask, "/vlm/ask", Ask.Request(**fields))

    def set_parameter(self, name: str, value: Any) -> SetParametersResult:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, "/vlm/set_parameters", request).results[0]

    def get_parameter(self, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        return parameter_value_to_python(self.call(GetParameters, "/vlm/get_parameters", request).values[0])

    def lifecycle(self, transition: str) -> bool:
        """Whether the transition ("configure", "activate", ...) was made."""
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, "/vlm/change_state", request).success)

    def lifecycle_state(self) -> str:
        return str(self.call(GetState, "/vlm/get_state", GetState.Request()).current_state.label)

    def listen(self, kind: Any, topic: str, qos: QoSProfile | int = 10) -> Listener:
        return Listener(self.node, kind, topic, qos)

    def status(self) -> Listener:
        return self.listen(VlmStatus, "/vlm/status", LATCHED)


class Listener:
    """Messages of a topic, to be waited for."""

    def __init__(self, node: Any, kind: Any, topic: str, qos: QoSProfile | int) -> None:
        self._node = node
        self._messages: queue.Queue[Any] = queue.Queue()
        self._subscription = node.create_subscription(kind, topic, self._messages.put, qos)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._node.destroy_subscription(self._subscription)

    def wait_for(self, wanted: Any = lambda message: True) -> Any:
        """The next message for which ``wanted`` is true."""
        while True:
            message = self._messages.get(timeout=PATIENCE)
            if wanted(message):
                return message


def picture(width: int = 96, height: int = 64, encoding: str = "rgb8", seed: int = 0) -> Image:
    """A picture of noise, 3 bytes a pixel."""
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 255, width * height * 3, dtype=np.uint8)
    image = Image(height=height, width=width, encoding=encoding, step=width * 3)
    image.data = pixels.tobytes()
    return image
