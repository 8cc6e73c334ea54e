"""A camera_info is read as drivers publish it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from qwen3vl_ros.vision.camera_model import CalibrationError, Lens, lens_of

K = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]
FIVE = [-0.28, 0.07, 0.001, -0.0008, 0.02]
EIGHT = [0.41, -0.32, 0.0006, -0.0004, -0.05, 0.74, -0.31, -0.15]
PRISM = [0.002, -0.001, 0.003, 0.0005]
TILT = [0.01, -0.02]
FISHEYE = [-0.03, 0.012, -0.008, 0.002]


def lens(model: str, d: list[float]) -> Lens:
    return lens_of(CameraInfo(width=640, height=480, k=K, distortion_model=model, d=d), "colour")


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", FIVE),
        ("plumb_bob", [*FIVE, 0.0, 0.0, 0.0]),  # Orbbec: OrbbecSDK_ROS2 #216
        ("plumb_bob", EIGHT),  # the same driver, where the camera has all eight
        ("plumb_bob", [*EIGHT, *PRISM, *TILT]),  # OAK-D W: rtabmap #1560
        ("plumb_bob", FIVE[:4]),
        ("rational_polynomial", EIGHT),
        ("rational_polynomial", FIVE),
        ("rational_polynomial", [*EIGHT, *PRISM]),  # Isaac Sim
        ("rational_polynomial", [*EIGHT, *PRISM, *TILT]),
        ("rational_polynomial", [*EIGHT, *PRISM, 0.0, 0.0]),
        ("", FIVE),
        ("plumb_bob", EIGHT[:7]),
        ("plumb_bob", [*FIVE, *[0.0] * 20]),
    ],
)
def test_every_number_of_coefficients_is_opencvs_formula(model: str, d: list[float]) -> None:
    rays = np.array([[0.0, 0.0], [0.2, -0.1], [-0.3, 0.25]])
    every = np.array((d + [0.0] * 14)[:14])
    points = np.column_stack([rays, np.ones(3)])
    wanted = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), every)[0][:, 0] + 0.5
    seen = lens(model, d)
    assert np.allclose(seen.project(rays), wanted, atol=1e-6)
    assert np.allclose(seen.rays(wanted), rays, atol=1e-6)


@pytest.mark.parametrize("d", [FISHEYE, [*FISHEYE, 0.0]])  # the T265 publishes five: realsense-ros #1989
def test_a_fisheye_has_four(d: list[float]) -> None:
    assert lens("equidistant", d) == lens("equidistant", FISHEYE)


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant", "", "unheard_of"])
@pytest.mark.parametrize("count", [0, 1, 5, 14])
def test_zeros_are_no_distortion_whatever_the_model(model: str, count: int) -> None:
    assert lens(model, [0.0] * count).d == ()


@pytest.mark.parametrize(
    ("model", "d", "sentence"),
    [
        ("plumb_bob", [0.1, 0.2], "plumb_bob has 4 to 14 finite numbers"),
        ("rational_polynomial", [0.1] * 15, "rational_polynomial has 4 to 14"),
        ("", [0.1], "without a name has 4 to 14"),
        ("equidistant", [0.1] * 5, "equidistant has 4 finite numbers"),
        ("plumb_bob", [0.1, float("nan"), 0.0, 0.0], "finite numbers"),
        ("thin_prism", [0.1] * 4, "supported are plumb_bob, rational_polynomial, equidistant"),
    ],
)
def test_other_numbers_are_refused_in_words(model: str, d: list[float], sentence: str) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        lens(model, d)
