"""What the leaves for py_trees promise, on a client of the test's own: no ROS graph, and a clock that the test sets."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("py_trees", reason="py_trees, which the leaves are for, is not installed here")

import numpy as np
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from py_trees.blackboard import Blackboard
from py_trees.common import Status
from rclpy.time import Time as RclpyTime
from std_msgs.msg import Header

from qwen3vl_ros.behaviours import Ask, Check, Locate, WatchFor
from qwen3vl_ros.client import Answer, BadRequest, Box, Busy, Position, Region, ServerLost, VlmError, WatchEvent

WAIT = 30.0


class Future:
    """An answer that comes when the test says so."""

    def __init__(self) -> None:
        self.text, self.cancelled, self.outcome = "", False, None

    def done(self) -> bool:
        return self.outcome is not None

    def result(self) -> Answer:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None, "it would have waited"
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Watching:
    """A watch whose event comes when the test says so."""

    def __init__(self) -> None:
        self.changed, self.outcome, self.removed = threading.Event(), None, threading.Event()

    def next_event(self) -> WatchEvent | None:
        assert self.changed.wait(WAIT)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def comes(self, outcome: WatchEvent | VlmError | None) -> None:
        self.outcome = outcome
        self.changed.set()

    def interrupt(self) -> None:
        self.changed.set()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.removed.set()


class Client:
    """In the place of VlmClient and of its node and clock, which shows ``now`` seconds."""

    def __init__(self) -> None:
        self.node = self
        self.now_ = 100.0
        self.sent: list[tuple[str, dict[str, Any], Future]] = []
        self.watches: list[tuple[str, dict[str, Any], Watching]] = []

    def get_clock(self) -> Client:
        return self

    def now(self) -> RclpyTime:
        return RclpyTime(nanoseconds=round(self.now_ * 1e9))

    def send(self, prompt: str, **arguments: Any) -> Future:
        self.sent.append((prompt, arguments, Future()))
        return self.sent[-1][2]

    def watch(self, prompt: str, **arguments: Any) -> Watching:
        self.watches.append((prompt, arguments, Watching()))
        return self.watches[-1][2]

    def answer(self, text: str = "red", seconds: float | None = None, **fields: Any) -> None:
        """Answer the last question, about an image of ``seconds``; None = of now."""
        stamp = self.stamp(self.now_ if seconds is None else seconds)
        self.sent[-1][2].outcome = Answer(text, image_headers=(Header(stamp=stamp, frame_id="camera"),), **fields)

    def fail(self, error: VlmError) -> None:
        self.sent[-1][2].outcome = error

    @staticmethod
    def stamp(seconds: float) -> Time:
        return RclpyTime(nanoseconds=round(seconds * 1e9)).to_msg()


@pytest.fixture
def client() -> Iterator[Client]:
    Blackboard.clear()
    yield Client()
    Blackboard.clear()


def tick(leaf: Any) -> Status:
    leaf.tick_once()
    return leaf.status


def written(key: str) -> Any:
    """What is at a key of the blackboard; None = nothing."""
    return Blackboard.get(key) if Blackboard.exists(key) else None


def test_ask_runs_until_the_answer_is_there_and_writes_it(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", key="colour", client=client, timeout=9.0, cameras=["front"])
    assert tick(leaf) is tick(leaf) is Status.RUNNING
    assert [(prompt, arguments) for prompt, arguments, _ in client.sent] == [
        ("What colour is it?", {"timeout": 9.0, "cameras": ["front"]})
    ]
    assert written("colour") is None
    client.answer("red")
    assert tick(leaf) is Status.SUCCESS
    assert written("colour").text == leaf.feedback_message == "red"


def test_a_question_that_fails_is_a_failure_with_its_reason(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", error_key="why", client=client)
    tick(leaf)
    client.fail(Busy("the queue is full."))
    assert tick(leaf) is Status.FAILURE
    assert written("why") == leaf.feedback_message == "BUSY: the queue is full."
    assert written("answer") is None
    tick(leaf)
    assert written("why") is None  # it is another question
    client.answer()
    assert tick(leaf) is Status.SUCCESS


def test_a_leaf_that_is_preempted_cancels_its_question_and_asks_anew_at_its_next_start(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", client=client)
    tick(leaf)
    leaf.stop(Status.INVALID)
    assert client.sent[0][2].cancelled
    client.answer("too late")
    assert tick(leaf) is Status.RUNNING
    client.answer("red")
    assert tick(leaf) is Status.SUCCESS
    assert written("answer").text == "red" and len(client.sent) == 2


def test_an_answer_counts_for_as_long_as_it_is_valid_after_its_image(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", valid_for=5.0, client=client)
    tick(leaf)
    client.answer(seconds=98.0)
    assert tick(leaf) is Status.SUCCESS
    client.now_ = 102.9
    assert tick(leaf) is Status.SUCCESS
    assert written("answer").text == "red" and len(client.sent) == 1
    client.now_ = 103.1
    assert tick(leaf) is Status.RUNNING
    assert written("answer") is None and len(client.sent) == 2


@pytest.mark.parametrize(
    ("seconds", "says"), [(94.0, "6 s old, and it is valid for 5 s"), (106.0, "6 s in the future")]
)
def test_an_answer_about_an_image_of_another_time_does_not_count(client: Client, seconds: float, says: str) -> None:
    leaf = Ask("colour", "What colour is it?", valid_for=5.0, error_key="why", client=client)
    tick(leaf)
    client.answer(seconds=seconds)
    assert tick(leaf) is Status.FAILURE
    assert says in written("why") and written("answer") is None


def test_an_answer_that_still_counts_is_written_again(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", valid_for=5.0, client=client)
    tick(leaf)
    client.answer("red")
    tick(leaf)
    Blackboard.set("answer", "another leaf's")
    assert tick(leaf) is Status.SUCCESS
    assert written("answer").text == "red"


def test_an_answer_to_another_question_or_from_before_a_movement_does_not_count(client: Client) -> None:
    Blackboard.set("question", "What colour is it?")
    other = Ask("other", prompt_key="question", valid_for=5.0, client=client)
    moved = Ask("moved", "What is it?", new_frame=True, valid_for=5.0, client=client)
    for leaf in (other, moved):
        tick(leaf)
        client.answer()
        assert tick(leaf) is Status.SUCCESS
    assert tick(other) is Status.SUCCESS
    Blackboard.set("question", "What shape is it?")
    assert tick(other) is tick(moved) is Status.RUNNING
    assert [prompt for prompt, _, _ in client.sent[-2:]] == ["What shape is it?", "What is it?"]


def test_without_valid_for_every_start_asks(client: Client) -> None:
    leaf = Ask("colour", "What colour is it?", client=client)
    for _ in range(2):
        assert tick(leaf) is Status.RUNNING
        client.answer(seconds=1.0)
        assert tick(leaf) is Status.SUCCESS
    assert len(client.sent) == 2


def test_an_answer_without_an_image_is_as_old_as_its_question(client: Client) -> None:
    leaf = Ask("sum", "What is 1 + 1?", valid_for=5.0, client=client, text_only=True)
    tick(leaf)
    client.now_ += 6.0
    client.sent[-1][2].outcome = Answer("2")
    assert tick(leaf) is Status.FAILURE


def test_an_image_without_a_stamp_is_as_old_as_its_question(client: Client) -> None:
    leaf = Check("door", "Is it open?", needed=2, of=2, valid_for=5.0, client=client)
    tick(leaf)
    for number in (1, 2):
        client.now_ += 3.0
        client.answer(seconds=0.0, probability=0.9)
        assert tick(leaf) is (Status.RUNNING if number == 1 else Status.SUCCESS)
    assert written("checked").stamp == client.stamp(103.0)
    client.now_ += 1.9
    assert tick(leaf) is Status.SUCCESS and len(client.sent) == 2
    client.now_ += 0.2
    assert tick(leaf) is Status.RUNNING and len(client.sent) == 3


def test_after_a_movement_only_newer_frames_count(client: Client) -> None:
    leaf = Locate("see", "red ball", new_frame=True, client=client)
    tick(leaf)
    assert client.sent[-1][1]["not_before"] == client.stamp(100.0)


def test_what_is_asked_can_come_from_the_blackboard(client: Client) -> None:
    leaf = Locate("see", what_key="thing", client=client)
    assert tick(leaf) is Status.FAILURE and "'thing'" in leaf.feedback_message
    for thing in ("red ball", "blue box"):
        Blackboard.set("thing", thing)
        tick(leaf)
        assert client.sent[-1][0] == thing
        client.answer()
        tick(leaf)
        assert written("found").name == thing


def region(score: float = 0.9, position: Position | None = None) -> Region:
    return Region("red ball", box=Box(1, 2, 3, 4), score=score, position=position, position_error="NO_DEPTH: none.")


@pytest.mark.parametrize(
    ("regions", "with_position", "without"),
    [
        ((), Status.FAILURE, Status.FAILURE),
        ((region(0.4),), Status.FAILURE, Status.FAILURE),
        ((region(),), Status.FAILURE, Status.SUCCESS),
        ((region(position=Position(1.0, 2.0, 3.0, "map", Time())),), Status.SUCCESS, Status.SUCCESS),
    ],
)
def test_locate_succeeds_with_a_position_or_if_that_is_wanted_a_sight(
    client: Client, regions: tuple[Region, ...], with_position: Status, without: Status
) -> None:
    for position, status in ((True, with_position), (False, without)):
        leaf = Locate("see", "red ball", frame="map", score_threshold=0.7, position=position, client=client)
        tick(leaf)
        client.answer(regions=regions)
        assert tick(leaf) is status
        assert written("found").found is (with_position is Status.SUCCESS)
        assert client.sent[-1][1]["target_frame"] == "map"


def test_what_was_not_found_is_looked_for_again(client: Client) -> None:
    leaf = Locate("see", "red ball", valid_for=60.0, client=client)
    tick(leaf)
    client.answer()
    assert tick(leaf) is Status.FAILURE
    assert tick(leaf) is Status.RUNNING and len(client.sent) == 2


@given(
    probabilities=st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
    thresholds=st.tuples(*[st.floats(0.0078125, 0.9921875, width=32)] * 2).map(sorted),
    votes=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted),
)
def test_check_succeeds_exactly_where_enough_answers_say_yes(
    probabilities: list[float], thresholds: list[float], votes: list[int]
) -> None:
    Blackboard.clear()
    client, (no, yes), (needed, of) = Client(), thresholds, votes
    leaf = Check("door", "Is it open?", yes_threshold=yes, no_threshold=no, needed=needed, of=of, client=client)
    while tick(leaf) is Status.RUNNING:
        client.now_ += 1.0
        client.answer(probability=probabilities[len(client.sent) - 1])
    saying_yes = [probability >= yes for probability in probabilities[:of]]
    assert (leaf.status is Status.SUCCESS) == (sum(saying_yes) >= needed)
    # It was certain with the last answer and not before.
    asked = len(client.sent)
    certain = [sum(saying_yes[:n]) >= needed or sum(saying_yes[:n]) + of - n < needed for n in range(1, of + 1)]
    assert certain.index(True) + 1 == asked
    checked = written("checked")
    assert checked.holds is (leaf.status is Status.SUCCESS)
    assert checked.probabilities == tuple(probabilities[:asked])
    assert checked.no == sum(probability <= no and probability < yes for probability in probabilities[:asked])


def test_a_probability_of_exactly_the_threshold_says_yes_as_a_message_has_it(client: Client) -> None:
    leaf = Check("door", "Is it open?", yes_threshold=0.7, client=client)
    tick(leaf)
    client.answer(probability=float(np.float32(0.7)))  # 0.699999988
    assert tick(leaf) is Status.SUCCESS


def test_each_answer_of_a_check_is_about_a_newer_frame(client: Client) -> None:
    leaf = Check("door", "Is it open?", needed=2, of=2, client=client)
    tick(leaf)
    client.answer(seconds=99.999999999, probability=0.8)
    assert tick(leaf) is Status.RUNNING
    assert client.sent[-1][1] == {"task": "yes_no", "not_before": Time(sec=100)}


@pytest.mark.parametrize("stamp", [0.0, 12.0], ids=["none", "since it was switched on"])
def test_each_answer_of_a_check_is_about_a_newer_frame_of_a_camera_whose_arrivals_count(
    client: Client, stamp: float
) -> None:
    client.now_ = 1.8e9
    leaf = Check("door", "Is it open?", needed=2, of=2, client=client)
    tick(leaf)
    client.now_ += 3.0
    client.answer(seconds=stamp, probability=0.8)
    assert tick(leaf) is Status.RUNNING
    assert client.sent[-1][1]["not_before"] == client.stamp(1.8e9 + 3.0)


def test_all_answers_of_a_check_are_to_the_question_that_was_there_at_its_start(client: Client) -> None:
    leaf = Check("check", question_key="question", needed=3, of=3, client=client)
    assert tick(leaf) is Status.FAILURE and "'question'" in leaf.feedback_message
    Blackboard.set("question", "Is it open?")
    for change in (lambda: Blackboard.set("question", "Is it red?"), lambda: Blackboard.unset("question"), None):
        assert tick(leaf) is Status.RUNNING
        client.answer(probability=0.9)
        if change is not None:
            change()
    assert tick(leaf) is Status.SUCCESS
    assert [prompt for prompt, _, _ in client.sent] == ["Is it open?"] * 3


def test_the_outcome_of_a_check_counts_for_a_while_yes_or_no(client: Client) -> None:
    leaf = Check("door", "Is it open?", valid_for=5.0, client=client)
    tick(leaf)
    client.answer(probability=0.1)
    assert tick(leaf) is tick(leaf) is Status.FAILURE
    assert len(client.sent) == 1 and not written("checked").holds
    client.now_ += 5.1
    assert tick(leaf) is Status.RUNNING


@pytest.mark.parametrize(
    ("text", "probabilities"), [("Yes.", (1.0,)), ("no, it is shut", (0.0,)), ("是的", (1.0,)), ("不是", (0.0,))]
)
def test_an_engine_without_probabilities_is_taken_at_its_word(
    client: Client, text: str, probabilities: tuple[float, ...]
) -> None:
    leaf = Check("door", "Is it open?", client=client)
    tick(leaf)
    client.answer(text)
    assert tick(leaf) is (Status.SUCCESS if probabilities == (1.0,) else Status.FAILURE)
    assert written("checked").probabilities == probabilities


@pytest.mark.parametrize("text", ["", "Nothing of the kind", "yesterday"])
def test_an_answer_that_is_neither_yes_nor_no_is_no_outcome(client: Client, text: str) -> None:
    leaf = Check("door", "Is it open?", client=client)
    tick(leaf)
    client.answer(text)
    assert tick(leaf) is Status.FAILURE
    assert "no probability" in leaf.feedback_message and written("checked") is None


def event(seconds: float) -> WatchEvent:
    return WatchEvent("id", 0, "on", True, "It is open.", Client.stamp(seconds), "camera")


def until_ended(leaf: WatchFor) -> Status:
    assert leaf._waiting.ended.wait(WAIT)
    return tick(leaf)


def test_watch_for_runs_until_the_event_and_removes_the_watch(client: Client) -> None:
    leaf = WatchFor("door", "Is it open?", valid_for=5.0, client=client, cooldown=1.0)
    assert tick(leaf) is tick(leaf) is Status.RUNNING
    client.watches[0][2].comes(event(100.0)) if client.watches else pytest.fail("no watch")
    assert until_ended(leaf) is Status.SUCCESS
    assert written("event").message == "It is open."
    assert client.watches[0][2].removed.wait(WAIT)
    assert client.watches[0][:2] == ("Is it open?", {"cooldown": 1.0, "kinds": ["on"], "valid_for": 5.0})
    client.now_ = 104.0
    assert tick(leaf) is Status.SUCCESS and len(client.watches) == 1
    client.now_ = 106.0
    assert tick(leaf) is Status.RUNNING
    leaf.shutdown()
    assert client.watches[1][2].removed.is_set()


@pytest.mark.parametrize(
    ("outcome", "says"), [(ServerLost("it is gone."), "it is gone."), (None, "over"), (event(90.0), "10 s old")]
)
def test_a_watch_that_ends_otherwise_is_a_failure(client: Client, outcome: Any, says: str) -> None:
    leaf = WatchFor("door", "Is it open?", valid_for=5.0, client=client)
    tick(leaf)
    client.watches[0][2].comes(outcome)
    assert until_ended(leaf) is Status.FAILURE
    assert says in leaf.feedback_message and written("event") is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ask("a", "What?", temprature=0.0), "temprature"),
        (lambda: Ask("a", "What?", timeout=-1.0), "timeout"),
        (lambda: Ask("a"), "prompt_key"),
        (lambda: Ask("a", "What?", valid_for=0.0), "valid_for"),
        (lambda: Locate("l", "ball", score_threshold=7.0), "score_threshold"),
        (lambda: Check("c", "Is it?", needed=3, of=2), "needed"),
        (lambda: Check("c", "Is it?", yes_threshold=0.2), "yes_threshold"),
        (lambda: Check("c", "Is it?", of=3, images=[b"\xff\xd8\xff"]), "frames of a camera"),
        (lambda: WatchFor("w", "Is it?", kind="open"), "kinds are"),
        (lambda: WatchFor("w", "Is it?", period=3), "period"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_tree_is_made(make: Any, says: str) -> None:
    with pytest.raises((BadRequest, TypeError), match=says):
        make()


def test_a_tree_that_was_not_set_up_says_so() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        tick(Ask("colour", "What colour is it?"))


def test_without_py_trees_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("qwen3vl_ros.behaviours")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "py_trees", None)
    with pytest.raises(ImportError, match="pip install 'py_trees"):
        __import__("qwen3vl_ros.behaviours")
