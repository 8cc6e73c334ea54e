"""The benchmark's own side of the ROS graph: a client that notes when things arrive."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from qwen3vl_ros.action import AskImage
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from processes import PATIENCE
from qwen3vl_ros.fast_dds import package_profile

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

_FEEDBACK_AFTER_RESULT = 5.0  # seconds: they take different ways and may overtake each other

_claims: list[IO[str]] = []


def isolate() -> None:
    """Make this process and those it starts a ROS graph of their own, with the package's Fast DDS profile."""
    for domain in range(1, 102):  # those that every operating system can open ports for
        claim = (Path(tempfile.gettempdir()) / f"qwen3vl_ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        _claims.append(claim)
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        break
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.update(package_profile())


class Goal:
    """A goal that was sent. Times are time.monotonic() seconds."""

    def __init__(self, graph: RosGraph, goal: AskImage.Goal) -> None:
        self._graph = graph
        self._arrived: queue.Queue[tuple[float, Any]] = queue.Queue()
        self.feedback: list[tuple[float, Any]] = []
        self.sent = time.monotonic()
        self._handle = graph.complete(graph.action.send_goal_async(goal, feedback_callback=self._on_feedback))
        if not self._handle.accepted:
            raise RuntimeError("the node rejected a goal: it is not active")
        self._result = self._handle.get_result_async()
        self._ended = 0.0
        self._done = threading.Event()
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
        self._handle.cancel_goal_async()
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


class RosGraph:
    """A node with an executor thread, and a client of the action."""

    def __enter__(self) -> RosGraph:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("benchmark", context=self.context)
        self.action = ActionClient(
            self.node, AskImage, "/vlm/ask_image", feedback_sub_qos_profile=QoSProfile(depth=1000)
        )
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
        """The result of a future that the executor completes."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(PATIENCE):
            raise RuntimeError(f"no response after {PATIENCE:g} s")
        return future.result()

    def ask(self, prompt: str, max_tokens: int, **fields: Any) -> Goal:
        """Send a goal: greedy, without a time-out that this machine could meet."""
        goal = AskImage.Goal(prompt=prompt, **fields)
        goal.options.temperature = 0.0
        goal.options.max_tokens = max_tokens
        goal.timeout.sec = int(PATIENCE)
        if not self.action.wait_for_server(PATIENCE):
            raise RuntimeError("the node does not serve its action")
        return Goal(self, goal)

    def connect(self) -> None:
        """Wait until feedback arrives here: what the node sends before that connection stands is lost."""
        for _ in range(4):
            with contextlib.suppress(RuntimeError):  # a goal of which nothing was heard
                self.ask("Are you there?", 1, text_only=True).wait_for_token()
                return
        raise RuntimeError("the node answers, but its feedback does not arrive")

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service once."""
        client = self.node.create_client(kind, name)
        try:
            if not client.wait_for_service(PATIENCE):
                raise RuntimeError(f"nobody serves {name}")
            return self.complete(client.call_async(request))
        finally:
            self.node.destroy_client(client)


class Listener:
    """Messages of a topic and when they arrived (time.monotonic() seconds)."""

    def __init__(self, graph: RosGraph, kind: Any, topic: str, qos: QoSProfile | int = LATCHED) -> None:
        self._node = graph.node
        self._messages: queue.Queue[tuple[float, Any]] = queue.Queue()
        self._subscription = graph.node.create_subscription(kind, topic, self._on_message, qos)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._node.destroy_subscription(self._subscription)

    def wait_for(self, wanted: Callable[[Any], bool] = lambda _: True) -> tuple[float, Any]:
        """The next message for which ``wanted`` is true."""
        while True:
            when, message = self._messages.get(timeout=PATIENCE)
            if wanted(message):
                return when, message

    @property
    def waiting(self) -> bool:
        """Whether there is a message that was not waited for yet."""
        return not self._messages.empty()

    def _on_message(self, message: Any) -> None:
        self._messages.put((time.monotonic(), message))


def picture(seed: int, width: int = 640, height: int = 480) -> Image:
    """A picture of noise, rgb8; 640x480 takes 300 tokens."""
    pixels = np.random.default_rng(seed).integers(0, 256, width * height * 3, dtype=np.uint8)
    image = Image(height=height, width=width, encoding="rgb8", step=width * 3)
    image.data = pixels.tobytes()
    return image
