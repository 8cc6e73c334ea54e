"""Stamps that a caller gives reach the goal, as exactly as they can be told."""

from __future__ import annotations

import math

import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from rclpy.time import Time as RclpyTime

from qwen3vl_ros.cli.arguments import moment
from qwen3vl_ros.client.exceptions import BadRequest
from qwen3vl_ros.client.goal import build_goal

STAMPS = st.builds(Time, sec=st.integers(0, 2**31 - 1), nanosec=st.integers(0, 999_999_999))


def nanoseconds(stamp: Time) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


@given(STAMPS)
def test_the_frame_whose_stamp_is_the_end_of_a_clip_is_in_it_also_where_that_is_a_float(stamp: Time) -> None:
    exact = nanoseconds(stamp)
    assert build_goal("?", clip_duration=1.0, clip_end=stamp).clip_end == stamp
    assert build_goal("?", clip_duration=1.0, clip_end=RclpyTime(nanoseconds=exact)).clip_end == stamp
    given_end = nanoseconds(build_goal("?", clip_duration=1.0, clip_end=exact / 1e9).clip_end)
    assert exact <= given_end <= exact + 1000


@given(STAMPS.filter(nanoseconds))
def test_a_stamp_on_the_command_line_is_exact(stamp: Time) -> None:
    assert moment(f"{stamp.sec}.{stamp.nanosec:09}") == stamp


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 2.0**31])
@pytest.mark.parametrize("name", ["clip_end", "not_before"])
def test_what_is_no_stamp_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(BadRequest, match=f"^{name} is a stamp in seconds"):
        build_goal("?", **{name: value})
