"""A vlm node of a few lines whose answers a test writes: a real action server on real DDS, in its own context."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from qwen3vl_ros.action import AskImage
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.ros.spinning import SpinThread

Script = Callable[["Goal"], AskImage.Result]
WAIT = 30.0
"""Seconds after which an event that a test waits for has failed to come."""


class Goal:
    """One goal on the server's side: what was asked, and what the script says about it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.request: AskImage.Goal = handle.request
        self.cancelled = threading.Event()
        self.sequence = 0
        self.text = ""

    def say(self, delta: str, *, lost: bool = False, thin: bool = False, **fields: Any) -> None:
        """Publish a feedback message; ``lost``: only count it; ``thin``: leave the full text out."""
        self.text += delta
        if not lost:
            feedback = AskImage.Feedback(sequence=self.sequence, delta=delta, text="" if thin else self.text)
            feedback.stage = AskImage.Feedback.STAGE_DECODE
            feedback.completion_tokens = self.sequence + 1
            for name, value in fields.items():
                setattr(feedback, name, value)
            self.handle.publish_feedback(feedback)
        self.sequence += 1

    def result(self, code: int = AskImage.Result.NONE, message: str = "", **fields: Any) -> AskImage.Result:
        """A result with the text said so far."""
        values = {"text": self.text, "finish_reason": "stop" if code == AskImage.Result.NONE else "cancelled"}
        return AskImage.Result(error_code=code, error_msg=message, **(values | fields))


class ScriptedVlm:
    """Serves ask_image; ``script`` is called with each goal, ``accept`` says whether one is taken.

    ``result_timeout``: seconds after which it forgets the result of a goal.
    """

    def __init__(self, script: Script | None = None, *, namespace: str = "", result_timeout: int = 60) -> None:
        self.rewrite(script)
        self._by_id: dict[bytes, Goal] = {}
        self._vanished = False
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("vlm", context=self._context, namespace=namespace)
        self._executor = MultiThreadedExecutor(num_threads=8, context=self._context)
        self._executor.add_node(self.node)
        self._server = ActionServer(
            self.node, AskImage, "~/ask_image", self._execute, callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda request: GoalResponse.ACCEPT if self.accept(request) else GoalResponse.REJECT,
            handle_accepted_callback=self._accepted, cancel_callback=self._cancel,
            result_timeout=result_timeout,
        )  # fmt: skip
        self._feedback = self.node.create_publisher(AskImage.Impl.FeedbackMessage, "~/ask_image/_action/feedback", 10)
        self._spinning = SpinThread(self._executor, "scripted_vlm")
        self._spinning.start()

    def rewrite(self, script: Script | None = None) -> None:
        """Forget the goals so far and answer with ``script``; with "yes" without one."""
        self.script: Script = script or (lambda goal: goal.result(text="yes"))
        self.accept: Callable[[AskImage.Goal], bool] = lambda request: True
        self.goals: list[Goal] = []

    def _accepted(self, handle: Any) -> None:
        self.goals.append(self._goal(handle))
        handle.execute()

    def _goal(self, handle: Any) -> Goal:
        """The goal of ``handle``; a cancel may come, on another thread, before the goal counts as accepted."""
        return self._by_id.setdefault(bytes(handle.goal_id.uuid), Goal(handle))

    def _cancel(self, handle: Any) -> CancelResponse:
        self._goal(handle).cancelled.set()
        return CancelResponse.ACCEPT

    def _execute(self, handle: Any) -> AskImage.Result:
        goal = self._goal(handle)
        self._wait_for_a_listener()
        result = self.script(goal)
        if result.error_code == AskImage.Result.NONE:
            handle.succeed()
        elif result.error_code == AskImage.Result.CANCELLED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    def _wait_for_a_listener(self) -> None:
        """A client's goal may come before its subscription to feedback is matched; what is said then is lost.

        rclpy tells a publisher's matches, and not those of an action server. The publisher asked here is of the
        same participant, topic and type: it is matched when the server's own is. The graph knows a subscription
        earlier than that.
        """
        end = time.monotonic() + WAIT
        clients = f"{self.node.resolve_topic_name('~/ask_image')}/_action/send_goal"
        while time.monotonic() < end:
            if self._feedback.get_subscription_count() >= max(1, self.node.count_clients(clients)):
                return
            time.sleep(0.01)

    def vanish(self) -> None:
        """Leave the graph, whatever the script is doing."""
        if not self._vanished:
            self._vanished = True
            self._server.destroy()

    def close(self) -> None:
        """Stop. A script that waits for a cancel, because its test has failed, gets one."""
        for goal in list(self._by_id.values()):
            goal.cancelled.set()
        self._spinning.stop()
        self.vanish()
        self.node.destroy_node()
        self._context.shutdown()


def until_cancelled(goal: Goal) -> AskImage.Result:
    """A script that says one word and then waits for its end."""
    goal.say("red")
    assert goal.cancelled.wait(WAIT)
    return goal.result(AskImage.Result.CANCELLED, "A client cancelled the question.")


if __name__ == "__main__":  # with a namespace: a node to be killed
    ScriptedVlm(until_cancelled, namespace=sys.argv[1])
    threading.Event().wait()
