"""Regions of an answer are measured in the depth image of the frame that it is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import Cancel, ImageInput
from qwen3vl_ros.vision import depth as depth_module
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.cameras import Camera, Depth
from qwen3vl_ros.vlm.images import InputImage, InputImages
from qwen3vl_ros.vlm.regions import regions_of

WIDTH, HEIGHT = 64, 48
N_IMAGES = 2
REGIONS = [{"point_2d": [500, 300 + 100 * number], "label": f"mark {number}"} for number in range(3)]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Region]]:
    """Measures all REGIONS on a wall 2 m in front of a depth camera 10 cm beside, in each of the images.

    ``on_transform`` is called whenever a depth image is transformed into the camera's frame.
    """
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    _, fit = fit_image(pixels, ImageInput())
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [60.0, 0.0, WIDTH / 2, 0.0, 60.0, HEIGHT / 2, 0.0, 0.0, 1.0]
    wall = ImageMessage(encoding="16UC1", width=WIDTH, height=HEIGHT, step=2 * WIDTH)
    wall.data = np.full((HEIGHT, WIDTH), 2000, "<u2").tobytes()
    beside = np.eye(4)
    beside[0, 3] = 0.1
    camera = cast("Camera", object())
    depth = Depth(wall, info, info, colour_from_depth=beside)
    view_of = depth_module.view_of

    def measure(cancel: Cancel, on_transform: Callable[[], Any]) -> list[Region]:
        def watched(*arguments: Any) -> Any:
            on_transform()
            return view_of(*arguments)

        monkeypatch.setattr(depth_module, "view_of", watched)
        images = tuple(InputImage(Header(), pixels, (fit,), camera, depth=depth) for _ in range(N_IMAGES))
        rows = [{**row, "image": number} for number in range(1, N_IMAGES + 1) for row in REGIONS]
        return list(regions_of(json.dumps(rows), (), InputImages(images), "relative_1000", lambda _: None, cancel))

    return measure


def test_a_depth_image_is_transformed_once_for_all_regions_in_it(measure: Callable[..., list[Region]]) -> None:
    transformed: list[None] = []
    found = measure(Cancel(), lambda: transformed.append(None))
    assert [region.image_index for region in found] == [0, 0, 0, 1, 1, 1]
    assert [region.position[2] for region in found if region.position] == pytest.approx([2.0] * 6)
    assert len(transformed) == N_IMAGES


def test_once_the_goal_has_ended_no_further_region_is_measured(measure: Callable[..., list[Region]]) -> None:
    cancel = Cancel()
    first, *others = measure(cancel, cancel.set)
    assert first.position is not None
    assert [region.position for region in others] == [None] * 5
    assert {region.position_error for region in others} == {"NO_DEPTH: the goal ended before it was measured"}
    assert not any(region.position for region in measure(cancel, lambda: pytest.fail("nothing is to be transformed")))
