"""Locate: where something is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from py_trees.common import Status

from qwen3vl_ros.behaviours.question import QuestionLeaf
from qwen3vl_ros.client.found import Found, find_question, found_in_answer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.answer import Answer
    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.client.vlm_client import VlmClient


class Locate(QuestionLeaf):
    """Asks where something is, and writes a :class:`Found` to ``key``, also where it was not found.

    SUCCESS where it has a position in ``frame``, or, with ``position=False``, where it is seen; FAILURE otherwise, with
    the reason. What was not found is looked for again at the next start, whatever ``valid_for`` says.

    Args:
        name: of the leaf.
        what: what to look for, in words, such as "red ball".
        what_key: key on the blackboard from which it is read at each start, in place of ``what``.
        key: where the Found is written.
        frame: tf frame of the position; "" = the camera's, or the node's parameter ``target_frame``.
        position: False where a place in the image is enough.
        error_key: where the reason of a failure is written; "" = nowhere.
        valid_for: seconds after its image for which an answer counts; None = it is asked anew at each start.
        new_frame: True to take only frames that are stamped after the start, also where an answer still counts.
        client: a VlmClient of your own, which stays open; None = the tree's.
        node_name: name of the vlm node.
        **arguments: the others of :meth:`VlmClient.ask`: ``cameras``, ``timeout``, ... ``score_threshold``: what the
            model is less sure of, 0..1, does not count as seen; None = the task's.
    """

    def __init__(
        self,
        name: str,
        what: str = "",
        *,
        what_key: str = "",
        key: str = "found",
        frame: str = "",
        position: bool = True,
        error_key: str = "",
        valid_for: float | None = None,
        new_frame: bool = False,
        client: VlmClient | None = None,
        node_name: str = "vlm",
        **arguments: Unpack[Arguments],
    ) -> None:
        self._frame = frame
        self._position = position
        super().__init__(
            name, what, prompt_key=what_key, new_frame=new_frame, arguments=dict(arguments), key=key,
            error_key=error_key, valid_for=valid_for, client=client, node_name=node_name,
        )  # fmt: skip

    def _goal(self, prompt: str) -> tuple[str, Any]:
        return find_question(prompt, frame=self._frame, **self._arguments)

    def _take(self, answer: Answer) -> Status:
        found = found_in_answer(answer, self._sent_prompt, self._frame, self._arguments.get("score_threshold"))
        there = found.found if self._position else found.seen
        if not there:
            return self._end(Status.FAILURE, found, self._stamp(answer), found.reason, keep=False)
        return self._end(Status.SUCCESS, found, self._stamp(answer), _sentence(found), keep=True)


def _sentence(found: Found) -> str:
    place = found.position
    if place is None:
        return f"'{found.name}' is seen"
    return f"'{found.name}' is at {place.x:.3f} {place.y:.3f} {place.z:.3f} in {place.frame_id}"
