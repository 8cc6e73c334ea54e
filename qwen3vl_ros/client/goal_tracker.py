"""Keeps track of the goals that the client has sent: a client of the action AskImage.

The executor of its ROS node delivers the replies. Its own reader thread reads feedback from the middleware and checks
what no message reports: a node that appeared or disappeared, a lost reply.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from action_msgs.msg import GoalStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor

from qwen3vl_ros import defect
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.client.action_client import GoalClient, feedback_of
from qwen3vl_ros.client.answer import Answer, answer_of_result
from qwen3vl_ros.client.answer_future import AnswerFuture, Phase
from qwen3vl_ros.client.exceptions import (
    BadRequest,
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
from qwen3vl_ros.client.roll_call import RollCall
from qwen3vl_ros.client.service_call import unavailable
from qwen3vl_ros.ros.spinning import is_spun_here

if TYPE_CHECKING:
    from rclpy.node import Node

_CHECK_PERIOD = 0.1
"""Seconds between checks while a reply is pending: rclpy has no event for servers that appear or disappear."""

_SEARCH_PERIOD = 0.02
"""Seconds between checks while a goal or a caller waits for a node that is not found yet: it is asked sooner."""

_SETTLED_CHECK_PERIOD = 0.5
"""Seconds between checks while every goal is settled and the server is present."""

_MAX_ABSENCE = 0.25
"""Seconds for which every check finds no server until it counts as gone: its last result may still be in transit."""

_RESULT_DELAY = 1.0
"""Seconds from the status that a goal has ended to a repeated request for its result."""

_CANCEL_DELAY = 0.5
"""Seconds after which an unconfirmed cancel is sent again, and for which close() waits for confirmations."""

_LATE_ACCEPTANCE = 60.0
"""Seconds after the end of an unaccepted goal for which a late acceptance still makes the client cancel it."""

_STOP_CHECK = 1.0
"""Seconds between checks whether ROS was shut down or the ROS node destroyed, neither of which wakes a thread."""

_CLOSED = "The VlmClient is closed; make a new one."

_ENDED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)


@dataclass(slots=True)
class _OpenGoal:
    """A goal that has not ended. ``goal`` is set until it is sent; times are time.monotonic() seconds.

    ``servers``: on the ROS graph when it was sent, and those that have been looked into since.
    """

    future: AnswerFuture
    goal: AskImage.Goal | None
    accepted: bool = False
    servers: frozenset[bytes] = frozenset()
    cancel_due: float = math.inf
    result_due: float = math.inf
    forget_at: float = math.inf

    @property
    def is_settled(self) -> bool:
        """Whether the node accepted it and only the answer is pending: no cancel, no overdue result."""
        waits = min(self.cancel_due, self.result_due, self.forget_at) < math.inf
        return self.future.phase is Phase.ACCEPTED and not waits and not self.future.cancel_requested


class GoalTracker:
    """Sends goals to the node and applies its replies, feedback and statuses to their futures.

    Thread-safe. It never spins the ROS node; only its reader thread waits in the middleware.
    """

    def __init__(self, node: Node, action: str, server_timeout: float) -> None:
        self._node = node
        self._own_name = node.get_name()  # which a destroyed node cannot say any more
        self._server_timeout = server_timeout
        self._lock = threading.RLock()
        self._open_goals: dict[bytes, _OpenGoal] = {}
        self._server_waiters: list[threading.Event] = []
        self._closed = False
        self._check_due = math.inf
        self._absent_since = math.inf
        self._roll_call: RollCall | None = None
        self._executor_ran_at = 0.0
        group = MutuallyExclusiveCallbackGroup()
        self.action = node.resolve_service_name(action)
        self._action_client = GoalClient(node, self.action, group)
        self._executor_probe = node.create_guard_condition(self._note_executor_ran, callback_group=group)
        self._reader = threading.Thread(target=self._run_reader, name="vlm_client", daemon=True)
        self._reader.start()

    # Sending and cancelling.

    def send(self, future: AnswerFuture, goal: AskImage.Goal) -> None:
        """Send the goal, now or as soon as a node serves the action."""
        self._check_executor()
        key = uuid.uuid4().bytes
        with self._lock:
            if self._closed:
                raise ServerUnavailable(_CLOSED)
            open_goal = _OpenGoal(future, goal)
            if (stopped := self.explain_stopped()) is None:
                self._open_goals[key] = open_goal
                self._wake_reader()
        if stopped is not None:
            future.end(None, stopped)
        elif self._action_client.server_is_ready():
            self._send(key, open_goal)

    def _send(self, key: bytes, open_goal: _OpenGoal) -> None:
        if open_goal.future.done():
            return
        with self._lock:
            goal, open_goal.goal = open_goal.goal, None  # it may hold images
        if goal is not None:
            open_goal.future.mark_sent()
            open_goal.servers = self._action_client.servers()
            try:
                self._action_client.send(key, goal, lambda response: self._on_response(key, accepted=response.accepted))
            except (UnicodeError, TypeError, ValueError, AttributeError, AssertionError) as error:
                self._forget(key)
                open_goal.future.end(
                    None,
                    BadRequest(
                        f"The question cannot be sent: a field of a message in it (image, header) has a wrong value "
                        f"({type(error).__name__}: {error})."
                    ),
                )

    def cancel(self, future: AnswerFuture) -> None:
        """Ask the node to cancel an accepted goal."""
        with self._lock:
            accepted = (key for key, goal in self._open_goals.items() if goal.future is future and goal.accepted)
            key = next(accepted, None)
            self._wake_reader()
        if key is not None:
            self._cancel(key)

    def _cancel(self, key: bytes) -> threading.Event:
        """Ask the node to cancel a goal, accepted or not; the event is set once the node has confirmed it.

        The reply gets lost if the node has not discovered the client's half of the service yet, the request if the node
        is about to shut down: the reader thread sends it again.
        """
        confirmed = threading.Event()
        open_goal = self._open_goals.get(key)
        if open_goal is None or self.explain_stopped() is not None:
            confirmed.set()  # nothing to wait for
        else:
            open_goal.cancel_due = time.monotonic() + _CANCEL_DELAY
            self._action_client.cancel(key, lambda _: confirmed.set())
        return confirmed

    # Replies, on the executor's threads, several at the same time.

    def _on_response(self, key: bytes, *, accepted: bool) -> None:
        self._note_executor_ran()
        with self._lock:
            open_goal = self._open_goals.get(key)
            if open_goal is None or open_goal.accepted:
                return
            open_goal.accepted = accepted
        future = open_goal.future
        if not accepted:
            self._forget(key)
            future.end(
                None,
                ServerInactive(
                    f"The node that serves {self.action} does not take questions: it is not active. Activate it "
                    f"(`qwen3vl-ros lifecycle activate --node {self._node_name}`), or look at its log for why it is "
                    "not."
                ),
            )
            return
        future.mark_accepted()
        self._action_client.ask_result(key, lambda response: self._on_result(key, response))
        if future.cancel_requested or future.done():
            self._cancel(key)

    def _on_result(self, key: bytes, response: Any) -> None:
        self._note_executor_ran()
        open_goal = self._forget(key)
        if open_goal is None:
            return
        if response.status == GoalStatus.STATUS_UNKNOWN:
            open_goal.future.end(
                None,
                ServerLost(
                    f"The node that serves {self.action} does not know the question: it was started anew, or has "
                    "forgotten a result that did not get through for too long. Ask again."
                ),
            )
        else:
            open_goal.future.end(*_outcome(response.result, key.hex()))

    # The reader thread.

    def _run_reader(self) -> None:
        """Run the reader thread: read feedback as it arrives, and check the goals when that is due."""
        try:
            while not self._closed:
                # Neither a shutdown of ROS nor the destruction of the ROS node wakes this thread.
                self._read_feedback(min(_STOP_CHECK, max(0.0, self._check_due - time.monotonic())))
                if time.monotonic() >= self._check_due:
                    self._check_goals_safely()
        except (InvalidHandle, ExternalShutdownException):
            self._end_stopped()

    def _end_stopped(self) -> None:
        """End whatever waits here, after ROS was shut down or the ROS node was destroyed."""
        with self._lock:
            futures = [open_goal.future for open_goal in self._open_goals.values()]
            self._open_goals.clear()
            for waiter in self._server_waiters:
                waiter.set()
        for future in futures:
            future.end(None, self.explain_stopped())

    def _check_goals_safely(self) -> None:
        """Check the goals; a defect there ends the open goals, but not the thread, which later ones need."""
        try:
            self._check_goals()
        except (InvalidHandle, ExternalShutdownException):
            raise
        except Exception as error:
            if self.explain_stopped() is not None:
                raise ExternalShutdownException from error
            sentence = defect(f"{type(error).__name__}: {error}")
            for key in list(self._open_goals):
                if (open_goal := self._forget(key)) is not None:
                    open_goal.future.end(None, InternalError(sentence))

    def _read_feedback(self, timeout: float) -> None:
        """Apply the next feedback message to its future, if one arrives within ``timeout`` seconds.

        Raises:
            InvalidHandle: the ROS node was destroyed.
            ExternalShutdownException: ROS was shut down.
        """
        if (news := self._action_client.next_feedback(timeout)) is None:
            if not self._node.context.ok():
                raise ExternalShutdownException
            return
        key, serialized = news
        if (open_goal := self._open_goals.get(key)) is not None:
            open_goal.future.add_feedback(feedback_of(serialized))

    def _check_goals(self) -> None:
        """Do what is due for every open goal, and set when to check again."""
        with self._lock:
            open_goals, waiters = list(self._open_goals.items()), list(self._server_waiters)
        wanted = bool(waiters) or any(open_goal.goal is not None for _, open_goal in open_goals)
        ready = self._action_client.server_is_ready() if wanted else self._action_client.server_is_there()
        self._absent_since = math.inf if ready else min(self._absent_since, time.monotonic())
        for waiter in waiters if ready else ():
            waiter.set()
        self._apply_statuses()
        self._check_servers(open_goals)
        for key, open_goal in open_goals:
            self._check_goal(key, open_goal, ready=ready)
        with self._lock:
            settled = (
                ready
                and self._roll_call is None
                and not self._server_waiters
                and all(open_goal.is_settled for open_goal in self._open_goals.values())
            )
            if not settled:
                self._executor_probe.trigger()  # runs _note_executor_ran, if there is an executor
                self._check_due = time.monotonic() + (_SEARCH_PERIOD if wanted and not ready else _CHECK_PERIOD)
            else:
                self._check_due = time.monotonic() + _SETTLED_CHECK_PERIOD if self._open_goals else math.inf

    def _check_servers(self, open_goals: list[tuple[bytes, _OpenGoal]]) -> None:
        """End the goals of a node in whose place another was started: look into it when a new one is on the graph."""
        if self._roll_call is not None:
            if not self._roll_call.is_over():
                return
            roll_call, self._roll_call = self._roll_call, None
            roll_call.close()
            for key, open_goal in open_goals:
                if key in roll_call.missing:
                    open_goal.future.end(
                        None,
                        ServerLost(
                            f"The node that served {self.action} is gone and was started anew during the answer, which "
                            "is lost. Ask again; its log may say why it ended."
                        ),
                    )
        accepted = {key: goal for key, goal in open_goals if goal.future.phase is Phase.ACCEPTED}
        servers = self._action_client.servers() if accepted else frozenset()
        doubtful = {key for key, open_goal in accepted.items() if servers - open_goal.servers}
        for key in doubtful:
            accepted[key].servers |= servers
        if doubtful:
            self._roll_call = RollCall(self._node, self._action_client.status_topic, doubtful)

    def _check_goal(self, key: bytes, open_goal: _OpenGoal, *, ready: bool) -> None:
        future, now = open_goal.future, time.monotonic()
        gone = now - self._absent_since >= _MAX_ABSENCE
        if future.done():
            # Keep a goal that is not accepted yet, to cancel it if the node still accepts it.
            open_goal.forget_at = min(open_goal.forget_at, now + _LATE_ACCEPTANCE)
            if open_goal.goal is not None or open_goal.accepted or gone or now > open_goal.forget_at:
                self._forget(key)
        elif ready and future.phase is Phase.WAITING_SERVER:
            self._send(key, open_goal)
        elif gone and future.phase is Phase.ACCEPTED:
            future.end(None, ServerLost(f"The node that serves {self.action} vanished during the answer."))
        elif future.cancel_requested and now > open_goal.cancel_due:
            self._cancel(key)
        elif now > open_goal.result_due:
            open_goal.result_due = now + _RESULT_DELAY
            self._action_client.ask_result(key, lambda response: self._on_result(key, response))

    def _apply_statuses(self) -> None:
        """Mark goals as accepted that the node lists although its response got lost; set when results are overdue.

        A node that has not discovered the client's half of a service yet drops its response (rclpy warns "client will
        not receive response"). Its status, which is latched, arrives all the same.
        """
        for key, status in self._action_client.new_statuses().items():
            open_goal = self._open_goals.get(key)
            if open_goal is None:
                continue
            if status in _ENDED:
                open_goal.result_due = min(open_goal.result_due, time.monotonic() + _RESULT_DELAY)
            self._on_response(key, accepted=True)

    def _forget(self, key: bytes) -> _OpenGoal | None:
        with self._lock:
            open_goal = self._open_goals.pop(key, None)
        self._action_client.forget(key)
        return open_goal

    # Waiting, and errors about it.

    def wait_for_server(self, timeout: float) -> None:
        """Return as soon as a node serves the action; raise ServerUnavailable after ``timeout`` seconds."""
        if self._action_client.server_is_ready():
            return
        self.check_usable()
        self._check_executor()
        self.check_may_block()
        waiter = threading.Event()
        with self._lock:
            self._server_waiters.append(waiter)
            self._wake_reader()
        since = time.monotonic()
        try:
            arrived = waiter.wait(timeout)
            self.check_usable()
            if not arrived:
                raise self._unavailable(since, timeout)
        finally:
            with self._lock:
                self._server_waiters.remove(waiter)

    def check_may_block(self) -> None:
        """Raise WouldDeadlock if this thread is the one that must receive the awaited message."""
        executor = self._node.executor
        if executor is None or isinstance(executor, MultiThreadedExecutor):
            return  # its callbacks run on threads of a pool, ours in a callback group of their own
        if is_spun_here(executor):
            raise WouldDeadlock(
                f"This call waits for an answer inside a callback of node {self._own_name}, on the only thread "
                "that could deliver it. Use send() and check done() of its future in later callbacks, spin the node "
                "with a MultiThreadedExecutor, or make the client with VlmClient() so that it has a thread of its own."
            )

    def _check_executor(self) -> None:
        """Refuse rclpy's experimental EventsExecutor: in rclpy 9.1 it deadlocks when another thread wakes it."""
        executor = self._node.executor
        if executor is not None and not isinstance(executor, Executor):
            raise WouldDeadlock(
                f"Node {self._own_name} is spun by a {type(executor).__name__}, which deadlocks when another "
                "thread sends something. Make the client with VlmClient() so that it has a node of its own, or spin "
                "with a SingleThreadedExecutor or MultiThreadedExecutor."
            )

    def explain_stopped(self) -> VlmError | None:
        """Return an error once ROS was shut down or the ROS node destroyed: no message can arrive; None before."""
        if not self._node.context.ok():
            return Cancelled("ROS was shut down in this process before the answer was complete.")
        if self._action_client.is_destroyed():
            return Cancelled(
                f"The ROS node {self._own_name}, which the client was given, was destroyed before the answer was "
                "complete. Make a new VlmClient with another node, and close it before that node is destroyed."
            )
        return None

    def check_usable(self) -> None:
        """Raise an error if the client is closed, or for the reason of :meth:`explain_stopped`."""
        if self._closed:
            raise ServerUnavailable(_CLOSED)
        if (stopped := self.explain_stopped()) is not None:
            raise stopped

    def explain_overdue(self, future: AnswerFuture, phase: Phase) -> VlmError:
        """Return why the future's deadline passed."""
        if phase is Phase.ACCEPTED:
            return ServerLost(
                f"The node that serves {self.action} took the question and sent no result, although its time "
                f"({future.timeout:g} s) has run out. It hangs or is out of reach; look at its log and restart it."
            )
        since = time.monotonic() - self._server_timeout
        if phase is Phase.SENT and self._executor_ran_at >= since:
            return unavailable(
                f"A node serves {self.action}, but did not say within {self._server_timeout:g} s whether it takes the "
                "question. It hangs or the network loses its replies; look at its log."
            )
        return self._unavailable(since, self._server_timeout)

    def _unavailable(self, since: float, waited: float) -> VlmError:
        if self._executor_ran_at < since:
            return NotSpinning(
                f"Nothing ran the callbacks of node {self._own_name} for {waited:g} s, so no answer can arrive. "
                "Spin it in another thread (`threading.Thread(target=rclpy.spin, args=(node,)).start()`); if it does "
                "spin, all of its executor's threads are busy."
            )
        settings = ", ".join(
            f"{name}={os.environ.get(name, fallback)}"
            for name, fallback in (("ROS_DOMAIN_ID", "0"), ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET"))
        )
        return unavailable(
            f"No node serves the action {self.action}; waited {waited:g} s ({settings}). Start one with `qwen3vl-ros "
            "node` or `ros2 launch qwen3vl_ros vlm.launch.py`; if one runs, give both sides the same settings."
        )

    def close(self) -> None:
        """End every open goal as Cancelled, on the node as well, and remove all entities from the ROS node."""
        with self._lock:
            self._closed = True
            open_goals = list(self._open_goals.items())
        for _, open_goal in open_goals:
            open_goal.future.end(None, Cancelled("The VlmClient was closed before the answer was complete."))
        # Cancel all goals that were sent: the node may have accepted one whose response got lost.
        confirmations = [self._cancel(key) for key, open_goal in open_goals if open_goal.goal is None]
        self._await_cancels(confirmations)
        for key, _ in open_goals:
            self._forget(key)
        self._stop_reader()
        if self._node.context.ok():
            if self._roll_call is not None:
                self._roll_call.close()
            self._node.destroy_guard_condition(self._executor_probe)
            self._action_client.destroy()

    def _await_cancels(self, confirmations: list[threading.Event]) -> None:
        """Wait briefly, unless this thread must not: a request may get lost if its client is destroyed at once."""
        with contextlib.suppress(WouldDeadlock):
            self.check_may_block()
            end = time.monotonic() + _CANCEL_DELAY
            for confirmed in confirmations:
                confirmed.wait(max(0.0, end - time.monotonic()))

    @property
    def _node_name(self) -> str:
        return self.action.rsplit("/", 1)[0]

    def _wake_reader(self) -> None:
        """Wake the reader thread so that it checks the goals."""
        with self._lock:
            self._check_due = 0.0
        self._action_client.wake()

    def _stop_reader(self) -> None:
        """Stop the reader thread, so that it does not wait in the middleware during its shutdown."""
        self._action_client.wake()
        if self._reader is not threading.current_thread():  # a callback of on_change() may close the client
            self._reader.join()

    def _note_executor_ran(self) -> None:
        self._executor_ran_at = time.monotonic()


def _outcome(result: AskImage.Result, goal_id: str) -> tuple[Answer | None, VlmError | None]:
    try:
        answer = answer_of_result(result, goal_id)
    except (ValueError, RecursionError) as error:
        return None, InternalError(f"the node's result has JSON that is none: {error}. Please report it.")
    if result.error_code == AskImage.Result.NONE:
        return answer, None
    return None, error_of_code(result.error_code)(result.error_msg, text=answer.text, answer=answer)
