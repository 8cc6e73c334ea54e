"""The link between questions and the node: a client of the action, driven by whoever spins the ROS node it lives in."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from action_msgs.msg import GoalStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, MultiThreadedExecutor

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.asking.answer import Answer, answer_of_result
from qwen3vl_ros.asking.exceptions import (
    Cancelled,
    InternalError,
    NotSpinning,
    ServerInactive,
    ServerLost,
    ServerUnavailable,
    VlmError,
    WouldDeadlock,
    error_of_code,
)
from qwen3vl_ros.asking.goal_client import GoalClient
from qwen3vl_ros.asking.question import Phase, Question

if TYPE_CHECKING:
    from rclpy.node import Node

_WATCH_PERIOD = 0.1
"""Seconds between looks at the graph, while a question is open: rclpy has no event for a server that comes or goes."""

_ABSENT_LOOKS = 3
"""Looks in a row without a server before it counts as gone: its last result may be on the way when it leaves."""

_RESULT_DELAY = 1.0
"""Seconds from the status that a question has ended to asking again for its result, if that has not come."""

_CANCEL_DELAY = 0.5
"""Seconds after which a cancel that has had no effect is sent again, and that closing waits for confirmations."""

_ENDED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)


class Link:
    """Carries questions to the node and their answers back. It never spins and never blocks."""

    def __init__(self, node: Node, action: str, server_timeout: float) -> None:
        self._node = node
        self._server_timeout = server_timeout
        self._lock = threading.RLock()
        self._open: dict[bytes, tuple[Question, AskImage.Goal | None]] = {}
        self._accepted: set[bytes] = set()
        self._result_due: dict[bytes, float] = {}
        self._cancel_due: dict[bytes, float] = {}
        self._server_waiters: list[threading.Event] = []
        self._closed = False
        self._absent = 0
        self._ran_at = 0.0
        group = MutuallyExclusiveCallbackGroup()
        self.action = node.resolve_service_name(action)
        self._client = GoalClient(node, self.action, self._on_feedback, group)
        # Steady: a simulated clock that stands still must not stop it.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._watch = node.create_timer(_WATCH_PERIOD, self._look, callback_group=group, clock=clock)
        self._watch.cancel()

    # Questions on their way out.

    def send(self, question: Question, goal: AskImage.Goal) -> None:
        """Send the goal, now or as soon as a node serves the action."""
        self._check_executor()
        key = uuid.uuid4().bytes
        with self._lock:
            if self._closed:
                raise ServerUnavailable("The VlmClient is closed; make a new one.")
            self._open[key] = (question, goal)
            if self.explain_stopped() is None:
                self._start_watch()
        if self.explain_stopped() is None and self._client.server_is_ready():
            self._send(key)

    def _send(self, key: bytes) -> None:
        with self._lock:
            question, goal = self._open.get(key, (None, None))
            if question is None or goal is None or question.done():
                return
            self._open[key] = (question, None)  # it may hold pictures
        question.mark_sent()
        self._client.send(key, goal).add_done_callback(
            lambda response: self._on_response(key, question, accepted=response.result().accepted)
        )

    def cancel(self, question: Question) -> None:
        """Ask the node to cancel an accepted goal."""
        with self._lock:
            key = next((key for key, (asked, _) in self._open.items() if asked is question), None)
        if key in self._accepted:
            self._cancel(key)

    def _cancel(self, key: bytes) -> Any:
        """Send the request; its future, None where ROS was shut down. Also for a goal that was not heard to be taken.

        What the node answers before it has discovered our half of the service, or is asked in the moment of closing,
        gets lost: whoever needs the cancel looks again.
        """
        if not self._node.context.ok():
            return None
        self._cancel_due[key] = time.monotonic() + _CANCEL_DELAY
        return self._client.cancel(key)

    # What comes back, on the executor's thread.

    def _on_response(self, key: bytes, question: Question, *, accepted: bool) -> None:
        self._ran()
        if not accepted:
            self._forget(key)
            question.end(
                None,
                ServerInactive(
                    f"The node that serves {self.action} does not take questions: it is not active. Activate it "
                    f"(`ros2 lifecycle set {self._node_name} activate`), or look at its log for why it is not."
                ),
            )
            return
        with self._lock:
            if key in self._accepted or key not in self._open:
                return
            self._accepted.add(key)
        question.mark_accepted()
        self._ask_result(key, question)
        if question.cancel_requested or question.done():
            self._cancel(key)

    def _ask_result(self, key: bytes, question: Question) -> None:
        result = self._client.ask_result(key)
        result.add_done_callback(lambda response: self._on_result(key, question, response.result()))

    def _on_feedback(self, key: bytes, feedback: AskImage.Feedback) -> None:
        self._ran()
        asked = self._open.get(key)
        if asked is not None:
            asked[0].add_feedback(feedback)

    def _on_result(self, key: bytes, question: Question, response: Any) -> None:
        self._ran()
        self._forget(key)
        if response.status == GoalStatus.STATUS_UNKNOWN:
            question.end(
                None,
                ServerLost(
                    f"The node that serves {self.action} does not know the question: it was started anew, or has "
                    "forgotten a result that did not get through for too long. Ask again."
                ),
            )
        else:
            question.end(*_outcome(response.result))

    def _look(self) -> None:
        """What the timer does while a question is open."""
        self._ran()
        ready = self._client.server_is_ready()
        self._absent = 0 if ready else self._absent + 1
        with self._lock:
            asked = list(self._open.items())
            if ready:
                for waiter in self._server_waiters:
                    waiter.set()
        self._look_at_statuses()
        for key, (question, goal) in asked:
            if question.done():
                # A node that has not said yet whether it takes the question is told to stop when it does.
                if goal is not None or key in self._accepted or self._absent >= _ABSENT_LOOKS:
                    self._forget(key)
            elif ready and question.phase is Phase.WAITING_SERVER:
                self._send(key)
            elif self._absent >= _ABSENT_LOOKS and question.phase is Phase.ACCEPTED:
                question.end(None, ServerLost(f"The node that serves {self.action} vanished during the answer."))
            elif question.cancel_requested and time.monotonic() > self._cancel_due.get(key, math.inf):
                self._cancel(key)
            elif time.monotonic() > self._result_due.get(key, math.inf):
                self._result_due[key] = time.monotonic() + _RESULT_DELAY
                self._ask_result(key, question)
        with self._lock:
            if not self._open and not self._server_waiters:
                self._watch.cancel()

    def _look_at_statuses(self) -> None:
        """Take a goal as accepted that the node lists, though nobody told us; ask again for a result that is overdue.

        A node that has not discovered our half of a service yet when it answers drops that answer (rclpy warns
        "client will not receive response"). Its status, which is latched, comes all the same.
        """
        for key, status in self._client.new_statuses().items():
            asked = self._open.get(key)
            if asked is None:
                continue
            if status in _ENDED:
                self._result_due.setdefault(key, time.monotonic() + _RESULT_DELAY)
            self._on_response(key, asked[0], accepted=True)

    def _forget(self, key: bytes) -> None:
        with self._lock:
            self._open.pop(key, None)
            self._accepted.discard(key)
            self._result_due.pop(key, None)
            self._cancel_due.pop(key, None)

    # Waiting, and why not.

    def wait_for_server(self, timeout: float) -> None:
        """Return as soon as a node serves the action; ServerUnavailable after ``timeout`` seconds."""
        if self._client.server_is_ready():
            return
        self._check_executor()
        self.check_may_block()
        waiter = threading.Event()
        with self._lock:
            self._server_waiters.append(waiter)
            self._start_watch()
        since = time.monotonic()
        try:
            if not waiter.wait(timeout):
                raise self._unavailable(since, timeout)
        finally:
            with self._lock:
                self._server_waiters.remove(waiter)

    def check_may_block(self) -> None:
        """Raise WouldDeadlock when this thread is the one that must bring what would be waited for."""
        executor = self._node.executor
        if executor is None or isinstance(executor, MultiThreadedExecutor):
            return  # its callbacks run on threads of a pool, ours in a callback group of their own
        frame = inspect.currentframe()
        while frame is not None and not ("spin" in frame.f_code.co_name and frame.f_locals.get("self") is executor):
            frame = frame.f_back
        if frame is not None:
            raise WouldDeadlock(
                f"This call waits for an answer inside a callback of node {self._node.get_name()}, on the only thread "
                "that could deliver it. Use send() and look at the question's done() in later callbacks, spin the node "
                "with a MultiThreadedExecutor, or make the client with VlmClient() so that it has a thread of its own."
            )

    def _check_executor(self) -> None:
        """Refuse rclpy's experimental EventsExecutor: in rclpy 9.1 it deadlocks when another thread wakes it."""
        executor = self._node.executor
        if executor is not None and not isinstance(executor, Executor):
            raise WouldDeadlock(
                f"Node {self._node.get_name()} is spun by a {type(executor).__name__}, which deadlocks when another "
                "thread sends something. Make the client with VlmClient() so that it has a node of its own, or spin "
                "with a SingleThreadedExecutor or MultiThreadedExecutor."
            )

    def explain_stopped(self) -> VlmError | None:
        """Why nothing can come any more: ROS was shut down in this process. None while it can."""
        if self._node.context.ok():
            return None
        return Cancelled("ROS was shut down in this process before the answer was complete.")

    def explain_overdue(self, question: Question, phase: Phase) -> VlmError:
        """Why nothing came by the question's deadline."""
        if phase is Phase.ACCEPTED:
            return ServerLost(
                f"The node that serves {self.action} took the question and sent no result, although its time "
                f"({question.timeout:g} s) has run out. It hangs or is out of reach; look at its log and restart it."
            )
        since = time.monotonic() - self._server_timeout
        if phase is Phase.SENT and self._ran_at >= since:
            return ServerUnavailable(
                f"A node serves {self.action}, but did not say within {self._server_timeout:g} s whether it takes the "
                "question. It hangs or the network loses its replies; look at its log."
            )
        return self._unavailable(since, self._server_timeout)

    def _unavailable(self, since: float, waited: float) -> VlmError:
        if self._ran_at < since:
            return NotSpinning(
                f"Nothing ran the callbacks of node {self._node.get_name()} for {waited:g} s, so no answer can arrive. "
                "Spin it in another thread (`threading.Thread(target=rclpy.spin, args=(node,)).start()`); if it does "
                "spin, all of its executor's threads are busy."
            )
        settings = ", ".join(
            f"{name}={os.environ.get(name, fallback)}"
            for name, fallback in (("ROS_DOMAIN_ID", "0"), ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET"))
        )
        return ServerUnavailable(
            f"No node serves the action {self.action}; waited {waited:g} s ({settings}). Start one with `qwen3vl-ros "
            "node` or `ros2 launch qwen3vl_ros vlm.launch.py`; if one runs, give both sides the same settings."
        )

    def close(self) -> None:
        """End every open question as Cancelled (asking the node to stop) and leave the ROS node as it was."""
        with self._lock:
            self._closed = True
            asked = list(self._open.items())
        # Of those that were sent; the node may have taken one without our having heard so.
        cancels = [self._cancel(key) for key, (_, goal) in asked if goal is None]
        for _, (question, _) in asked:
            question.end(None, Cancelled("The VlmClient was closed before the answer was complete."))
        self._wait_for([future for future in cancels if future is not None])
        if self._node.context.ok():
            self._node.destroy_timer(self._watch)
            self._client.destroy()

    def _wait_for(self, futures: list[Any]) -> None:
        """For a moment, where this thread may: a request may get lost when its client is gone at once."""
        with contextlib.suppress(WouldDeadlock):
            self.check_may_block()
            end = time.monotonic() + _CANCEL_DELAY
            for future in futures:
                confirmed = threading.Event()
                future.add_done_callback(lambda _, confirmed=confirmed: confirmed.set())
                confirmed.wait(max(0.0, end - time.monotonic()))

    @property
    def _node_name(self) -> str:
        return self.action.rsplit("/", 1)[0]

    def _start_watch(self) -> None:
        if not self._watch.is_canceled():
            return
        self._watch.reset()
        if (executor := self._node.executor) is not None:
            executor.wake()

    def _ran(self) -> None:
        self._ran_at = time.monotonic()


def _outcome(result: AskImage.Result) -> tuple[Answer | None, VlmError | None]:
    try:
        answer = answer_of_result(result)
    except ValueError as error:
        return None, InternalError(f"the node's result has JSON that is none: {error}. Please report it.")
    if result.error_code == AskImage.Result.NONE:
        return answer, None
    return None, error_of_code(result.error_code)(result.error_msg, text=answer.text, answer=answer)
