"""Check: a question as a condition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from builtin_interfaces.msg import Time
from py_trees.common import Status

from qwen3vl_ros.behaviours.question import QuestionLeaf
from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.exceptions import BadRequest
from qwen3vl_ros.client.found import as_in_a_message
from qwen3vl_ros.engines.choices import bare

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.client.vlm_client import VlmClient

_TASK: Final = "yes_no"

_OTHER_CLOCK: Final = 3600
"""Seconds between a stamp and now above which their clocks count the time from different beginnings: more than an
answer takes, or than two computers' clocks differ."""

_YES: Final = ("yes", "是", "有", "对")
_NO: Final = ("no", "不", "否", "没")


@dataclass(frozen=True, slots=True)
class Checked:
    """What the answers to a Check say.

    ``holds``: whether enough of them said yes. ``probabilities``: of yes, one for each answer in their order; 1 or 0
    where the engine tells none. ``yes``, ``no``: how many answers said so; the others are undecided. ``answer``: the
    last one; ``stamp``: of its image.
    """

    holds: bool
    probabilities: tuple[float, ...]
    yes: int
    no: int
    answer: Answer
    stamp: Time


@dataclass(slots=True)
class _Votes:
    """The answers so far."""

    probabilities: list[float] = field(default_factory=list)
    yes: int = 0
    no: int = 0


class Check(QuestionLeaf):
    """Asks a question that yes or no answers, of one image or of several: SUCCESS where enough answers say yes.

    Each further question is about a newer frame. It ends as soon as the outcome is certain, and writes a
    :class:`Checked` to ``key``. FAILURE: too few said yes, or a question failed; then there is no ``key``.

    Args:
        name: of the leaf.
        question: such as "Is the door open?".
        question_key: key on the blackboard from which it is read at each start, in place of ``question``.
        key: where the Checked is written.
        yes_threshold: an answer says yes where the probability of yes (of the task's first choice) is this or more.
        no_threshold: it says no where the probability is this or less; in between it is undecided.
        needed: answers that must say yes,
        of: of so many that are asked at most.
        error_key: where the reason of a failure is written; "" = nowhere.
        valid_for: seconds after the last image for which the outcome counts, yes or no; None = it is asked anew.
        new_frame: True to take only frames that are stamped after the start, also where an answer still counts.
        client: a VlmClient of your own, which stays open; None = the tree's.
        node_name: name of the vlm node.
        **arguments: the others of :meth:`VlmClient.ask`; ``task``: another one than yes_no that has choices.
    """

    def __init__(
        self,
        name: str,
        question: str = "",
        *,
        question_key: str = "",
        key: str = "checked",
        yes_threshold: float = 0.7,
        no_threshold: float = 0.3,
        needed: int = 1,
        of: int = 1,
        error_key: str = "",
        valid_for: float | None = None,
        new_frame: bool = False,
        client: VlmClient | None = None,
        node_name: str = "vlm",
        **arguments: Unpack[Arguments],
    ) -> None:
        asked: dict[str, Any] = {"task": _TASK, **arguments}
        if not 0 <= no_threshold <= yes_threshold <= 1 or (no_threshold == yes_threshold and yes_threshold in (0, 1)):
            raise BadRequest(
                "yes_threshold and no_threshold are probabilities from 0 to 1, the second not above the first, got "
                f"{yes_threshold} and {no_threshold}."
            )
        if not 1 <= needed <= of:
            raise BadRequest(f"needed is a number from 1 to of, got {needed} of {of}.")
        if of > 1 and (asked.get("images") is not None or asked.get("text_only")):
            raise BadRequest(f"{of} answers need as many frames of a camera: leave images and text_only out, or of=1.")
        self._yes_threshold = as_in_a_message(yes_threshold)
        self._no_threshold = as_in_a_message(no_threshold)
        self._needed = needed
        self._of = of
        self._votes = _Votes()
        super().__init__(
            name, question, prompt_key=question_key, new_frame=new_frame, arguments=asked, key=key,
            error_key=error_key, valid_for=valid_for, client=client, node_name=node_name,
        )  # fmt: skip

    def _begin(self) -> None:
        self._votes = _Votes()
        super()._begin()

    def _take(self, answer: Answer) -> Status | None:
        probability = _probability(answer, str(self._arguments["task"]))
        if probability is None:
            return self._fail(
                f"Nobody knows what {answer.text!r:.100} means: the engine '{answer.engine}' tells no probability "
                f"({'; '.join(answer.notes) or 'without a reason'}), and it does not begin with yes or no."
            )
        votes, stamp = self._votes, self._stamp(answer)
        votes.probabilities.append(probability)
        if probability >= self._yes_threshold:
            votes.yes += 1
        elif probability <= self._no_threshold:
            votes.no += 1
        left = self._of - len(votes.probabilities)
        if votes.yes < self._needed <= votes.yes + left:
            self._send(not_before=_newer_than(answer, self._now()))
            return self._ended
        holds = votes.yes >= self._needed
        checked = Checked(holds, tuple(votes.probabilities), votes.yes, votes.no, answer, stamp)
        said = ", ".join(f"{probability:.2f}" for probability in votes.probabilities)
        message = f"{votes.yes} yes, {votes.no} no, {self._needed} of {self._of} needed; probabilities of yes: {said}"
        return self._end(Status.SUCCESS if holds else Status.FAILURE, checked, stamp, message, keep=True)


def _probability(answer: Answer, task: str) -> float | None:
    """Return the probability of yes; where the engine tells none, 1 or 0 by the first word; None = neither."""
    if answer.probability is not None or task != _TASK:
        return answer.probability
    word = bare(answer.text.split(maxsplit=1)[0]) if answer.text.split() else ""
    if word == _YES[0] or word.startswith(_YES[1:]):
        return 1.0
    if word == _NO[0] or word.startswith(_NO[1:]):
        return 0.0
    return None


def _newer_than(answer: Answer, now: Time) -> Time:
    """Return the time from which on frames are newer than those of an answer that has come ``now``.

    That is the nanosecond after the stamp of the newest one. Of a camera without stamps, or with those of another clock
    (the node's parameter ``age_by``), the arrival counts: what arrives from now on is newer.
    """
    stamps = [header.stamp for header in answer.image_headers]
    if not stamps or any(_of_another_clock(stamp, now) for stamp in stamps):
        return now
    newest = max(stamps, key=lambda stamp: (stamp.sec, stamp.nanosec))
    nanoseconds = newest.nanosec + 1
    return Time(sec=newest.sec + nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _of_another_clock(stamp: Time, now: Time) -> bool:
    return not (stamp.sec or stamp.nanosec) or abs(stamp.sec - now.sec) > _OTHER_CLOCK
