"""The link between questions and the node: a client of the action.

Whoever spins the ROS node it lives in brings the replies. A reader thread of its own reads feedback from the middleware
and looks after what nobody brings: a node that comes or goes, a reply that was lost.
"""

from __future__ import annotations

import contextlib
import inspect
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

if TYPE_CHECKING:
    from rclpy.node import Node

_LOOK_PERIOD = 0.1
"""Seconds between looks at the graph, while something is awaited: rclpy has no event for servers that come or go."""

_CALM_PERIOD = 0.5
"""The same while all is well: every question is being answered, and the server is there."""

_ABSENT_LOOKS = 3
"""Looks in a row without a server before it counts as gone: its last result may be on the way when it leaves."""

_RESULT_DELAY = 1.0
"""Seconds from the status that a question has ended to asking again for its result, if that has not come."""

_CANCEL_DELAY = 0.5
"""Seconds after which a cancel that has had no effect is sent again, and that closing waits for confirmations."""

_LATE = 60.0
"""Seconds after the end of a question in which the node may still say that it takes it, and is told to stop."""

_SHUTDOWN_CHECK = 1.0
"""Seconds between looks whether ROS was shut down."""

_ENDED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)


@dataclass(slots=True)
class _Open:
    """A question on its way. ``goal`` until it is sent; times are time.monotonic() seconds."""

    question: AnswerFuture
    goal: AskImage.Goal | None
    accepted: bool = False
    cancel_due: float = math.inf
    result_due: float = math.inf
    forget_at: float = math.inf

    @property
    def is_calm(self) -> bool:
        """Whether it is being answered, and nothing about it is awaited but the answer."""
        waits = min(self.cancel_due, self.result_due, self.forget_at) < math.inf
        return self.question.phase is Phase.ACCEPTED and not waits and not self.question.cancel_requested


