"""The benchmark's own side of the ROS graph: the tests' node, with goals that note when things arrive."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from action_msgs.msg import GoalStatus
from qwen3vl_ros.action import AskImage
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from unique_identifier_msgs.msg import UUID

from processes import HERE, PATIENCE
from qwen3vl_ros.ros.fast_dds import package_profile

sys.path.append(str(HERE.parent / "test" / "support"))
import ros_client
import ros_domain
import ros_node

_FEEDBACK_AFTER_RESULT = 5.0  # seconds: they take different ways and may overtake each other


def isolate() -> None:
    """Make this process and those it starts a ROS graph of their own, with the package's Fast DDS profile."""
    ros_domain.isolate()
    os.environ.update(package_profile())


def other_graph() -> dict[str, str]:
    """The environment variables of processes that this one's node is not to hear: listening would cost them time."""
    return {"ROS_DOMAIN_ID": ros_domain.claim()}


class Goal:
    """A goal that was sent. Times are time.monotonic() seconds."""

    def __init__(self, graph: RosGraph, goal: AskImage.Goal) -> None:
        self._graph = graph
        self._arrived: queue.Queue[tuple[float, Any]] = queue.Queue()
        self.feedback: list[tuple[float, Any]] = []
        goal_id = UUID(uuid=list(uuid.uuid4().bytes))
        self._handle, self.sent = graph.send_goal(goal, goal_id, self._on_feedback)
        if not self._handle.accepted:
            raise RuntimeError("the node rejected a goal: it is not active")
        self._ended = 0.0
        self._done = threading.Event()
        self._result = graph.on_executor(self._handle.get_result_async)
        self._result.add_done_callback(self._on_result)

    def wait_for(self, wanted: Callable[[Any], bool]) -> float:
        """When the first feedback message arrived for which ``wanted`` is true. RuntimeError if the goal ends first."""
        while True:
            try:
                self.feedback.append(self._arrived.get(timeout=_FEEDBACK_AFTER_RESULT))
            except queue.Empty:
                if self._done.is_set():
                    message = self._result.result().result.error_msg
                    raise RuntimeError(f"a goal ended before it got where it was awaited: {message}") from None
                if time.monotonic() - self.sent > PATIENCE:
                    raise RuntimeError(f"a goal got nowhere in {PATIENCE:g} s") from None
                continue
            when, message = self.feedback[-1]
            if wanted(message):
                return when

    def wait_for_token(self) -> float:
        """When feedback of the first token arrived."""
        return self.wait_for(lambda message: message.completion_tokens > 0)

    def result(self) -> tuple[float, AskImage.Result]:
        """When the result arrived, and the result. Raises RuntimeError for a goal that failed."""
        self._wait()
        response = self._result.result()
        if response.status != GoalStatus.STATUS_SUCCEEDED:
            raise RuntimeError(f"a goal failed: {response.result.error_msg}")
        self._collect()
        return self._ended, response.result

    def cancel(self) -> float:
        """Cancel; seconds until the result says CANCELED. Raises RuntimeError if it says something else."""
        begin = time.monotonic()
        self._graph.on_executor(self._handle.cancel_goal_async)
        self._wait()
        if self._result.result().status != GoalStatus.STATUS_CANCELED:
            raise RuntimeError("a goal ended before it could be cancelled")
        self._collect()
        return self._ended - begin

    def _collect(self) -> None:
        """Put what has arrived to the rest of the feedback."""
        while not self._arrived.empty():
            self.feedback.append(self._arrived.get())

    def _wait(self) -> None:
        if not self._done.wait(PATIENCE):
            raise RuntimeError(f"a goal has no result after {PATIENCE:g} s")

    def _on_feedback(self, message: Any) -> None:
        self._arrived.put((time.monotonic(), message.feedback))

    def _on_result(self, _: object) -> None:
        self._ended = time.monotonic()
        self._done.set()


class RosGraph(ros_node.RosNode):
    """A node with an executor thread, and a client of the action."""

    def __init__(self) -> None:
        super().__init__("benchmark", PATIENCE)

    def ask(self, prompt: str, max_tokens: int, *, timeout: float = PATIENCE, **fields: Any) -> Goal:
        """Send a goal: greedy, and unless told otherwise without a time-out that this machine could meet."""
        goal = AskImage.Goal(prompt=prompt, **fields)
        goal.options.temperature = 0.0
        goal.options.max_tokens = max_tokens
        goal.timeout.sec = max(1, int(timeout))
        return Goal(self, goal)

    def connect(self) -> None:
        """Wait until feedback arrives here: what the node sends before that connection stands is lost."""
        for _ in range(4):
            with contextlib.suppress(RuntimeError):  # a goal of which nothing was heard
                self.ask("Are you there?", 1, text_only=True).wait_for_token()
                return
        raise RuntimeError("the node answers, but its feedback does not arrive")


class Listener(ros_node.Listener):
    """Messages of a topic and when they arrived (time.monotonic() seconds)."""

    def __init__(self, graph: RosGraph, kind: Any, topic: str, qos: QoSProfile | int = ros_node.LATCHED) -> None:
        super().__init__(graph, kind, topic, qos)

    def wait_for(self, wanted: Callable[[Any], Any] = lambda _: True) -> tuple[float, Any]:
        """When the next message arrived for which ``wanted`` is true, and the message."""
        message = super().wait_for(wanted)
        return self.when, message


def noise_image(seed: int, width: int = 640, height: int = 480) -> Image:
    """An image of noise, rgb8; 640x480 takes 300 tokens."""
    return ros_client.noise_image(width, height, seed=seed)
