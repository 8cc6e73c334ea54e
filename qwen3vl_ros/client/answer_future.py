"""The future of one answer: its text so far, its result or error, and an iterator over the streamed text."""

from __future__ import annotations

import enum
import functools
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from qwen3vl_ros.client.exceptions import Cancelled, InternalError, VlmError
from qwen3vl_ros.engines.text_buffer import TextBuffer

if TYPE_CHECKING:
    from qwen3vl_ros.client.answer import Answer

CANCEL_GRACE = 5.0
"""Seconds that a node has to confirm a cancel, with the text so far; then the question ends without it."""

_STOP_CHECK = 1.0
"""Seconds between a waiting thread's checks for what comes without a notification: a shutdown of ROS, which a signal
causes, and the destruction of the ROS node."""


class Phase(enum.Enum):
    """The phase of a question between client and node."""

    WAITING_SERVER = enum.auto()
    SENT = enum.auto()
    ACCEPTED = enum.auto()
    DONE = enum.auto()


class Tracker(Protocol):
    """The part of the GoalTracker that an :class:`AnswerFuture` uses; no method blocks."""

    def cancel(self, future: AnswerFuture) -> None:
        """Ask the node to cancel an accepted goal."""

    def check_may_block(self) -> None:
        """Raise WouldDeadlock if a wait on this thread would block what it waits for."""

    def explain_stopped(self) -> VlmError | None:
        """Return why no message can arrive any more, or None while one can."""

    def explain_overdue(self, future: AnswerFuture, phase: Phase) -> VlmError:
        """Return why the deadline passed."""


