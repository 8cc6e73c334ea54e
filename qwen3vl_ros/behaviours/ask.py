"""Ask: a question, and its answer on the blackboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from py_trees.common import Status

from qwen3vl_ros.behaviours.question import QuestionLeaf

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.answer import Answer
    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.client.vlm_client import VlmClient


class Ask(QuestionLeaf):
    """Asks, and writes the :class:`Answer` to ``key``: SUCCESS with an answer, FAILURE with the reason without one.

    Args:
        name: of the leaf.
        prompt: the question, or what fills the main slot of ``task``.
        prompt_key: key on the blackboard from which the prompt is read at each start, in place of ``prompt``.
        key: where the answer is written.
        error_key: where the reason of a failure is written; "" = nowhere.
        valid_for: seconds after its image for which an answer counts; None = it is asked anew at each start.
        new_frame: True to take only frames that are stamped after the start, also where an answer still counts.
        client: a VlmClient of your own, which stays open; None = the tree's.
        node_name: name of the vlm node.
        **arguments: those of :meth:`VlmClient.ask`: ``task``, ``cameras``, ``timeout``, ``response_schema``, ...
    """

    def __init__(
        self,
        name: str,
        prompt: str = "",
        *,
        prompt_key: str = "",
        key: str = "answer",
        error_key: str = "",
        valid_for: float | None = None,
        new_frame: bool = False,
        client: VlmClient | None = None,
        node_name: str = "vlm",
        **arguments: Unpack[Arguments],
    ) -> None:
        super().__init__(
            name, prompt, prompt_key=prompt_key, new_frame=new_frame, arguments=dict(arguments), key=key,
            error_key=error_key, valid_for=valid_for, client=client, node_name=node_name,
        )  # fmt: skip

    def _take(self, answer: Answer) -> Status:
        return self._end(Status.SUCCESS, answer, self._stamp(answer), answer.text, keep=True)
