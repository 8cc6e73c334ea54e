"""The pan-tilt mount of the built-in camera: geometry. No ROS graph, no Drake."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.sim.pan_tilt import PAN_LIMIT, TILT_LIMIT, turned
from qwen3vl_ros.vision.poses import OPTICAL_FROM_BODY_RPY, from_xyz_rpy

PANS, TILTS = st.floats(-PAN_LIMIT, PAN_LIMIT), st.floats(-TILT_LIMIT, TILT_LIMIT)
LEVEL = from_xyz_rpy((0.3, -0.2, 1.5), (0.0, 0.0, 0.4)) @ from_xyz_rpy((0, 0, 0), OPTICAL_FROM_BODY_RPY)
"""A level camera that looks 0.4 rad to the left of the world's x axis."""


@given(PANS, TILTS)
def test_a_level_camera_looks_where_pan_and_tilt_say(pan: float, tilt: float) -> None:
    pose = turned(LEVEL, pan, tilt)
    right, _, forward = pose[:3, :3].T
    towards = [math.cos(tilt) * math.cos(0.4 + pan), math.cos(tilt) * math.sin(0.4 + pan), -math.sin(tilt)]
    assert forward == pytest.approx(towards, abs=1e-9)
    assert right[2] == pytest.approx(0.0, abs=1e-9)  # the horizon stays level
    assert pose[:3, 3] == pytest.approx(LEVEL[:3, 3])
    assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-9)


def test_without_a_turn_it_stays_as_the_world_file_has_it() -> None:
    tilted = from_xyz_rpy((0.3, 0.0, 1.5), (-1.2, 0.2, 0.7))
    assert turned(tilted, 0.0, 0.0) == pytest.approx(tilted, abs=1e-12)


@pytest.mark.parametrize(
    ("pan", "tilt", "says"),
    [(3.2, 0.0, "pan .* 3.2"), (0.0, -1.6, "tilt .* -1.6"), (math.nan, 0.0, "nan"), (0.0, math.inf, "inf")],
)
def test_angles_that_the_mount_does_not_have_are_refused_with_the_limits(pan: float, tilt: float, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        turned(LEVEL, pan, tilt)
    assert str(3.1416 if pan else 1.5708) in str(refused.value)
