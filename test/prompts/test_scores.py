"""When scores are asked for, and what an answer's notes say of scores and labels."""

from __future__ import annotations

import pytest

from qwen3vl_ros.engines.base import Description
from qwen3vl_ros.prompts.request import AskRequest, Parser
from qwen3vl_ros.prompts.scores import label_notes, score_notes, scores_wanted
from qwen3vl_ros.prompts.task_files import load_tasks
from qwen3vl_ros.vlm.parameters import ready_made_tasks

TELLS = Description("llama", "m", supports=frozenset({"probabilities"}))
SILENT = Description("openvino", "m")


@pytest.mark.parametrize(
    ("parser", "threshold", "wanted"),
    [("regions", 0.0, True), ("regions_3d", 0.0, True), ("text", 0.0, False), (None, 0.0, False), (None, 0.5, True)],
)
def test_scores_are_asked_for_where_an_answer_points_and_an_engine_tells(
    parser: Parser | None, threshold: float, wanted: bool
) -> None:
    request = AskRequest("cup", parser=parser, score_threshold=threshold)
    assert scores_wanted(request, TELLS) is wanted
    assert not scores_wanted(request, SILENT)


def test_regions_without_a_score_have_one_note_that_says_why() -> None:
    request = AskRequest("cup", parser="regions")
    (note,) = score_notes(request, SILENT, [None, None])
    assert "'openvino' tells none" in note
    (note,) = score_notes(request, TELLS, [None])
    assert "logprobs" in note
    (note,) = score_notes(request, TELLS, [0.5, None])
    assert "1 of 2 regions" in note
    assert not list(score_notes(request, TELLS, [0.5])) and not list(score_notes(request, SILENT, []))
    (note,) = score_notes(AskRequest("cup", parser="regions", score_threshold=0.5), SILENT, [None])
    assert note.endswith("score_threshold leaves no such region out")


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ("red cup", "red cup"),
        ("red cup", "Red  Cup"),
        ("red cup", "red_cup"),
        ("the red cups", "red cup"),
        ("cup", "a red cup"),
        ("红色的杯子", "red cup"),
        ("red cup", "红色的杯子"),
        ("红色的杯子", "杯子"),
        ("red cup", ""),
        ("red cup", "1"),
    ],
)
def test_a_label_that_may_be_what_was_asked_for_gets_no_note(asked: str, label: str) -> None:
    assert list(label_notes((asked,), [label])) == []


def test_a_label_that_is_something_else_gets_a_note_once() -> None:
    assert list(label_notes(("red cup",), ["red box", "red cup", "red box"])) == [
        "asked for 'red cup', the model says 'red box'"
    ]
    assert list(label_notes(("红色的杯子",), ["盒子"])) == ["asked for '红色的杯子', the model says '盒子'"]
    assert list(label_notes(("cup", "plate"), ["plate", "fork"])) == [
        "asked for 'cup' or 'plate', the model says 'fork'"
    ]
    assert list(label_notes(("cup",), ["plate", "fork", "plate"])) == [
        "asked for 'cup', the model says 'plate', 'fork'"
    ]
    assert list(label_notes((), ["anything"])) == []


@pytest.mark.parametrize("asked", ["everything", "Every thing on the table", "all objects", "red objects", "所有物体"])
def test_no_label_differs_from_everything(asked: str) -> None:
    assert list(label_notes((asked,), ["red ball", "红球"])) == []


def test_labels_repeat_the_question_in_tasks_whose_example_says_so() -> None:
    tasks = load_tasks([ready_made_tasks()])
    assert tasks["locate"].ask("red cup").labels == ("red cup",)
    assert tasks["detect"].ask("cup, plate").labels == ("cup", "plate")
    assert tasks["point"].ask("the handle").labels == ()
    assert tasks["caption"].ask("").labels == ()
