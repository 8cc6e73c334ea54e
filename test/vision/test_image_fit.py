"""Fitted images suit the engine, look like the original, and their coordinates lead back to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import FitMode, Image, ImageInput
from qwen3vl_ros.vision.fit import Fit, fit_image, fitted_size, plan_fit

sides = st.integers(1, 20_000)
multiples = st.sampled_from([14, 28, 32])
budgets = st.integers(1, 2000)
MODES: tuple[FitMode, ...] = ("contain", "cover", "fill")
modes = st.sampled_from(MODES)
aspect_kept = st.builds(ImageInput, multiple=multiples, max_tokens=budgets, min_tokens=st.just(0) | budgets)
fixed_sizes = st.builds(ImageInput, size=st.tuples(sides, sides), fit=modes)
rotations = st.sampled_from([0, 90, 180, 270])


@st.composite
def fits_of_parts(draw: st.DrawFn) -> Fit:
    """Of a turned image, or of a part of one."""
    width, height, rotation = draw(sides), draw(sides), draw(rotations)
    part = None
    if draw(st.booleans()):
        across, down = (width, height) if rotation % 180 == 0 else (height, width)
        (left, right), (top, bottom) = (sorted(draw(st.tuples(*[st.integers(0, side)] * 2))) for side in (across, down))
        left, top = min(left, across - 1), min(top, down - 1)
        part = tuple(map(float, (left, top, max(right, left + 1), max(bottom, top + 1))))
    return plan_fit(width, height, draw(aspect_kept | fixed_sizes), rotation, part)


fits = st.builds(plan_fit, sides, sides, aspect_kept | fixed_sizes) | fits_of_parts()
small = st.integers(1, 90)
small_specs = st.builds(ImageInput, size=st.tuples(small, small), fit=modes) | st.builds(
    ImageInput, multiple=st.integers(1, 9), max_tokens=st.integers(1, 200), min_tokens=st.sampled_from([0, 30, 200])
)


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
@examples(300)
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
@examples(300)
def test_nothing_is_scaled_up_by_more_than_to_the_next_multiple(
    width: int, height: int, multiple: int, max_tokens: int
) -> None:
    fitted = fitted_size(width, height, multiple, max_tokens)
    assert fitted[0] < width + multiple
    assert fitted[1] < height + multiple


@given(width=st.integers(160, 4096), height=st.integers(160, 4096))
@example(width=202, height=183)
@examples(500)
def test_ordinary_images_keep_their_aspect_ratio_within_12_percent_and_most_of_their_pixels(
    width: int, height: int
) -> None:
    if not 1 / 3 < width / height < 3:
        return
    fitted = fitted_size(width, height, 32, 300)
    assert abs(math.log(fitted[0] / fitted[1] * height / width)) < 0.12
    assert fitted[0] * fitted[1] >= 0.8 * min(width * height, 300 * 32**2)


@given(width=sides, height=sides, multiple=multiples, max_tokens=budgets)
@examples(300)
def test_fitting_is_done_once(width: int, height: int, multiple: int, max_tokens: int) -> None:
    fitted = fitted_size(width, height, multiple, max_tokens)
    assert fitted_size(*fitted, multiple, max_tokens) == fitted


@examples(50)
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


@pytest.mark.parametrize(
    ("size", "tokens", "fitted"),
    [
        ((640, 480), 1024, (1152, 864)),  # 972 and the exact aspect ratio
        ((320, 240), 300, (640, 480)),
        ((64, 64), 1024, (1024, 1024)),
        ((640, 480), 300, (640, 480)),  # it has as many
        ((1920, 1080), 300, (736, 416)),  # it has more
        ((700, 32), 300, (704, 32)),  # a strip
    ],
)
def test_a_small_image_is_enlarged_to_the_tokens_asked_for(
    size: tuple[int, int], tokens: int, fitted: tuple[int, int]
) -> None:
    assert fitted_size(*size, 32, tokens, tokens) == fitted


@given(width=st.integers(32, 2000), height=st.integers(32, 2000), tokens=budgets, least=budgets)
@examples(300)
def test_enlarging_never_goes_beyond_what_was_asked_for_and_keeps_the_aspect_ratio(
    width: int, height: int, tokens: int, least: int
) -> None:
    plain, enlarged = fitted_size(width, height, 32, tokens), fitted_size(width, height, 32, tokens, least)
    area = width * height / 32**2
    if area >= least:
        assert enlarged == plain
        return
    have = enlarged[0] * enlarged[1] // 32**2
    assert have <= tokens
    if max(width, height) <= 3 * min(width, height) and 64 <= least <= tokens:
        assert 0.7 * least <= have <= 1.25 * least
        assert abs(math.log(enlarged[0] / enlarged[1] * height / width)) < 0.25


def test_an_image_that_suits_is_returned_itself() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    fitted, fit = fit_image(image, ImageInput(multiple=32, max_tokens=300))
    assert fitted is image
    everything = (0.0, 0.0, 640.0, 480.0)
    assert fit == Fit((640, 480), (640, 480), shown=everything, place=everything)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_the_encoders_size_is_returned_itself(mode: FitMode) -> None:
    image = np.zeros((448, 336, 3), np.uint8)
    fitted, fit = fit_image(image, ImageInput(size=(336, 448), fit=mode))
    assert fitted is image
    assert fit.shown == fit.place == (0.0, 0.0, 336.0, 448.0)


@examples(50)
@given(width=st.integers(1, 300), height=st.integers(1, 300), spec=small_specs)
def test_the_fitted_image_has_the_size_that_the_fit_says(width: int, height: int, spec: ImageInput) -> None:
    fitted, fit = fit_image(np.full((height, width, 3), 77, np.uint8), spec)
    assert fit == plan_fit(width, height, spec)
    assert fit.original_size == (width, height)
    assert fit.fitted_size == (spec.size or fitted_size(width, height, spec.multiple, spec.max_tokens, spec.min_tokens))
    assert fitted.shape == (fit.fitted_size[1], fit.fitted_size[0], 3)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    left, top, right, bottom = map(int, fit.place)
    assert (fitted[top:bottom, left:right] == 77).all()


@examples(50)
@given(fit=fits, x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_point_comes_back_where_it_was(fit: Fit, x: float, y: float) -> None:
    point = (x * fit.original_size[0], y * fit.original_size[1])
    assert fit.to_original(*fit.to_fitted(*point)) == pytest.approx(point, abs=1e-6)


@examples(50)
@given(fit=fits)
def test_corners_of_what_is_shown_are_corners_of_its_place(fit: Fit) -> None:
    (left, top, right, bottom), place = fit.shown, fit.place
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    places = [(place[0], place[1]), (place[2], place[1]), (place[2], place[3]), (place[0], place[3])]
    turns = fit.rotation // 90  # so many corners further is where each is seen
    for number, corner in enumerate(corners):
        seen = places[(number + turns) % 4]
        assert fit.to_fitted(*corner) == pytest.approx(seen, abs=1e-6)
        assert fit.to_original(*seen) == pytest.approx(corner, abs=1e-6)


@examples(50)
@given(fit=fits, x=st.floats(-9, 9), y=st.floats(-9, 9))
def test_a_direction_is_turned_as_the_points_are(fit: Fit, x: float, y: float) -> None:
    origin, there = fit.to_original(0, 0), fit.to_original(x, y)
    across, down = (fit.shown[2] - fit.shown[0], fit.shown[3] - fit.shown[1])
    wide, high = (fit.place[2] - fit.place[0], fit.place[3] - fit.place[1])
    if fit.rotation % 180:
        across, down = across * wide / high, down * high / wide
    moved = ((there[0] - origin[0]) * wide / across, (there[1] - origin[1]) * high / down)
    assert fit.direction_to_original(x, y) == pytest.approx(moved, abs=1e-4)


@examples(50)
@given(fit=fits)
def test_what_is_shown_lies_in_the_original_and_its_place_in_the_fitted_image(fit: Fit) -> None:
    for (left, top, right, bottom), (width, height) in ((fit.shown, fit.original_size), (fit.place, fit.fitted_size)):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def ramps(width: int, height: int) -> Image:
    """Red grows to the right, green downwards: a pixel's colour says where it is. Blue is 255 everywhere."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[..., 0] = np.round((np.arange(width) + 0.5) * 255 / width)
    image[..., 1] = np.round((np.arange(height) + 0.5) * 255 / height)[:, None]
    return image


