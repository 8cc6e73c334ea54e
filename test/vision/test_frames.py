"""What was measured in a camera's optical frame is said in another frame: places, how sure they are, sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.sim.sdf import read_world
from qwen3vl_ros.vision.annotate import annotate
from qwen3vl_ros.vision.frames import TargetFrame, in_frame, parse_mount
from qwen3vl_ros.vision.poses import from_xyz_rpy, to_rpy
from qwen3vl_ros.vision.region import Region

BALL = Region("ball", box=(1.0, 2.0, 3.0, 4.0), position=(0.2, -0.1, 1.5), extent=(0.1, 0.2, 0.3))
few = settings(examples(50), derandomize=True)
numbers = st.floats(-5, 5).map(lambda number: round(number, 6))
angles = st.floats(-1.5, 1.5).map(lambda number: round(number, 6))


def test_a_camera_that_looks_ahead_has_no_angles() -> None:
    """Half a metre up and 0.1 m forward: what is 1.5 m ahead, 0.2 m to the right and 0.1 m higher."""
    pose = parse_mount("0.1 0 0.5 0 0 0")
    moved = in_frame(BALL, TargetFrame("base_link", pose))
    assert moved.position == pytest.approx((1.6, -0.2, 0.6))
    assert (moved.frame_id, moved.seen_from) == ("base_link", pytest.approx((0.1, 0.0, 0.5)))
    assert (moved.label, moved.box, moved.extent, moved.position_error) == ("ball", BALL.box, BALL.extent, "")


def test_a_pitch_looks_down_and_a_yaw_to_the_left() -> None:
    ahead = replace(BALL, position=(0.0, 0.0, 1.0))
    for mount, place in (
        (f"0 0 0 0 {math.pi / 2} 0", (0, 0, -1)),
        (f"0 0 0 0 0 {math.pi / 2}", (0, 1, 0)),
        (f"0, 0, 2, 0, {math.pi / 4}, 0", (math.sqrt(0.5), 0, 2 - math.sqrt(0.5))),
    ):
        moved = in_frame(ahead, TargetFrame("base_link", parse_mount(mount)))
        assert moved.position == pytest.approx(place, abs=1e-9)


@few
@given(st.tuples(numbers, numbers, numbers), st.tuples(angles, angles, angles))
def test_the_angles_of_a_mount_are_those_of_urdf(xyz: tuple[float, ...], rpy: tuple[float, ...]) -> None:
    pose = parse_mount(" ".join(map(str, (*xyz, *rpy))))
    body = pose @ np.linalg.inv(parse_mount("0 0 0 0 0 0"))
    assert body[:3, 3] == pytest.approx(xyz, abs=1e-9)
    assert to_rpy(body) == pytest.approx(rpy, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["1 2 3", "1 2 3 4 5 6 7", "a b c d e f", "1 2 3 0 0 nan", "1 2 3 0 0 inf", "base_link"]
)
def test_a_mount_that_is_none_is_refused_with_what_it_should_be(text: str) -> None:
    with pytest.raises(ValueError, match="six numbers"):
        parse_mount(text)


@few
@given(
    st.tuples(numbers, numbers, numbers),
    st.tuples(angles, angles, angles),
    st.tuples(numbers, numbers, st.floats(0.1, 5)),
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
)
def test_how_sure_a_position_is_turns_with_it(
    xyz: tuple[float, ...], rpy: tuple[float, ...], place: tuple[float, float, float], root: list[float]
) -> None:
    """A distance in standard deviations is the same in every frame."""
    factor = np.reshape(root, (3, 3)) + 2 * np.eye(3)
    covariance = factor @ factor.T
    pose = from_xyz_rpy(xyz, rpy)
    region = replace(BALL, position=place, position_covariance=tuple(covariance.ravel()))
    moved = in_frame(region, TargetFrame("map", pose))
    assert moved.position is not None
    assert moved.position == pytest.approx((pose @ (*place, 1.0))[:3])
    step = np.array((0.3, -0.2, 0.5))
    turned = np.reshape(moved.position_covariance, (3, 3))
    far = (pose[:3, :3] @ step) @ np.linalg.solve(turned, pose[:3, :3] @ step)
    assert far == pytest.approx(step @ np.linalg.solve(covariance, step), rel=1e-6)


def test_without_a_transform_there_is_no_position_and_the_reason() -> None:
    lost = in_frame(replace(BALL, position_covariance=(1.0,) * 9), TargetFrame("map", missing="tf is empty"))
    assert (lost.position, lost.extent, lost.position_covariance, lost.frame_id) == (None, None, None, "")
    assert (lost.label, lost.box) == (BALL.label, BALL.box)
    assert lost.position_error == "NO_TRANSFORM: tf is empty"


def test_what_has_no_position_keeps_its_own_reason() -> None:
    region = replace(BALL, position=None, extent=None, position_error="NO_DEPTH: glass")
    assert in_frame(region, TargetFrame("map", missing="tf is empty")) == region
    assert in_frame(region, TargetFrame("map", np.eye(4))) == region


def test_the_distance_that_is_drawn_is_that_from_the_camera_in_every_frame() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    region = replace(BALL, box=(100.0, 200.0, 300.0, 400.0))
    moved = in_frame(region, TargetFrame("map", from_xyz_rpy((40.0, 0.0, 0.0), (0.1, 0.2, 0.3))))
    assert (annotate(image, "", "", [moved]) == annotate(image, "", "", [region])).all()


def test_a_mount_is_what_a_world_file_says_of_a_cameras_pose() -> None:
    world = Path(__file__).parents[2] / "worlds" / "tabletop.sdf"
    assert parse_mount("0.30 0 1.50 0 0.6 0") == pytest.approx(read_world(world).colour_camera().world_from_optical)
