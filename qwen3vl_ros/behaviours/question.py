"""A leaf that sends one goal at a time and waits for its answer, tick after tick."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from py_trees.common import Access, Status

from qwen3vl_ros.behaviours.leaf import Leaf
from qwen3vl_ros.client.exceptions import BadRequest, VlmError
from qwen3vl_ros.client.goal import build_goal

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from qwen3vl_ros.client.answer import Answer
    from qwen3vl_ros.client.answer_future import AnswerFuture


class QuestionLeaf(Leaf):
    """See :class:`Leaf`; these arguments come on top.

    Args:
        name: of the leaf.
        prompt: the question, or what a task is about.
        prompt_key: key on the blackboard from which the prompt is read at each start, in place of ``prompt``.
        new_frame: True to take only frames that are stamped after the start of the leaf, as after a movement.
        arguments: of :meth:`VlmClient.send`, by name.
        leaf: arguments of :class:`Leaf`.

    Raises:
        BadRequest: an argument makes no sense.
    """

    def __init__(
        self, name: str, prompt: str, *, prompt_key: str, new_frame: bool, arguments: dict[str, Any], **leaf: Any
    ) -> None:
        super().__init__(name, **leaf)
        if bool(prompt) == bool(prompt_key):
            raise BadRequest("Give either what is asked, or prompt_key, the key on the blackboard that has it.")
        self._prompt = prompt
        self._prompt_key = prompt_key
        self._new_frame = new_frame
        self._arguments = arguments
        self._future: AnswerFuture | None = None
        self._ended: Status | None = None
        self._asked: Time | None = None
        if prompt_key:
            self._board.register_key(prompt_key, Access.READ)
        self._sent_prompt = ""
        sent, given = self._goal(prompt or "?")
        build_goal(sent, **given)  # a mistake is told where it was made

    def initialise(self) -> None:
        """Send the question, unless the last answer still counts."""
        if self._new_frame or (self._prompt_key and self._sent_prompt != self._read_prompt()):
            self._kept = None
        self._ended = self._resume()
        if self._ended is None:
            self._begin()

    def update(self) -> Status:
        """Return RUNNING until the answer is there."""
        if self._ended is None and self._future is not None and self._future.done():
            future, self._future = self._future, None
            try:
                answer = future.result()
            except VlmError as error:
                self._ended = self._fail(error)
            else:
                self._ended = self._take(answer)
        if self._ended is not None:
            return self._ended
        self.feedback_message = (self._future.text if self._future else "") or "asking"
        return Status.RUNNING

    def terminate(self, new_status: Status) -> None:  # noqa: ARG002
        """Cancel what was asked, if it has no answer yet."""
        future, self._future = self._future, None
        if future is not None:
            future.cancel()

    # For the leaves.

    @abc.abstractmethod
    def _take(self, answer: Answer) -> Status | None:
        """Write the answer and return the leaf's status; None = another question was sent."""

    def _goal(self, prompt: str) -> tuple[str, Any]:
        """Return prompt and arguments of the goal."""
        return prompt, self._arguments

    def _begin(self) -> None:
        try:
            self._sent_prompt = self._current_prompt()
        except BadRequest as error:
            self._ended = self._fail(error)
        else:
            self._send(**({"not_before": self._now()} if self._new_frame else {}))

    def _send(self, **more: Any) -> None:
        """Send the question of this start; ``more``: further arguments."""
        self._asked = self._now()
        try:
            prompt, arguments = self._goal(self._sent_prompt)
            self._future = self.client.send(prompt, **{**arguments, **more})
        except VlmError as error:
            self._ended = self._fail(error)

    def _current_prompt(self) -> str:
        if not self._prompt_key:
            return self._prompt
        prompt = self._read_prompt()
        if prompt is None:
            raise BadRequest(f"There is no '{self._prompt_key}' on the blackboard, which has what to ask.")
        if not isinstance(prompt, str):
            raise BadRequest(f"'{self._prompt_key}' on the blackboard is {type(prompt).__name__}, not a string.")
        return prompt

    def _read_prompt(self) -> Any:
        """Return what is on the blackboard; None = nothing."""
        return self._board.get(self._prompt_key) if self._board.exists(self._prompt_key) else None

    def _stamp(self, answer: Answer) -> Time:
        """Return the stamp of the answer's newest image; where no image has one, when it was asked."""
        stamps = [header.stamp for header in answer.image_headers if header.stamp.sec or header.stamp.nanosec]
        return max(stamps, key=lambda stamp: (stamp.sec, stamp.nanosec)) if stamps else self._asked