class AnswerFuture:
    """The future of an answer; made by :meth:`VlmClient.send`. Thread-safe.

    Nothing but :meth:`result` blocks, so that a behaviour can hold one and check it at every tick.
    """

    def __init__(self, tracker: Tracker, prompt: str, timeout: float, grace: float, server_timeout: float) -> None:
        """Make the future of a question that is about to be sent.

        Args:
            tracker: carries the question.
            prompt: names the question in errors.
            timeout: seconds that the node has, from acceptance.
            grace: seconds after ``timeout`` for the result to arrive.
            server_timeout: seconds to find a node, and as many for it to accept the question.
        """
        self.prompt = prompt
        self.timeout = timeout
        self._tracker = tracker
        self._grace = grace
        self._server_timeout = server_timeout
        self._changed = threading.Condition()
        self._phase = Phase.WAITING_SERVER
        self._deadline = time.monotonic() + server_timeout
        self._streamed = TextBuffer()
        self._reasoning = TextBuffer()
        self._next_sequence = 0
        self._gap = False
        self._stage = 0
        self._queue_position = 0
        self._completion_tokens = 0
        self._max_image_tokens = 0
        self._expected_first_token_time: float | None = None
        self._cancel_requested = False
        self._on_change: Callable[[], None] | None = None
        self._answer: Answer | None = None
        self._error: VlmError | None = None
        self._report: Answer | None = None  # the node's last report, also of a failed question

    # Methods for behaviours.

    def done(self) -> bool:
        """Return whether the question has ended: answered, failed, cancelled or overdue. Never blocks."""
        self._expire()
        return self._phase is Phase.DONE

    @property
    def text(self) -> str:
        """The answer so far."""
        with self._changed:
            return self._current_text()

    def text_since(self, start: int) -> str:
        """Return ``text[start:]`` in time that does not grow with ``start``, for streaming displays."""
        with self._changed:
            return self._streamed.since(start) if self._report is None else self._report.text[start:]

    @property
    def reasoning(self) -> str:
        """A thinking model's reasoning so far."""
        with self._changed:
            return str(self._reasoning) if self._report is None else self._report.reasoning

    def reasoning_since(self, start: int) -> str:
        """Return ``reasoning[start:]``, as :meth:`text_since` does."""
        with self._changed:
            return self._reasoning.since(start) if self._report is None else self._report.reasoning[start:]

    @property
    def stage(self) -> int:
        """The stage of the question at the node: a STAGE constant of AskImage's feedback."""
        return self._stage

    @property
    def queue_position(self) -> int:
        """Number of questions that the node answers before this one."""
        return self._queue_position

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, reasoning included."""
        return self._completion_tokens

    @property
    def max_image_tokens(self) -> int:
        """Tokens that an image may have in this question; 0 = not known yet, or no image."""
        return self._max_image_tokens

    @property
    def expected_first_token_time(self) -> float | None:
        """Seconds that the node expects from the request to its engine until the first token; None = not known."""
        return self._expected_first_token_time

    def exception(self) -> VlmError | None:
        """Return why the question failed; None while it runs or if it was answered. Never blocks."""
        self._expire()
        return self._error

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the answer.

        Args:
            timeout: seconds to wait; None = until the question ends, which it always does.

        Raises:
            VlmError: the question failed.
            TimeoutError: the question is still running after ``timeout``, and continues.
            WouldDeadlock: this thread is the one that must receive the answer.
        """
        if not self.done():
            self._tracker.check_may_block()
            self._wait(lambda: self._phase is Phase.DONE, timeout)
            if self._phase is not Phase.DONE:
                raise TimeoutError(f"the question {self.prompt[:60]!r} is still running after {timeout} s.")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def on_change(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` after every change of stage, queue position or text, and at the end; None = no callback.

        It runs on the client's reader thread, on the executor's, or on one that calls a method of this future, and must
        neither block nor raise. A second callback replaces the first.
        """
        with self._changed:
            self._on_change = callback

    def cancel(self) -> None:
        """Ask the node to stop. Returns at once; the question then ends as Cancelled, with the text so far."""
        with self._changed:
            if self._phase is Phase.DONE or self._cancel_requested:
                return
            self._cancel_requested = True
            self._deadline = min(self._deadline, time.monotonic() + CANCEL_GRACE)
            accepted = self._phase is Phase.ACCEPTED
            if self._phase is Phase.WAITING_SERVER:
                self._finish(None, Cancelled("The question was cancelled before a node was there to take it."))
            self._changed.notify_all()
        if accepted:
            self._tracker.cancel(self)

    # Methods for the stream.

    def deltas(self) -> Iterator[str]:
        """Yield the pieces of text as they arrive, from the first one; joined they are the final text.

        Ends when the question ends; raises its error then. Blocks like :meth:`result`.
        """
        index = 0
        if not self.done():
            self._tracker.check_may_block()
        while True:
            self._wait(functools.partial(self._has_more_than, index), None)
            if time.monotonic() > self._deadline:
                self._expire()
            # The list only grows, and no longer after the end.
            ended = self._phase is Phase.DONE
            yield from (new := self._streamed.pieces[index:])
            index += len(new)
            if ended and index == len(self._streamed.pieces):
                break
        final, streamed = self.result().text, str(self._streamed)
        if streamed != final:
            raise InternalError(
                f"the node's final text {final[:80]!r} is not what it streamed ({streamed[:80]!r}). "
                "Please report it.",
                text=final, answer=self._answer,
            )  # fmt: skip

    # Methods for the tracker, which calls them on its reader thread or the executor's.

    @property
    def phase(self) -> Phase:
        """The phase of the question."""
        return self._phase

    @property
    def cancel_requested(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancel_requested

    def mark_sent(self) -> None:
        """Record that the goal was sent to a node."""
        self._enter(Phase.SENT, self._server_timeout)

    def mark_accepted(self) -> None:
        """Record that the node accepted the goal: its own timeout starts now."""
        self._enter(Phase.ACCEPTED, CANCEL_GRACE if self._cancel_requested else self.timeout + self._grace)

    def add_feedback(self, feedback: Any) -> None:
        """Apply one feedback message; tolerates lost ones, and ignores duplicates and late ones."""
        with self._changed:
            if self._phase is Phase.DONE or feedback.sequence < self._next_sequence:
                return
            if feedback.sequence > self._next_sequence:
                self._gap = True
            moved = (feedback.stage, feedback.queue_position) != (self._stage, self._queue_position)
            self._stage = feedback.stage
            self._queue_position = feedback.queue_position
            self._completion_tokens = feedback.completion_tokens
            self._max_image_tokens = feedback.max_image_tokens
            expected = feedback.expected_first_token_time
            self._expected_first_token_time = expected if expected >= 0 else None
            self._reasoning.append(feedback.reasoning_delta)
            if not self._gap:
                self._add_text(feedback.delta)
            elif (feedback.text or not feedback.completion_tokens) and feedback.text.startswith(str(self._streamed)):
                # The next message with all of the text replaces lost ones; without any, the result does.
                self._gap = False
                self._add_text(feedback.text[len(self._streamed) :])
            self._next_sequence = feedback.sequence + 1
            if moved or feedback.reasoning_delta:
                self._notify()

    def end(self, answer: Answer | None, error: VlmError | None) -> None:
        """End the question with an answer or an error, unless it has ended."""
        with self._changed:
            self._finish(answer, error)

    # Internal methods.

    def _enter(self, phase: Phase, seconds: float) -> None:
        with self._changed:
            if self._phase is not Phase.DONE:
                self._phase = phase
                self._deadline = time.monotonic() + seconds
                self._notify()

    def _add_text(self, delta: str) -> None:
        if delta:
            self._streamed.append(delta)
            self._notify()

    def _finish(self, answer: Answer | None, error: VlmError | None) -> None:
        if self._phase is Phase.DONE:
            return
        report = error.answer if error is not None else answer
        if report is not None and report.text.startswith(str(self._streamed)):
            self._add_text(report.text[len(self._streamed) :])
        self._report = report
        if error is not None and not error.text:
            error.text = self._current_text()
        self._answer = answer
        self._error = error
        self._phase = Phase.DONE
        self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._on_change is not None:
            self._on_change()

    def _expire(self) -> None:
        if self._phase is Phase.DONE:
            return
        if (stopped := self._tracker.explain_stopped()) is not None:
            self.end(None, stopped)
            return
        if time.monotonic() < self._deadline:
            return
        phase = self._phase
        if self._cancel_requested:
            error: VlmError = Cancelled(f"The question was cancelled; the node did not confirm it in {CANCEL_GRACE} s.")
        else:
            error = self._tracker.explain_overdue(self, phase)
        self.end(None, error)
        if phase is Phase.ACCEPTED:
            self._tracker.cancel(self)

    def _current_text(self) -> str:
        return str(self._streamed) if self._report is None else self._report.text

    def _has_more_than(self, pieces: int) -> bool:
        return len(self._streamed.pieces) > pieces or self._phase is Phase.DONE

    def _wait(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Wait until ``condition`` holds, at most ``timeout`` seconds; the deadline, which may move, ends it, too."""
        give_up = float("inf") if timeout is None else time.monotonic() + timeout
        while not condition() and (now := time.monotonic()) < give_up:
            until = min(self._deadline, give_up, now + _STOP_CHECK)
            with self._changed:
                if not condition():
                    self._changed.wait(max(0.0, until - time.monotonic()))
            if time.monotonic() >= until:
                self._expire()


class AnswerStream:
    """Iterates over the text of an answer as it is generated; made by :meth:`VlmClient.stream`.

    Iterating yields the pieces; leaving the loop early (``break``, an exception) cancels the question, and so does
    leaving a ``with`` block. After the loop, :attr:`answer` is the whole answer.
    """

    def __init__(self, future: AnswerFuture) -> None:
        self.future = future

    @property
    def question(self) -> AnswerFuture:
        """The former name of ``future``, for one more release."""
        return self.future

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self.future.deltas()
        finally:
            self.close()

    @property
    def answer(self) -> Answer:
        """The final answer; waits for it if the text was not read to its end. Raises the question's VlmError."""
        return self.future.result()

    def cancel(self) -> None:
        """Ask the node to stop; the loop then ends with Cancelled."""
        self.future.cancel()

    def close(self) -> None:
        """Cancel the question unless it has ended."""
        if not self.future.done():
            self.future.cancel()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
