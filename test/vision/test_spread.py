"""How far off a region may be, in pixels of the original image and in metres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo

from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.vision.camera_model import lens_of
from qwen3vl_ros.vision.coordinates import with_shape
from qwen3vl_ros.vision.fit import Rotation, plan_fit
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vision.spread import position_covariance, spread_of
from qwen3vl_ros.vision.tiles import merged

ROW, VARIANCES = [100.0, 200.0, 300.0, 500.0], [1.0, 4.0, 9.0, 16.0]


def test_the_spread_is_scaled_to_the_original_image() -> None:
    fit = plan_fit(2000, 500, ImageInput())
    assert spread_of(ROW, VARIANCES, fit, "relative_1000") == pytest.approx((2.0, 1.0, 6.0, 2.0))
    assert spread_of([100.0, 200.0], [1.0, 4.0], fit, "relative_1000") == pytest.approx((2.0, 1.0))


def test_each_side_has_the_spread_of_its_own_number_however_corners_are_ordered() -> None:
    fit = plan_fit(1000, 1000, ImageInput())
    swapped = [300.0, 200.0, 100.0, 500.0], [9.0, 4.0, 1.0, 16.0]
    assert spread_of(*swapped, fit, "relative_1000") == pytest.approx((1.0, 2.0, 3.0, 4.0))


def test_a_turned_image_has_the_spreads_of_its_own_sides() -> None:
    fit = plan_fit(1000, 1000, ImageInput(), 180)
    assert spread_of(ROW, VARIANCES, fit, "relative_1000") == pytest.approx((3.0, 4.0, 1.0, 2.0))


@given(st.integers(100, 3000), st.integers(100, 3000), st.sampled_from([0, 90, 180, 270]))
def test_a_side_moves_by_its_spread_where_its_number_does(width: int, height: int, rotation: Rotation) -> None:
    fit = plan_fit(width, height, ImageInput(), rotation)
    before = with_shape(Region("x"), "box", ROW, fit, "relative_1000").box
    spread = spread_of(ROW, VARIANCES, fit, "relative_1000")
    assert before is not None
    for number in range(4):
        moved = list(ROW)
        moved[number] += VARIANCES[number] ** 0.5
        after = with_shape(Region("x"), "box", moved, fit, "relative_1000").box
        assert after is not None
        changes = np.abs(np.subtract(after, before))
        (side,) = np.flatnonzero(changes > 1e-6)
        assert changes[side] == pytest.approx(spread[side], rel=1e-6)


def test_a_positions_covariance_is_the_spread_seen_from_that_distance() -> None:
    lens = lens_of(CameraInfo(width=640, height=480, k=[500.0, 0, 319.5, 0, 500.0, 239.5, 0, 0, 1]), "colour")
    ahead = Region("x", box=(310.0, 230.0, 330.0, 250.0), position=(0.0, 0.0, 2.0), spread=(3.0, 2.0, 4.0, 2.0))
    covariance = position_covariance(ahead, lens)
    across, down = 2.0 * 2.5 / 500, 2.0 * np.sqrt(2) / 500
    assert covariance == pytest.approx(tuple(np.diag([across**2, down**2, (across**2 + down**2) / 2]).ravel()))
    point = Region("x", point=(320.0, 240.0), position=(0.0, 0.0, 1.0), spread=(5.0, 10.0))
    assert np.diag(np.reshape(position_covariance(point, lens), (3, 3)))[:2] == pytest.approx((1e-4, 4e-4))


def test_the_covariance_is_of_a_position_and_a_spread_or_unknown() -> None:
    lens = lens_of(CameraInfo(width=640, height=480, k=[500.0, 0, 319.5, 0, 500.0, 239.5, 0, 0, 1]), "colour")
    assert position_covariance(Region("x", position=(0.0, 0.0, 2.0)), lens) is None
    assert position_covariance(Region("x", spread=(1.0, 1.0, 1.0, 1.0)), lens) is None


def test_a_thing_in_two_parts_has_the_greater_score_and_each_side_its_spread() -> None:
    fits = [
        plan_fit(1000, 500, ImageInput(), 0, part) for part in ((0.0, 0.0, 600.0, 500.0), (400.0, 0.0, 1000.0, 500.0))
    ]
    left = Region("cup", 0, (350.0, 100.0, 600.0, 200.0), score=0.5, spread=(1.0, 2.0, 3.0, 4.0))
    right = Region("cup", 1, (400.0, 100.0, 650.0, 210.0), score=0.8, spread=(5.0, 6.0, 7.0, 8.0))
    (whole,) = merged([left, right], fits)
    assert (whole.box, whole.score, whole.spread) == ((350.0, 100.0, 650.0, 210.0), 0.8, (1.0, 2.0, 7.0, 8.0))
