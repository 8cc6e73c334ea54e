"""A node of our own in the graph of the node under test: requests that are not lost, messages to be waited for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import rclpy
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import VlmStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from unique_identifier_msgs.msg import UUID

from qwen3vl_ros.ros.requests import REQUESTS
from qwen3vl_ros.ros.spinning import SpinThread

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FEEDBACK = QoSProfile(depth=1000)


class RosNode:
    """Node, executor thread, and clients of what the node ``vlm`` serves.

    What waits raises RuntimeError after ``patience`` seconds.
    """

    def __init__(self, name: str, patience: float) -> None:
        self.name = name
        self.patience = patience

    def __enter__(self) -> Any:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(
            self.name, context=self.context, start_parameter_services=False, enable_rosout=False
        )  # as VlmClient does: what nobody asks for costs time with every message
        self.action = ActionClient(self.node, AskImage, "/vlm/ask_image", feedback_sub_qos_profile=FEEDBACK)
        self._services: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._spinning = SpinThread(self._executor, self.name)
        self._spinning.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._spinning.stop()
        self.node.destroy_node()
        self.context.try_shutdown()

    def on_executor(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns or raises on the executor's thread.

        rclpy notes what it asked an action only after it was sent; handled by another thread, a quick answer would
        find nobody who waits for it. And an executor that comes upon a subscription or publisher that another thread
        has just destroyed raises.
        """
        outcome: Future[Any] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except Exception as error:  # noqa: BLE001 the caller gets it
                outcome.set_exception(error)

        self._executor.create_task(run)
        return outcome.result(self.patience)

    def complete(self, future: Any) -> Any:
        """The result of a rclpy future that the background thread completes."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(self.patience):
            raise RuntimeError(f"no response for {self.patience:g} s")
        return future.result()

    def meet(self) -> None:
        """Wait until the node ``vlm`` knows whatever was created here until now.

        What it sends to somebody whom it has not discovered yet is lost, replies of its services included, and ROS
        has no call that says whether it has. But it hears of us in the order in which we create: when a message
        comes on a subscription that is made now, it knows all that was made before.
        """
        with self.status() as status:
            status.wait_for()

    def send_goal(
        self, goal: AskImage.Goal, goal_id: UUID, on_feedback: Callable[[Any], None] | None = None
    ) -> tuple[Any, float]:
        """The handle of a goal that was accepted or rejected, and the time.monotonic() at which it was sent."""
        self.meet()
        if not self.action.wait_for_server(self.patience):
            raise RuntimeError("the node does not serve its action")
        when, accepted = self.on_executor(
            lambda: (time.monotonic(), self.action.send_goal_async(goal, on_feedback, goal_id))
        )
        return self.complete(accepted), when

    def send(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service of the node ``vlm``; a future for :meth:`complete`."""
        if name not in self._services:
            self._services[name] = self.node.create_client(kind, name, qos_profile=REQUESTS)
        self.meet()
        if not self._services[name].wait_for_service(self.patience):
            raise RuntimeError(f"nobody serves {name}")
        return self._services[name].call_async(request)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The response of a service of the node ``vlm``."""
        return self.complete(self.send(kind, name, request))

    def call_together(self, kind: Any, name: str, requests: Sequence[Any]) -> list[Any]:
        """The responses of a service of the node ``vlm`` to requests that are sent without waiting for any."""
        first = self.call(kind, name, requests[0])  # it knows us from then on
        call = self._services[name].call_async
        sent = self.on_executor(lambda: [call(request) for request in requests[1:]])
        return [first, *map(self.complete, sent)]

    def listen(self, kind: Any, topic: str, qos: QoSProfile | int = 10) -> Listener:
        """What the node ``vlm`` publishes on a topic from now on."""
        listener = Listener(self, kind, topic, qos)
        self.meet()
        return listener

    def status(self) -> Listener:
        """The newest status of the node ``vlm``, and those that follow."""
        return Listener(self, VlmStatus, "/vlm/status", LATCHED)


class Listener:
    """Messages of a topic, to be waited for. ``when``: time.monotonic() of the arrival of the one returned last."""

    def __init__(self, ros: RosNode, kind: Any, topic: str, qos: QoSProfile | int) -> None:
        self._ros = ros
        self._topic = topic
        self._messages: queue.Queue[tuple[float, Any]] = queue.Queue()
        self._subscription = ros.node.create_subscription(kind, topic, self._on_message, qos)
        self.when = 0.0

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._ros.on_executor(lambda: self._ros.node.destroy_subscription(self._subscription))

    def _on_message(self, message: Any) -> None:
        self._messages.put((time.monotonic(), message))

    @property
    def waiting(self) -> bool:
        """Whether a message has arrived that was not waited for yet."""
        return not self._messages.empty()

    def wait_for(self, wanted: Callable[[Any], Any] = lambda message: True) -> Any:
        """The next message for which ``wanted`` is true."""
        while True:
            try:
                self.when, message = self._messages.get(timeout=self._ros.patience)
            except queue.Empty:
                raise RuntimeError(f"no such message on {self._topic} for {self._ros.patience:g} s") from None
            if wanted(message):
                return message
