"""What VlmClient.find makes of an answer: a position, or the reason why there is none. No ROS graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qwen3vl_ros.client import Answer, BadRequest, Box, Position, Region, find_question, found_in_answer

STAMP = Time(sec=7, nanosec=5)
IMAGE = (Header(stamp=STAMP, frame_id="camera_optical_frame"),)


def ball(score: float | None = 0.9, frame: str = "map", **fields: object) -> Region:
    position = Position(1.0, 2.0, 3.0, frame, STAMP) if frame else None
    return Region("red ball", box=Box(1, 2, 3, 4), position=position, score=score, **fields)  # type: ignore[arg-type]


def answer(*regions: Region, notes: tuple[str, ...] = ()) -> Answer:
    return Answer("...", regions=regions, image_headers=IMAGE, notes=notes, engine="llama")


def test_a_thing_with_a_position_in_the_frame_is_found() -> None:
    found = found_in_answer(answer(ball()), "red ball", "map", 0.7)
    assert found and found.found and found.seen and found.reason == ""
    assert (found.position.x, found.position.y, found.position.z) == (1.0, 2.0, 3.0)
    assert (found.frame_id, found.stamp, found.score, found.region.label) == ("map", STAMP, 0.9, "red ball")


@pytest.mark.parametrize(
    ("regions", "seen", "says"),
    [
        ((), False, "'red ball' is not seen in the image. Note: one was left out."),
        ((ball(score=0.4),), False, "score of 0.40 only, below the threshold 0.7"),
        ((ball(score=None),), False, "'llama' tells no score"),
        ((ball(frame="", position_error="NO_DEPTH: too far."),), True, "is not known: NO_DEPTH: too far."),
        ((ball(frame="odom"),), True, "came in the frame 'odom', not in 'map'"),
    ],
)
def test_what_is_not_found_has_a_reason(regions: tuple[Region, ...], seen: bool, says: str) -> None:
    found = found_in_answer(answer(*regions, notes=("one was left out",)), "red ball", "map", 0.7)
    assert not found and found.position is None
    assert found.seen is seen
    assert says in found.reason
    assert found.region == (regions[0] if regions else None)
    assert (found.frame_id, found.stamp) == ("camera_optical_frame", STAMP)


def test_a_score_of_exactly_the_threshold_is_enough_as_a_message_has_it() -> None:
    assert found_in_answer(answer(ball(float(np.float32(0.7)))), "red ball", "map", 0.7)  # 0.699999988


def test_of_several_the_one_with_the_highest_score_counts() -> None:
    found = found_in_answer(answer(ball(0.5), ball(0.8, frame="odom"), ball(0.7)), "red ball")
    assert (found.score, found.frame_id) == (0.8, "odom")


def test_a_frame_may_be_written_with_the_slash_of_tf() -> None:
    assert found_in_answer(answer(ball()), "red ball", "/map")


def test_the_question_asks_for_the_frame_and_for_what_is_below_the_threshold_too() -> None:
    prompt, arguments = find_question("red ball", frame="map", score_threshold=0.7, timeout=3.0)
    assert prompt == "red ball"
    assert arguments == {"task": "locate", "timeout": 3.0, "target_frame": "map", "score_threshold": 0.0}
    assert "score_threshold" not in find_question("red ball")[1]  # the task's own


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        (" ", {}, "must not be empty"),
        ("ball", {"score_threshold": 1.2}, "from 0 to 1"),
        ("ball", {"target_frame": "map"}, "frame='map'"),
    ],
)
def test_a_wrong_question_is_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        find_question(name, **arguments)