class Link:
    """Carries questions to the node and their answers back. It never spins, and blocks on its reader thread alone."""

    def __init__(self, node: Node, action: str, server_timeout: float) -> None:
        self._node = node
        self._server_timeout = server_timeout
        self._lock = threading.RLock()
        self._open: dict[bytes, _Open] = {}
        self._server_waiters: list[threading.Event] = []
        self._closed = False
        self._look_due = math.inf
        self._absent = 0
        self._ran_at = 0.0
        group = MutuallyExclusiveCallbackGroup()
        self.action = node.resolve_service_name(action)
        self._client = GoalClient(node, self.action, group)
        self._spun = node.create_guard_condition(self._ran, callback_group=group)
        self._thread = threading.Thread(target=self._attend, name="vlm_client", daemon=True)
        self._thread.start()

    # Questions on their way out.

    def send(self, question: AnswerFuture, goal: AskImage.Goal) -> None:
        """Send the goal, now or as soon as a node serves the action."""
        self._check_executor()
        key = uuid.uuid4().bytes
        with self._lock:
            if self._closed:
                raise ServerUnavailable("The VlmClient is closed; make a new one.")
            asked = self._open[key] = _Open(question, goal)
            if self.explain_stopped() is not None:
                return
            self._look_now()
        if self._client.server_is_ready():
            self._send(key, asked)

    def _send(self, key: bytes, asked: _Open) -> None:
        if asked.question.done():
            return
        with self._lock:
            goal, asked.goal = asked.goal, None  # it may hold pictures
        if goal is not None:
            asked.question.mark_sent()
            try:
                self._client.send(key, goal, lambda response: self._on_response(key, accepted=response.accepted))
            except (UnicodeError, TypeError, ValueError, AttributeError, AssertionError) as error:
                self._forget(key)
                asked.question.end(
                    None,
                    BadRequest(
                        f"The question cannot be sent: a field of a message in it (image, header) has a wrong value "
                        f"({type(error).__name__}: {error})."
                    ),
                )

    def cancel(self, question: AnswerFuture) -> None:
        """Ask the node to cancel an accepted goal."""
        with self._lock:
            key = next(
                (key for key, asked in self._open.items() if asked.question is question and asked.accepted), None
            )
            self._look_now()
        if key is not None:
            self._cancel(key)

    def _cancel(self, key: bytes) -> threading.Event:
        """Also for a goal that was not heard to be taken; the event is set once the node has confirmed it.

        What the node answers before it has discovered our half of the service, or is asked in the moment of closing,
        gets lost: whoever needs the cancel looks again.
        """
        confirmed = threading.Event()
        asked = self._open.get(key)
        if asked is None or not self._node.context.ok():
            confirmed.set()  # there is nothing to wait for
        else:
            asked.cancel_due = time.monotonic() + _CANCEL_DELAY
            self._client.cancel(key, lambda _: confirmed.set())
        return confirmed

    # What comes back: replies on the executor's thread, with several of them at the same time; the rest elsewhere.

    def _on_response(self, key: bytes, *, accepted: bool) -> None:
        self._ran()
        with self._lock:
            asked = self._open.get(key)
            if asked is None or asked.accepted:
                return
            asked.accepted = accepted
        question = asked.question
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
        question.mark_accepted()
        self._client.ask_result(key, lambda response: self._on_result(key, response))
        if question.cancel_requested or question.done():
            self._cancel(key)

    def _on_result(self, key: bytes, response: Any) -> None:
        self._ran()
        asked = self._forget(key)
        if asked is None:
            return
        if response.status == GoalStatus.STATUS_UNKNOWN:
            asked.question.end(
                None,
                ServerLost(
                    f"The node that serves {self.action} does not know the question: it was started anew, or has "
                    "forgotten a result that did not get through for too long. Ask again."
                ),
            )
        else:
            asked.question.end(*_outcome(response.result))

    def _attend(self) -> None:
        """Run the reader thread: read feedback as it comes, and look around when that is due."""
        with contextlib.suppress(InvalidHandle, ExternalShutdownException):
            while not self._closed:
                # Nobody wakes this thread when ROS is shut down.
                self._take_feedback(min(_SHUTDOWN_CHECK, max(0.0, self._look_due - time.monotonic())))
                if time.monotonic() >= self._look_due:
                    self._look_safely()

    def _look_safely(self) -> None:
        """Look around; an error there ends the open questions, and not the thread that looks after all later ones."""
        try:
            self._look()
        except (InvalidHandle, ExternalShutdownException):
            raise
        except Exception as error:  # noqa: BLE001 nobody else would notice
            defect = f"a defect of qwen3vl_ros, please report it: {type(error).__name__}: {error}"
            for key in list(self._open):
                if (asked := self._forget(key)) is not None:
                    asked.question.end(None, InternalError(defect))

    def _take_feedback(self, timeout: float) -> None:
        """Hand the next feedback message to its question, if one comes within ``timeout`` seconds.

        Raises:
            InvalidHandle: the ROS node was destroyed.
            ExternalShutdownException: ROS was shut down.
        """
        if (news := self._client.next_feedback(timeout)) is None:
            if not self._node.context.ok():
                raise ExternalShutdownException
            return
        key, serialized = news
        if (asked := self._open.get(key)) is not None:
            asked.question.add_feedback(feedback_of(serialized))

    def _look(self) -> None:
        with self._lock:
            everything, waiters = list(self._open.items()), list(self._server_waiters)
        wanted = bool(waiters) or any(asked.goal is not None for _, asked in everything)
        ready = self._client.server_is_ready() if wanted else self._client.server_is_there()
        self._absent = 0 if ready else self._absent + 1
        for waiter in waiters if ready else ():
            waiter.set()
        self._look_at_statuses()
        for key, asked in everything:
            self._look_at(key, asked, ready=ready)
        with self._lock:
            calm = ready and not self._server_waiters and all(asked.is_calm for asked in self._open.values())
            if not calm:
                self._spun.trigger()  # is there an executor that would bring a reply?
                self._look_due = time.monotonic() + _LOOK_PERIOD
            else:
                self._look_due = time.monotonic() + _CALM_PERIOD if self._open else math.inf

    def _look_at(self, key: bytes, asked: _Open, *, ready: bool) -> None:
        question, now = asked.question, time.monotonic()
        gone = self._absent >= _ABSENT_LOOKS
        if question.done():
            # A node that has not said yet whether it takes the question is told to stop when it does.
            asked.forget_at = min(asked.forget_at, now + _LATE)
            if asked.goal is not None or asked.accepted or gone or now > asked.forget_at:
                self._forget(key)
        elif ready and question.phase is Phase.WAITING_SERVER:
            self._send(key, asked)
        elif gone and question.phase is Phase.ACCEPTED:
            question.end(None, ServerLost(f"The node that serves {self.action} vanished during the answer."))
        elif question.cancel_requested and now > asked.cancel_due:
            self._cancel(key)
        elif now > asked.result_due:
            asked.result_due = now + _RESULT_DELAY
            self._client.ask_result(key, lambda response: self._on_result(key, response))

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
                asked.result_due = min(asked.result_due, time.monotonic() + _RESULT_DELAY)
            self._on_response(key, accepted=True)

    def _forget(self, key: bytes) -> _Open | None:
        with self._lock:
            asked = self._open.pop(key, None)
        self._client.forget(key)
        return asked

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
            self._look_now()
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

    def explain_overdue(self, question: AnswerFuture, phase: Phase) -> VlmError:
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
            everything = list(self._open.items())
        for _, asked in everything:
            asked.question.end(None, Cancelled("The VlmClient was closed before the answer was complete."))
        # Of those that were sent; the node may have taken one without our having heard so.
        confirmations = [self._cancel(key) for key, asked in everything if asked.goal is None]
        self._wait_for(confirmations)
        for key, _ in everything:
            self._forget(key)
        self._end_thread()
        if self._node.context.ok():
            self._node.destroy_guard_condition(self._spun)
            self._client.destroy()

    def _wait_for(self, confirmations: list[threading.Event]) -> None:
        """For a moment, where this thread may: a request may get lost when its client is gone at once."""
        with contextlib.suppress(WouldDeadlock):
            self.check_may_block()
            end = time.monotonic() + _CANCEL_DELAY
            for confirmed in confirmations:
                confirmed.wait(max(0.0, end - time.monotonic()))

    @property
    def _node_name(self) -> str:
        return self.action.rsplit("/", 1)[0]

    def _look_now(self) -> None:
        """Wake the reader thread so that it looks around."""
        with self._lock:
            self._look_due = 0.0
        self._client.wake()

    def _end_thread(self) -> None:
        """End the reader thread, which waits in the middleware, before that is taken down."""
        self._client.wake()
        if self._thread is not threading.current_thread():  # a callback of on_change() may close the client
            self._thread.join()

    def _ran(self) -> None:
        self._ran_at = time.monotonic()


def _outcome(result: AskImage.Result) -> tuple[Answer | None, VlmError | None]:
    try:
        answer = answer_of_result(result)
    except (ValueError, RecursionError) as error:
        return None, InternalError(f"the node's result has JSON that is none: {error}. Please report it.")
    if result.error_code == AskImage.Result.NONE:
        return answer, None
    return None, error_of_code(result.error_code)(result.error_msg, text=answer.text, answer=answer)
