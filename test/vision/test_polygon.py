"""A polygon of an image: what of it is shown, and that places in what is shown are those of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import BadRequest, ImageInput
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.polygon import bounds, only_inside, turned

WIDTH, HEIGHT = 60, 40
COORDINATES = st.floats(-80.0, 80.0)
INPUT = ImageInput(multiple=1, max_tokens=10**6)


def test_outside_is_grey_and_inside_is_as_it_was() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    cut = only_inside(image, [(10.0, 10.0), (50.0, 10.0), (30.0, 30.0)])
    assert (cut[12, 30] == 7).all() and (cut[28, 30] == 7).all()
    assert (cut[28, 12] == 128).all() and (cut[5, 30] == 128).all() and (cut[35, 30] == 128).all()
    assert (image == 7).all()


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8))
def test_bounds_lie_in_the_image_and_around_every_visible_corner(polygon: list[tuple[float, float]]) -> None:
    try:
        left, top, right, bottom = bounds(polygon, WIDTH, HEIGHT)
    except BadRequest:
        assert not any(0 < x < WIDTH and 0 < y < HEIGHT for x, y in polygon)
        return
    assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT
    for x, y in polygon:
        if 0 <= x <= WIDTH and 0 <= y <= HEIGHT:
            assert left <= x <= right and top <= y <= bottom


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_place_in_what_the_model_sees_is_that_place_of_the_whole_image(rotation: int) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[22, 13] = 255
    polygon = [(5.0, 10.0), (25.0, 10.0), (25.0, 35.0), (5.0, 35.0)]
    part = turned(bounds(polygon, WIDTH, HEIGHT), WIDTH, HEIGHT, rotation)
    shown, fit = fit_image(only_inside(image, polygon), INPUT, rotation, part)
    assert sorted(shown.shape[:2]) == [20, 25]
    (row,), (column,) = np.nonzero(shown[:, :, 0] == 255)
    assert fit.to_original(column + 0.5, row + 0.5) == pytest.approx((13.5, 22.5))


def test_a_polygon_beside_the_image_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="region: it lies outside of the image of 60x40 pixels"):
        bounds([(60.0, 0.0), (70.0, 0.0), (70.0, 9.0)], WIDTH, HEIGHT)
