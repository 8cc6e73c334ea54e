"""An image in parts: every pixel is in one, and what two parts show is found once, whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.prompts.schema import naming_prompt, naming_schema
from qwen3vl_ros.vision.fit import Fit, plan_fit
from qwen3vl_ros.vision.grounding import parse_regions
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vision.tiles import OVERLAP, merged, tiles

sides = st.integers(1, 4000)
counts = st.integers(1, 9)
rotations = st.sampled_from([0, 90, 180, 270])
specs = st.sampled_from([ImageInput(), ImageInput(size=(448, 448)), ImageInput(size=(448, 448), fit="fill")])
WIDE = (3201, 333)


def fits_of(width: int, height: int, grid: tuple[int, int], spec: ImageInput, rotation: int = 0) -> list[Fit]:
    across, down = (width, height) if rotation % 180 == 0 else (height, width)
    return [plan_fit(width, height, spec, rotation, part) for part in tiles(across, down, *grid)]


@given(width=sides, height=sides, columns=counts, rows=counts)
def test_parts_are_whole_pixels_that_cover_the_image(width: int, height: int, columns: int, rows: int) -> None:
    parts = tiles(width, height, columns, rows)
    assert len(parts) == columns * rows
    for left, top, right, bottom in parts:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert all(edge.is_integer() for edge in (left, top, right, bottom))
    lefts, rights = [p[0] for p in parts[:columns]], [p[2] for p in parts[:columns]]
    assert lefts[0] == 0 and rights[-1] == width
    assert all(after <= before for before, after in zip(rights, lefts[1:], strict=False)) or width < columns * 2


@given(length=st.integers(100, 4000), columns=st.integers(2, 9))
def test_neighbours_share_a_fifth_of_themselves(length: int, columns: int) -> None:
    (first, second, *_) = tiles(length, 50, columns, 1)
    assert first[2] - second[0] == pytest.approx(OVERLAP * (first[2] - first[0]), abs=2)


things = st.tuples(*[st.floats(0, 1)] * 4)


@given(
    size=st.tuples(st.integers(300, 4000), st.integers(300, 4000)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    spec=specs, rotation=rotations, thing=things,
)  # fmt: skip
@examples(300)
def test_a_thing_that_every_part_reports_is_one_region_within_a_pixel(
    size: tuple[int, int], grid: tuple[int, int], spec: ImageInput, rotation: int, thing: tuple[float, ...]
) -> None:
    width, height = size
    left, top = thing[0] * width * 0.8, thing[1] * height * 0.8
    right, bottom = left + 20 + thing[2] * (width - left - 20), top + 20 + thing[3] * (height - top - 20)
    fits = fits_of(width, height, grid, spec, rotation)
    answer = []
    for number, fit in enumerate(fits, 1):
        seen = max(left, fit.shown[0]), max(top, fit.shown[1]), min(right, fit.shown[2]), min(bottom, fit.shown[3])
        if seen[2] - seen[0] > 4 and seen[3] - seen[1] > 4:  # a model does not report a sliver
            corners = (*fit.to_fitted(*seen[:2]), *fit.to_fitted(*seen[2:]))
            box = [value * 1000 / fit.fitted_size[axis % 2] for axis, value in enumerate(corners)]
            answer.append({"bbox_2d": box, "label": "cable", "image": number})
    found = merged(parse_regions(json.dumps(answer), fits).regions, fits)
    assert found[0].box is not None
    if len(found) == 1:
        assert found[0].box == pytest.approx((left, top, right, bottom), abs=5)
    else:  # parts that meet in less than the sliver that nobody reports
        assert min(right - left, bottom - top) < 60


def region(left: float, right: float, tile: int, label: str = "cup") -> Region:
    return Region(label, tile, box=(left, 100.0, right, 200.0))


def test_two_things_are_not_made_one() -> None:
    fits = fits_of(*WIDE, (2, 1), ImageInput())
    seam = (fits[0].shown[2] + fits[1].shown[0]) / 2
    beside = [region(seam - 60, seam - 10, 0), region(seam + 10, seam + 60, 1)]
    assert merged(beside, fits) == beside
    other = [region(seam - 60, seam + 60, 0), region(seam - 60, seam + 60, 1, "mug")]
    assert merged(other, fits) == other
    same_part = [region(100, 200, 0), region(100, 200, 0, "Cup")]
    assert merged(same_part, fits) == same_part


def test_a_thing_cut_by_both_parts_is_whole_again() -> None:
    fits = fits_of(*WIDE, (2, 1), ImageInput())
    start, end = fits[1].shown[0], fits[0].shown[2]
    (cable,) = merged([region(200, end, 0), region(start, 3000, 1, "Cup")], fits)
    assert cable.box == (200, 100.0, 3000, 200.0)


def test_a_point_in_what_both_parts_show_is_one() -> None:
    fits = fits_of(*WIDE, (2, 1), ImageInput())
    seam = (fits[0].shown[2] + fits[1].shown[0]) / 2
    near = [Region("tip", 0, point=(seam, 50.0)), Region("tip", 1, point=(seam + 3, 52.0))]
    assert len(merged(near, fits)) == 1
    apart = [near[0], Region("tip", 1, point=(seam + 90, 52.0))]
    assert len(merged(apart, fits)) == 2


def test_of_several_images_each_thing_names_its_own() -> None:
    item = {"type": "object", "properties": {"bbox_2d": {"type": "array"}, "label": {}}, "required": ["bbox_2d"]}
    schema = {"type": "array", "items": item}
    named = naming_schema(schema, 3)
    assert named["items"]["required"] == ["bbox_2d", "image"]
    assert named["items"]["properties"]["image"] == {"type": "integer", "minimum": 1, "maximum": 3}
    assert "image" not in schema["items"]["properties"]
    assert naming_schema({"type": "object", "properties": {"n": {}}}, 3) == {"type": "object", "properties": {"n": {}}}
    assert "3 pictures" in naming_prompt(3)