@given(width=small, height=small, spec=small_specs)
@example(width=1, height=90, spec=ImageInput(size=(89, 3), fit="contain"))
@example(width=90, height=1, spec=ImageInput(size=(3, 89), fit="cover"))
@examples(300)
def test_every_fitted_pixel_shows_what_is_there_in_the_original_within_a_pixel(
    width: int, height: int, spec: ImageInput
) -> None:
    fitted, fit = fit_image(ramps(width, height), spec)
    left, top, right, bottom = map(int, fit.place)
    for axis, (start, end, size) in enumerate(((left, right, width), (top, bottom, height))):
        centres = np.arange(start, end) + 0.5
        there = np.array([fit.to_original(c, c)[axis] for c in centres])
        line = fitted[(top + bottom) // 2, left:right, axis] if axis == 0 else fitted[top:bottom, left, axis]
        seen = line * (size / 255)
        # Neither side can be sharper than its pixels, nor than the 256 levels that say where a pixel is.
        pixel = max(1.0, (fit.shown[axis + 2] - fit.shown[axis]) / (end - start))
        assert np.abs(seen - there).max() <= pixel + size / 255


@given(width=st.integers(2, 90), height=st.integers(2, 90), rotation=rotations, cut=st.booleans(), spec=small_specs)
@examples(300)
def test_every_pixel_of_a_turned_image_or_of_a_part_of_it_shows_what_is_there_within_a_pixel(
    width: int, height: int, rotation: Any, cut: bool, spec: ImageInput
) -> None:
    across, down = (width, height) if rotation % 180 == 0 else (height, width)
    part = (float(across // 3), float(down // 2), float(across), float(down)) if cut else None
    fitted, fit = fit_image(ramps(width, height), spec, rotation, part)
    assert fit == plan_fit(width, height, spec, rotation, part)
    assert fitted.shape == (*fit.fitted_size[::-1], 3)
    assert fitted.flags.c_contiguous
    left, top, right, bottom = map(int, fit.place)
    for y in {top, (top + bottom) // 2, bottom - 1}:
        for x in {left, (left + right) // 2, right - 1}:
            there = fit.to_original(x + 0.5, y + 0.5)
            for axis, size in enumerate((width, height)):
                steps = (right - left, bottom - top)[(axis + rotation // 90) % 2]
                pixel = max(1.0, (fit.shown[axis + 2] - fit.shown[axis]) / steps)
                assert abs(int(fitted[y, x, axis]) * size / 255 - there[axis]) <= pixel + size / 255


def test_an_image_is_turned_clockwise() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = 255
    turned, fit = fit_image(image, ImageInput(multiple=1), 90)
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].all() and turned.sum() == 3 * 255
    assert fit.to_original(1.5, 0.5) == pytest.approx((0.5, 0.5))


@given(width=small, height=small, to_width=small, to_height=small)
@examples(300)
def test_contain_shows_all_in_the_middle_of_black_bars(width: int, height: int, to_width: int, to_height: int) -> None:
    fitted, fit = fit_image(ramps(width, height), ImageInput(size=(to_width, to_height), fit="contain"))
    assert fit.shown == (0, 0, width, height)
    left, top, right, bottom = map(int, fit.place)
    assert fit.place == (left, top, right, bottom)  # bars are whole pixels
    assert (left, right) == (0, to_width) or (top, bottom) == (0, to_height)
    assert abs(left - (to_width - right)) <= 1
    assert abs(top - (to_height - bottom)) <= 1
    assert (fitted[top:bottom, left:right, 2] == 255).all()
    bars = np.ones(fitted.shape[:2], bool)
    bars[top:bottom, left:right] = False
    assert not fitted[bars].any()
    # The aspect ratio is kept as well as whole pixels allow.
    scale = min(to_width / width, to_height / height)
    assert abs((right - left) - width * scale) <= 1
    assert abs((bottom - top) - height * scale) <= 1


@given(width=sides, height=sides, to_width=sides, to_height=sides)
@examples(300)
def test_cover_shows_the_middle_at_its_true_aspect_ratio(
    width: int, height: int, to_width: int, to_height: int
) -> None:
    fit = plan_fit(width, height, ImageInput(size=(to_width, to_height), fit="cover"))
    assert fit.place == (0, 0, to_width, to_height)
    left, top, right, bottom = fit.shown
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert (right - left) == pytest.approx(width) or (bottom - top) == pytest.approx(height)
    assert (right - left) / (bottom - top) == pytest.approx(to_width / to_height)


def test_cover_cuts_off_both_ends_alike() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    fitted, _ = fit_image(image, ImageInput(size=(50, 50), fit="cover"))
    assert (fitted[:, 1:-1] > 250).all()
    fitted, _ = fit_image(image.transpose(1, 0, 2).copy(), ImageInput(size=(50, 50), fit="cover"))
    assert (fitted[1:-1] > 250).all()


@examples(50)
@given(width=sides, height=sides, to_width=sides, to_height=sides)
def test_fill_shows_all_everywhere(width: int, height: int, to_width: int, to_height: int) -> None:
    fit = plan_fit(width, height, ImageInput(size=(to_width, to_height), fit="fill"))
    assert (fit.shown, fit.place) == ((0, 0, width, height), (0, 0, to_width, to_height))


@pytest.mark.parametrize("mode", MODES)
def test_a_point_outside_what_is_seen_keeps_its_place(mode: FitMode) -> None:
    fit = plan_fit(1920, 1080, ImageInput(size=(448, 448), fit=mode))
    assert fit.to_original(224, 224) == pytest.approx((960, 540), abs=0.5)
    if mode == "contain":
        assert fit.place == (0, 98, 448, 350)
        assert fit.to_original(224, 0) == pytest.approx((960, -420))  # on the upper bar: above the image
    if mode == "cover":
        assert fit.shown == (420, 0, 1500, 1080)
        assert fit.to_fitted(0, 540) == pytest.approx((-174.22, 224), abs=0.01)  # cropped: beside the fitted image
    if mode == "fill":
        assert fit.to_original(448, 448) == pytest.approx((1920, 1080))


@pytest.mark.parametrize(
    "spec", [ImageInput(32, 300), *(ImageInput(size=(448, 448), fit=mode) for mode in MODES)], ids=str
)
@pytest.mark.parametrize("size", [(1920, 1080), (333, 777), (2000, 500), (111, 79)])
def test_what_is_seen_at_a_fitted_point_is_there_in_the_original(size: tuple[int, int], spec: ImageInput) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = width * 2 // 5, height * 2 // 5, width // 2, height * 4 // 7
    image[top:bottom, left:right] = 255
    fitted, fit = fit_image(image, spec)
    # the area and the centre of mass of the white box, in fitted coordinates: pixel (i, j) has its centre at +0.5
    weight = fitted[..., 0] / 255.0
    centre = (
        (weight.sum(axis=0) * (np.arange(fitted.shape[1]) + 0.5)).sum() / weight.sum(),
        (weight.sum(axis=1) * (np.arange(fitted.shape[0]) + 0.5)).sum() / weight.sum(),
    )
    assert fit.to_original(*centre) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=0.2)


@pytest.mark.parametrize("size", [(3201, 99), (99, 3201), (6400, 200), (1023, 31)], ids=str)
@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(
    "spec",
    [ImageInput(32, 300), ImageInput(32, 77), *(ImageInput(size=(448, 448), fit=mode) for mode in MODES)],
    ids=str,
)
def test_boxes_in_an_image_of_32_to_1_do_not_drift(size: tuple[int, int], rotation: Any, spec: ImageInput) -> None:
    fit = plan_fit(*size, spec, rotation)
    left, top, right, bottom = fit.shown
    thousandth = [fit.fitted_size[axis] / 1000 for axis in (0, 1)]
    for share in np.linspace(0, 1, 41):  # from one end to the other
        there = (left + share * (right - left), top + share * (bottom - top))
        x, y = fit.to_fitted(*there)
        written = (round(x / thousandth[0]) * thousandth[0], round(y / thousandth[1]) * thousandth[1])
        back = fit.to_original(*written)
        unit = fit.direction_to_original(*thousandth)  # as coarse as a model writes
        for axis in (0, 1):
            turned = (axis + rotation // 90) % 2
            scale = (fit.shown[axis + 2] - fit.shown[axis]) / (fit.place[turned + 2] - fit.place[turned])
            assert abs(back[axis] - there[axis]) <= abs(unit[axis]) * scale / 2 + 1e-6


@pytest.mark.parametrize("numbers", [(0, 1, 32, 1), (1, 0, 32, 1), (1, 1, 0, 1), (1, 1, 32, 0)])
def test_sizes_and_budgets_below_one_are_an_error(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        fitted_size(*numbers)
