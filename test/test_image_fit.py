"""Fitted pictures suit the engine, look like the original, and their coordinates lead back to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.vision.fit import Fit, fit_image, fitted_size

settings.register_profile("pictures", max_examples=50, deadline=None)  # a loaded machine is no failure
settings.load_profile("pictures")

sides = st.integers(1, 20_000)
multiples = st.sampled_from([14, 28, 32])
budgets = st.integers(1, 2000)
fits = st.builds(lambda *n: Fit((n[0], n[1]), (n[2], n[3])), sides, sides, sides, sides)


@pytest.mark.parametrize(
    ("size", "max_tokens", "fitted"),
    [
        ((640, 480), 300, (640, 480)),
        ((1920, 1080), 300, (736, 416)),
        ((1080, 1920), 300, (416, 736)),
        ((1280, 720), 300, (736, 416)),
        ((3840, 2160), 300, (736, 416)),
        ((448, 448), 49, (224, 224)),
        ((448, 448), 48, (192, 192)),  # the best square, not a 192x256 that has more pixels
        ((320, 240), 300, (320, 256)),
        ((100, 100), 300, (96, 96)),
        ((1, 1), 300, (32, 32)),
        ((1, 1), 1, (32, 32)),
        ((10000, 10), 300, (9600, 32)),
        ((10, 10000), 300, (32, 9600)),
    ],
)
def test_well_known_sizes(size: tuple[int, int], max_tokens: int, fitted: tuple[int, int]) -> None:
    assert fitted_size(*size, 32, max_tokens) == fitted


@given(width=sides, height=sides, multiple=multiples, max_tokens=budgets)
@settings(max_examples=300)
def test_the_fitted_size_is_whole_tiles_within_the_budget(
    width: int, height: int, multiple: int, max_tokens: int
) -> None:
    columns, columns_rest = divmod(fitted_size(width, height, multiple, max_tokens)[0], multiple)
    rows, rows_rest = divmod(fitted_size(width, height, multiple, max_tokens)[1], multiple)
    assert columns_rest == rows_rest == 0
    assert columns >= 1
    assert rows >= 1
    assert columns * rows <= max_tokens


@given(width=sides, height=sides, multiple=multiples, max_tokens=budgets)
@settings(max_examples=300)
def test_nothing_is_scaled_up_by_more_than_to_the_next_multiple(
    width: int, height: int, multiple: int, max_tokens: int
) -> None:
    fitted = fitted_size(width, height, multiple, max_tokens)
    assert fitted[0] < width + multiple
    assert fitted[1] < height + multiple


@given(width=st.integers(160, 4096), height=st.integers(160, 4096))
@example(width=202, height=183)
@settings(max_examples=500)
def test_ordinary_pictures_keep_their_aspect_ratio_within_12_percent_and_most_of_their_pixels(
    width: int, height: int
) -> None:
    if not 1 / 3 < width / height < 3:
        return
    fitted = fitted_size(width, height, 32, 300)
    assert abs(math.log(fitted[0] / fitted[1] * height / width)) < 0.12
    assert fitted[0] * fitted[1] >= 0.8 * min(width * height, 300 * 32**2)


@given(width=sides, height=sides, multiple=multiples, max_tokens=budgets)
@settings(max_examples=300)
def test_fitting_is_done_once(width: int, height: int, multiple: int, max_tokens: int) -> None:
    fitted = fitted_size(width, height, multiple, max_tokens)
    assert fitted_size(*fitted, multiple, max_tokens) == fitted


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    multiple=st.sampled_from([2, 3, 5]),
    max_tokens=st.integers(1, 80),
)
def test_no_grid_of_tiles_is_better_by_the_documented_measure(
    width: int, height: int, multiple: int, max_tokens: int
) -> None:
    ideal = min(width * height / multiple**2, max_tokens)

    def cost(columns: int, rows: int) -> float:
        return abs(math.log(columns / rows * height / width)) + abs(math.log(columns * rows / ideal)) / 2

    fitted = fitted_size(width, height, multiple, max_tokens)
    best = min(
        cost(columns, rows)
        for columns in range(1, math.ceil(width / multiple) + 1)
        for rows in range(1, math.ceil(height / multiple) + 1)
        if columns * rows <= max_tokens
    )
    assert cost(fitted[0] // multiple, fitted[1] // multiple) <= best + 1e-9


def test_a_picture_that_suits_is_returned_itself() -> None:
    picture = np.zeros((480, 640, 3), np.uint8)
    fitted, fit = fit_image(picture, ImageInput(multiple=32, max_tokens=300))
    assert fitted is picture
    assert fit == Fit((640, 480), (640, 480))


@given(width=st.integers(1, 300), height=st.integers(1, 300), max_tokens=st.integers(1, 60))
def test_the_fitted_picture_has_the_size_that_the_fit_says(width: int, height: int, max_tokens: int) -> None:
    fitted, fit = fit_image(np.full((height, width, 3), 77, np.uint8), ImageInput(32, max_tokens))
    assert fit.original_size == (width, height)
    assert fitted.shape == (fit.fitted_size[1], fit.fitted_size[0], 3)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    assert (fitted == 77).all()


@given(fit=fits, x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_point_comes_back_where_it_was(fit: Fit, x: float, y: float) -> None:
    point = (x * fit.original_size[0], y * fit.original_size[1])
    assert fit.to_original(*fit.to_fitted(*point)) == pytest.approx(point, abs=1e-6)


@given(fit=fits)
def test_corners_are_corners(fit: Fit) -> None:
    assert fit.to_original(0, 0) == (0, 0)
    assert fit.to_original(*fit.fitted_size) == pytest.approx(fit.original_size)
    assert fit.to_fitted(*fit.original_size) == pytest.approx(fit.fitted_size)


@pytest.mark.parametrize("size", [(1920, 1080), (333, 777), (2000, 500)])
def test_what_is_seen_at_a_fitted_point_is_there_in_the_original(size: tuple[int, int]) -> None:
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = width // 5, height // 3, width // 2, height // 2
    picture[top:bottom, left:right] = 255
    fitted, fit = fit_image(picture, ImageInput(32, 300))
    # the area and the centre of mass of the white box, in fitted coordinates: pixel (i, j) has its centre at +0.5
    weight = fitted[..., 0] / 255.0
    centre = (
        (weight.sum(axis=0) * (np.arange(fitted.shape[1]) + 0.5)).sum() / weight.sum(),
        (weight.sum(axis=1) * (np.arange(fitted.shape[0]) + 0.5)).sum() / weight.sum(),
    )
    assert fit.to_original(*centre) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.2)


@pytest.mark.parametrize("numbers", [(0, 1, 32, 1), (1, 0, 32, 1), (1, 1, 0, 1), (1, 1, 32, 0)])
def test_sizes_and_budgets_below_one_are_an_error(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        fitted_size(*numbers)
