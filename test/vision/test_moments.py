"""The times that an answer about a clip names become moments of the clip, and nothing else in it does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.vision.moments import MOST_MOMENTS, Moment, Moments, parse_moments

LENGTH = 6.0


def spans(text: str, length: float = LENGTH) -> list[tuple[float, float]]:
    """Start and end of all times; nothing may be left out."""
    found = parse_moments(text, length)
    assert found.notes == ()
    return [(moment.start, moment.end) for moment in found.moments]


def labels(text: str) -> list[str]:
    return [moment.label for moment in parse_moments(text, LENGTH).moments]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("0:04.5", 4.5, 4.5),
        ("00:04", 4, 4),
        ("00:00:04", 4, 4),
        ("00:04.50 s", 4.5, 4.5),
        ("4.5 seconds", 4.5, 4.5),
        ("4.5s", 4.5, 4.5),
        ("4 sec.", 4, 4),
        ("<4.5 seconds>", 4.5, 4.5),
        ("The cup falls at second 3.", 3, 3),
        ("t = 4.5", 4.5, 4.5),
        ("at the 4.5-second mark", 4.5, 4.5),
        ("after 2 seconds", 2, 2),
        ("about 2 seconds into the video", 2, 2),
        ("from 2 to 4 seconds", 2, 4),
        ("from 2 seconds to 4", 2, 4),
        ("between 0:02 and 0:04", 2, 4),
        ("between 2 and 4 seconds", 2, 4),
        ("2.0 - 4.5 s", 2, 4.5),
        ("2\u20134 s", 2, 4),
        ("[00:02-00:04]", 2, 4),
        ("seconds 2 to 4", 2, 4),
        ("<2.0 seconds> to <4.0 seconds>", 2, 4),
        ("00:00:02,000 --> 00:00:04,500", 2, 4.5),
        ("from 4 to 2 seconds", 2, 4),
        ("4.5秒", 4.5, 4.5),
        ("in the interval 2.0 - 4.0 s", 2, 4),
        ("about three seconds into the video", 3, 3),
        ("from two to four seconds", 2, 4),
        ("第3秒", 3, 3),
        ("第三秒", 3, 3),
        ("两秒后", 2, 2),
        ("at the one-second mark", 1, 1),
        ("第2到4秒", 2, 4),
        ("在第2.0秒至第4.0秒之间", 2, 4),
        ("0：04", 4, 4),
    ],
)
def test_a_time_is_read_as_people_and_models_write_it(text: str, start: float, end: float) -> None:
    assert spans(text) == [(start, end)]


def test_minutes_and_hours_count() -> None:
    assert spans("At 1:02:03, at 1 minute and 4.5 seconds, at 1m04s, at 2 minutes; 1分4秒", 4000) == [
        *((3723, 3723), (64.5, 64.5), (64, 64), (120, 120), (64, 64)),
    ]


def test_every_time_of_a_list_is_one() -> None:
    assert spans("It knocks at 1, 2.5 and 4 seconds.") == [(1, 1), (2.5, 2.5), (4, 4)]
    assert spans("0:01, 0:02 and 0:03") == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    "text",
    [
        *("two boxes", "5 balls and 3 cups", "the second 3 boxes", "1,2 and 4 things", "a 16:9 image of 1920x1080"),
        *(
            "It lay there for 3 seconds.",
            "2 seconds later",
            "a 3-second pause",
            "every 2 seconds",
            "two seconds of silence",
            "二十秒",
            "3 seconds long",
        ),
        *(
            "in the first 2 seconds",
            "持续3秒",
            "for 2 to 4 seconds",
            "3秒钟",
            "the 80s",
            "5 m/s",
            "30 frames per second",
            "version 1.2.3 s",
        ),
        *("2026-11-30T00:00:03Z", "12:30 pm", "3:00 a.m.", "-3 seconds", "It happens at 4.5.", "3rd", "4sided"),
        *('{"count": 3, "times": 3, "second": 2}', '{"from": "left", "to": "right"}', "[2, 4]", "[1.0, 2.0, 3.0, 4.0]"),
        *("", "[", '{"time": ', '{"time": null}', '{"timestamps": []}', '{"time": "unknown"}', "No."),
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_moments(text, LENGTH) == Moments()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"time": 4.5}', [(4.5, 4.5)]),
        ('{"start": 1, "end": "0:03"}', [(1, 3)]),
        ('{"start_time": "00:01.00", "endTime": "<3.0 seconds>"}', [(1, 3)]),
        ('{"timestamps": [1, 2.5, "0:04"]}', [(1, 1), (2.5, 2.5), (4, 4)]),
        ('{"timestamps": [[1, 2], [3, 4]]}', [(1, 2), (3, 4)]),
        ('{"timestamp": "00:01-00:03"}', [(1, 3)]),
        ('{"time": [1.0, 3.0]}', [(1, 3)]),
        ('{"interval": "1.0 - 3.0"}', [(1, 3)]),
        ('{"event": {"time": {"start": 1, "end": 3}}}', [(1, 3)]),
        ('{"count": 2, "events": [{"start": 1, "end": 2}, {"start": 4, "end": 5}]}', [(1, 2), (4, 5)]),
        ('{"answer": "It falls at 0:02."}', [(2, 2)]),
        ('{"0:02": "falls", "<3.0 seconds>": "rolls"}', [(2, 2), (3, 3)]),
        ('["0:01 the cup appears", "0:03 it leaves"]', [(1, 1), (3, 3)]),
        (
            'Here it is:\n```json\n[{"start": 1.0, "end": 3.5, "description": "a"}]\n``` and at 0:05 more',
            [(1, 3.5), (5, 5)],
        ),
    ],
)
def test_a_time_is_read_in_json_of_every_shape(text: str, expected: list[tuple[float, float]]) -> None:
    assert spans(text) == expected


def test_json_that_is_cut_off_keeps_what_is_complete() -> None:
    whole = json.dumps([{"start": 1.0, "end": 2.0, "description": "a"}, {"start": 3.0, "end": 4.0, "description": "b"}])
    for length in range(len(whole)):
        assert [(m.start, m.label) for m in parse_moments(whole[:length], LENGTH).moments if m.label] in (
            *([], [(1.0, "a")], [(1.0, "a"), (3.0, "b")]),
        )


def test_a_label_is_the_description_or_the_sentence() -> None:
    assert labels('[{"start": 1.0, "end": 3.5, "description": "A hand takes the cup."}]') == ["A hand takes the cup."]
    assert labels('{"event": "a knock", "timestamps": [1, 2]}') == ["a knock", "a knock"]
    assert labels("The door opens at 0:02. Then, at 0:04, it closes!") == [
        *("The door opens at 0:02.", "Then, at 0:04, it closes!"),
    ]
    assert labels("- 0:01: the cup appears\n- **0:03 - 0:04** it leaves") == ["the cup appears", "it leaves"]
    assert labels("1. At 2 s it comes.\n2. It goes (0:03).") == ["At 2 s it comes.", "It goes"]
    assert labels("杯子在1秒出现。它在3秒离开。") == ["杯子在1秒出现。", "它在3秒离开。"]
    assert labels("0:04.5") == labels("At 4.5 seconds.") == labels('{"time": 4.5}') == labels("在第3秒。") == [""]


def test_a_time_outside_of_the_clip_is_told_and_no_moment() -> None:
    found = parse_moments('The clock shows 12:30 at 0:02. {"time": -1} {"start": 9, "end": 10}', LENGTH)
    assert [moment.start for moment in found.moments] == [2.0]
    assert found.notes == ("times outside of the clip, which is 6 s long, are left out: 12:30, -1 s, 9 to 10 s",)


def test_a_time_that_rounding_put_behind_the_last_frame_is_that_frame() -> None:
    assert spans("at 4 seconds", 3.7) == [(3.7, 3.7)]
    assert parse_moments("at 4.5 seconds", 3.7).moments == ()


def test_a_range_that_ends_outside_is_shortened_and_says_so() -> None:
    found = parse_moments("from 2 to 20 seconds", LENGTH)
    assert [(moment.start, moment.end) for moment in found.moments] == [(2.0, LENGTH)]
    assert "2 to 20 seconds" in found.notes[0]


def test_repetitions_are_one_and_a_flood_is_cut() -> None:
    assert len(parse_moments("0:01 a\n" * 50, LENGTH).moments) == 1
    flood = parse_moments("".join(f"0:01 thing {n}\n" for n in range(500)), LENGTH)
    assert len(flood.moments) == MOST_MOMENTS
    assert "500 times" in flood.notes[0]


def test_a_long_sentence_with_many_times_is_not_repeated_whole() -> None:
    found = parse_moments("word " * 1000 + " ".join(f"0:01.{n}" for n in range(100)), LENGTH)
    assert max(len(moment.label) for moment in found.moments) <= 300


_pieces = st.sampled_from(
    (
        *('{"', '"}', '": ', "[", "]", "{", "}", ", ", "start", "end", "time", "timestamps", "at ", "for ", "from "),
        *(" to ", " and ", "between ", "0:04", "00:01:02.5", "4.5", "1e999", "-", " seconds", "s", "第", "秒", "。"),
        *(
            ". ",
            "\n",
            "```json",
            "<",
            ">",
            "\\u0000",
            "\ud83d",
            "\0",
            "minutes",
            "t=",
            "999999",
            "null",
            ":",
            "second ",
        ),
    )
)


@given(st.lists(_pieces, max_size=24).map("".join) | st.text(max_size=60), st.floats(0, 1e6))
@example('{"start": 1e999, "end": -1e999}', 1.0)
@examples(500)
def test_any_text_gives_moments_inside_of_the_clip(text: str, length: float) -> None:
    for moment in parse_moments(text, length).moments:
        assert 0 <= moment.start <= moment.end <= length
        assert "\0" not in moment.label
        moment.label.encode()


_seconds = st.integers(0, 599).map(lambda tenths: tenths / 10)


@given(_seconds, _seconds, st.text(st.characters(categories=["L", "Zs"]), max_size=20))
@examples(200)
def test_what_json_says_comes_back(one: float, other: float, words: str) -> None:
    start, end = sorted((one, other))
    answer: list[dict[str, Any]] = [{"start": start, "end": end, "description": words}]
    (moment,) = parse_moments(json.dumps(answer), 60.0).moments
    assert (moment.start, moment.end) == (start, end)
    clock = f"{int(start // 60):02}:{start % 60:04.1f}"
    assert parse_moments(f"At {clock} it falls.", 60.0).moments == (Moment(f"At {clock} it falls.", start, start),)
