"""What a model points at in the image that it saw becomes regions in pixels of the original, or a reason why not."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import FitMode, ImageInput
from qwen3vl_ros.vision.fit import Fit, plan_fit
from qwen3vl_ros.vision.grounding import Grounding, GroundingError, parse_regions
from qwen3vl_ros.vision.region import Region

SQUARE = plan_fit(1000, 1000, ImageInput(size=(500, 500), fit="fill"))
"""Of an image whose pixels are thousandths, so that coordinates stay as they are written."""

MODES: tuple[FitMode, ...] = ("contain", "cover", "fill")
sides = st.integers(1, 5000)
aspect_kept = st.builds(ImageInput, multiple=st.sampled_from([28, 32]), max_tokens=st.integers(1, 1200))
fixed_sizes = st.builds(ImageInput, size=st.tuples(sides, sides), fit=st.sampled_from(MODES))
rotations = st.sampled_from([0, 90, 180, 270])
fits = st.builds(plan_fit, sides, sides, aspect_kept | fixed_sizes, rotations)


def regions(text: str) -> list[Region]:
    """All that ``text`` points at in one image; nothing may be left out."""
    grounding = parse_regions(text, [SQUARE])
    assert grounding.skipped == ()
    return list(grounding.regions)


def boxes(text: str) -> list[Any]:
    return [(region.label, *region.box) for region in regions(text) if region.box]


def test_in_a_clip_a_time_says_the_frame_and_without_one_it_is_the_last() -> None:
    def frames(*things: dict[str, Any], enclosed: bool = False) -> list[tuple[str, int]]:
        text = json.dumps([{"time": "0:01", "frames": things}] if enclosed else things)
        found = parse_regions(text, [SQUARE] * 4, times=[0.0, 0.5, 1.0, 2.0])
        assert found.skipped == ()
        return [(region.label, region.image_index) for region in found.regions]

    box = {"bbox_2d": [100, 200, 300, 400]}
    timed = [{"time": time, "label": str(time), **box} for time in (0.2, 0.8, "<2.0 seconds>", "00:00:01.9", 2.4)]
    assert frames(*timed) == [("0.2", 0), ("0.8", 2), ("<2.0 seconds>", 3), ("00:00:01.9", 3), ("2.4", 3)]
    assert frames({"label": "cup", **box}, enclosed=True) == [("cup", 2)]
    assert frames({"label": "cup", **box}) == [("cup", 3)]
    assert frames({"label": "cup", "image": 2, **box}) == [("cup", 1)]
    found = parse_regions(json.dumps([{"time": 9, "label": "cup", **box}, box]), [SQUARE] * 2, times=[0.0, 4.0])
    assert [region.image_index for region in found.regions] == [1]
    assert found.skipped == ("'cup' is at a time outside of the clip, which is 4 s long",)


# ---- what models of the Qwen-VL family write ----

CUPS = [("cup", 100, 200, 300, 400), ("red mug", 500, 0, 999, 333)]

LIKE_THE_COOKBOOKS = {
    "detection": """```json
[
	{"bbox_2d": [100, 200, 300, 400], "label": "cup"},
	{"bbox_2d": [500, 0, 999, 333], "label": "red mug"}
]
```""",
    "prose around it": """I looked [twice] at the table's {left} side, it's there (see below):

```json
[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}, {"bbox_2d": [500, 0, 999, 333], "label": "red mug"}]
```
So there are 2 of them [in all]; that's it.""",
    "compact": '[{"bbox_2d":[100,200,300,400],"label":"cup"},{"bbox_2d":[500,0,999,333],"label":"red mug"}]',
    "an object per line": """{"bbox_2d": [100, 200, 300, 400], "label": "cup"}
{"bbox_2d": [500, 0, 999, 333], "label": "red mug"}""",
    "a fence per object": """The cup: ```json
{"bbox_2d": [100, 200, 300, 400], "label": "cup"}
``` and the mug: ```json
{"bbox_2d": [500, 0, 999, 333], "label": "red mug"}
```""",
    "attributes": """[{"bbox_2d": [100, 200, 300, 400], "label": "cup", "type": "dish", "color": [255, 0, 0, 1]},
 {"type": "dish", "label": "red mug", "bbox_2d": [500, 0, 999, 333], "score": 0.9, "owner": null}]""",
    "text spotting": """{"detections": [{"bbox_2d": [
        100,
        200,
        300,
        400
      ], "text_content": "cup"}, {"bbox_2d": [500, 0, 999, 333], "text_content": "red mug"}]}""",
    "names in two languages": """[{"bbox_2d": [100, 200, 300, 400], "name_zh": "杯子", "name_en": "cup"},
{"bbox_2d": [500, 0, 999, 333], "names": {"zh": "红色马克杯", "en": "red mug"}}]""",
    "a brace too many": """```json
[
	{
	{"bbox_2d": [100, 200, 300, 400],
		"label": "cup"
	},
	{
		"bbox_2d": [500, 0, 999, 333],
		"label": "red mug"
	}
]
```""",
    "a brace too few": """[{"bbox_2d": [100, 200, 300, 400], "label": "cup",
{"bbox_2d": [500, 0, 999, 333], "label": "red mug"]""",
    "one object for both": """{"bbox_2d": [100, 200, 300, 400], "label": "cup",
"bbox_2d": [500, 0, 999, 333], "label": "red mug"}""",
    "Python": """[{'bbox_2d': (100, 200, 300, 400), 'label': 'cup', 'full': None, 'hot': True},
{'bbox_2d': (500, 0, 999, 333), 'label': 'red mug'}]""",
    "trailing commas and comments": """[ // both
  {"bbox_2d": [100, 200, 300, 400,], "label": "cup",}, # the left one, "really"
  /* {"bbox_2d": [1, 2, 3, 4]} is none */ {"bbox_2d": [500, 0, 999, 333], "label": "red mug",},
]""",
    "strings and swapped corners": """[{"bbox_2d": ["100", "400", "300", "200"], "label": "cup"},
{"bbox_2d": "[999, 333, 500, 0]", "label": "red mug"}]""",
    "floats": """[{"bbox_2d": [100.0, 2e2, +300, 400.], "label": "cup"},
{"bbox_2d": [500.000, 0.0, 999.0, 333.0], "label": "red mug"}]""",
    "corners": """{"objects": [{"name": "cup", "bbox": {"x1": 100, "y1": 200, "x2": 300, "y2": 400}},
{"name": "red mug", "bbox_2d": [[500, 0], [999, 333]]}]}""",
    "flat keys": """[{"label": "cup", "xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400},
{"label": "red mug", "x": 500, "y": 0, "width": 499, "height": 333}]""",
    "no quotes": "[{bbox_2d: [100, 200, 300, 400], label: cup}, {bbox_2d: [500, 0, 999, 333], label: 'red mug'}]",
    "curly quotes": """[{“bbox_2d”: [100, 200, 300, 400], “label”: “cup”},
{“bbox_2d”: [500, 0, 999, 333], “label”: “red mug”}]""",
    "nested lists": """[[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}],
[[{"bbox_2d": [[500, 0, 999, 333]], "label": "red mug"}]]]""",
    "a bracket never closed in the prose": """Values in [0, 1000) are relative; don't worry:
[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}, {"bbox_2d": [500, 0, 999, 333], "label": "red mug"}]""",
    "Qwen-VL": "<ref>cup</ref><box>(100,200),(300,400)</box> and <ref>red mug</ref><box>(500,0),(999,333)</box>.",
    "Qwen2-VL": """<|object_ref_start|>cup<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>
<|object_ref_start|>red mug<|object_ref_end|><|box_start|>(500,0),(999,333)<|box_end|><|im_end|>""",
}


@pytest.mark.parametrize("text", LIKE_THE_COOKBOOKS.values(), ids=LIKE_THE_COOKBOOKS)
def test_boxes_are_read_in_every_way_that_models_write_them(text: str) -> None:
    assert boxes(text) == CUPS


@pytest.mark.parametrize(
    "text",
    [
        '```json\n[\n\t{"point_2d": [250, 500], "label": "knob"},\n\t{"point_2d": [10, 20], "label": "knob"}\n]\n```',
        '[{"point": [250, 500], "name": "knob"}, {"x": 10, "y": 20, "label": "knob"}]',
        '{"points": [[250, 500], [10, 20]], "label": "knob"}',
        '{"points": [{"x": 250, "y": 500}, {"x": "10", "y": "20"}], "label": "knob"}',
        '{"points": [250, 500, 10, 20], "label": "knob"}',
        '{"points": [{"point_2d": [250, 500], "label": "knob"}, {"point_2d": [10, 20], "label": "knob"}]}',
        '<points x1="250" y1="500" x2="10" y2="20" alt="knob">knobs</points>',
        "Here: <point x='250' y='500'>knob</point>, <point x = 10.0 y = 20.0 alt = 'knob'/>",
        "<ref>knob</ref><box>(250,500)</box><|box_start|>(10, 20)<|box_end|>",
    ],
)
def test_points_are_a_region_each(text: str) -> None:
    assert regions(text) == [Region("knob", point=(250, 500)), Region("knob", point=(10, 20))]


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "sign", "polygon": [[0, 0], [100, 0], [100, 50]]}',
        '{"label": "sign", "segmentation": [[0, 0, 100, 0, 100, 50]]}',
        '{"label": "sign", "polygon": [{"x": 0, "y": 0}, {"x": 100, "y": 0}, {"x": 100, "y": 50}]}',
        '{"text": "sign", "bbox_2d": [0, 0, 100, 0, 100, 50]}',
        "<ref>sign</ref><quad>(0,0),(100,0),(100,50)</quad>",
    ],
)
def test_polygons_are_one_region(text: str) -> None:
    [region] = regions(text)
    assert (region.label, region.box, region.point) == ("sign", None, None)
    assert sorted(region.polygon) == [(0, 0), (100, 0), (100, 50)]


def test_where_the_computer_is_to_be_clicked_is_a_point() -> None:
    call = '{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [500, 300]}}'
    assert regions(f"<tool_call>\n{call}\n</tool_call>") == [Region("", point=(500, 300))]


def test_a_box_in_space_is_a_position_and_an_extent_in_metres() -> None:
    text = """```json
[
	{"bbox_3d":[2.88,0.56,6.28,4.45,1.7,1.84,0.75,0.49,0.75],"label":"car"},
	{"bbox_3d": [-0.4, -0.26, 2.71, 0.76, 0.96, 0.78, 0.16, 0.13, 0.08], "label": "black chair"}
]
```"""
    assert regions(text) == [
        Region("car", position=(2.88, 0.56, 6.28), extent=(4.45, 1.7, 1.84)),
        Region("black chair", position=(-0.4, -0.26, 2.71), extent=(0.76, 0.96, 0.78)),
    ]


def test_a_box_in_space_is_turned_back_with_the_image() -> None:
    text = '{"bbox_3d": [0.1, 0.2, 2, 0.3, 0.4, 0.5, 0, 0, 0], "label": "chair"}'
    expected = {0: (0.1, 0.2, 2), 90: (0.2, -0.1, 2), 180: (-0.1, -0.2, 2), 270: (-0.2, 0.1, 2)}
    for rotation, position in expected.items():
        fit = plan_fit(640, 480, ImageInput(), rotation)
        (chair,) = parse_regions(text, [fit]).regions
        assert chair.position == pytest.approx(position)


def test_several_shapes_of_one_thing_are_one_region() -> None:
    text = '{"label": "cup", "bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3], "bbox_3d": [0, 0, 1, 0.1, 0.1, 0.1, 0, 0, 0]}'
    assert regions(text) == [Region("cup", 0, (1, 2, 3, 4), (2, 3), (), (0, 0, 1), (0.1, 0.1, 0.1))]


def test_several_boxes_under_one_label_are_a_region_each() -> None:
    text = '{"label": "cup", "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}'
    assert boxes(text) == [("cup", 1, 2, 3, 4), ("cup", 5, 6, 7, 8)]
    assert boxes("<ref>cup</ref><box>(1,2),(3,4), (5,6),(7,8)</box>") == boxes(text)


def test_what_a_region_is_made_of_is_no_region_of_its_own() -> None:
    text = '{"label": "cup", "bbox_2d": [1, 2, 3, 4], "center": {"x": 2, "y": 3}, "near": [{"x": 9, "y": 9}]}'
    assert boxes(text) == [("cup", 1, 2, 3, 4)]
    assert len(regions(text)) == 1


def test_lists_of_numbers_are_boxes_and_points_where_nothing_has_a_name() -> None:
    assert boxes("It is at [10, 20, 30, 40].") == [("", 10, 20, 30, 40)]
    assert boxes("[[10, 20, 30, 40], [50, 60, 70, 80]]") == [("", 10, 20, 30, 40), ("", 50, 60, 70, 80)]
    assert regions("[[10, 20], [30, 40]]") == [Region("", point=(10, 20)), Region("", point=(30, 40))]
    assert boxes('Of [1, 2] I mean {"bbox_2d": [10, 20, 30, 40]}') == [("", 10, 20, 30, 40)]


@pytest.mark.parametrize(
    ("written", "label"),
    [
        (r'"say \"hi\""', 'say "hi"'),
        (r"'caf\xe9 \U0001f600'", "café \U0001f600"),
        (r'"caf\u00e9 \ud83d\ude00 \\ /\/"', "café \U0001f600 \\ //"),
        ('"the "big", red one"', 'the "big", red one'),
        ("'the child's toy'", "the child's toy"),
        ('"two\nlines"', "two\nlines"),
        (r'"two\nlines"', "two\nlines"),
        ('"a: [b], {c} // d"', "a: [b], {c} // d"),
        ('"  "', ""),
        ("null", ""),
        ("7", "7"),
        (r'"\ud800x\u0000y"', "�x�y"),
    ],
)
def test_labels_are_what_the_model_meant_and_safe_to_send(written: str, label: str) -> None:
    [first, second] = regions(f'[{{"label": {written}, "bbox_2d": [1, 2, 3, 4]}}, {{"bbox_2d": [5, 6, 7, 8]}}]')
    assert (first.label, first.box, second.box) == (label, (1, 2, 3, 4), (5, 6, 7, 8))
    first.label.encode()


def test_a_model_that_repeats_itself_points_once() -> None:
    once = '{"bbox_2d": [1, 2, 3, 4], "label": "cup"}'
    assert boxes(f"[{', '.join([once] * 50)}, {once[:17]}") == [("cup", 1, 2, 3, 4)]


# ---- nothing, and no sense ----


@pytest.mark.parametrize(
    "text",
    ["[]", "```json\n[]\n```", "There are none:\n[ ]", "{}", '{"objects": []}', '{"found": false, "objects": [ ]}',
     '[{"label": "cup", "bbox_2d": []}]', '{"label": "cup", "bbox_2d": null}'],
)  # fmt: skip
def test_an_answer_that_says_there_is_nothing_has_no_regions(text: str) -> None:
    assert parse_regions(text, [SQUARE]) == Grounding(())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "points at nothing"),
        ("There is no cup in this picture.", "'There is no cup in this picture.'"),
        ('{"answer": "no cup"}', "points at nothing"),
        ('[{"label": "cup"}]', "points at nothing"),
        ('```json\n[{"bbox_2d": [1, 2, 3', "max_tokens"),
        ('[{"bbox_2d": [1, 2, 3, 4', "max_tokens"),  # the 4 may be the beginning of 482
        ('{"attributes": [], "bbox_2d": [1, 2,', "max_tokens"),
        ('```json\n[{"bbox_2d": [1, 2, 3, 4\n```\n]', "max_tokens"),
        ('[{"bbox_2d": [1, 2, 3], "label": "cup"}]', "'cup' has a bbox_2d that is no box: '[1, 2, 3]"),
        ('[{"bbox_2d": [1, 2, NaN, 4]}]', "a region without a label has a bbox_2d that is no box"),
        ('[{"bbox_2d": [1, 2, 1e999, 4]}]', "finite"),
        ('[{"bbox_2d": {"language": "en"}, "label": "cup"}]', "no box"),
        ('[{"point_2d": [1, 2, 3, 4]}]', "no point"),
        ('[{"polygon": [[1, 2], [3, 4]]}]', "no polygon"),
        ('[{"bbox_2d": [500, 300, 1800, 900]}]', "another scale"),
        ('[{"point_2d": [-300, 500]}]', "another scale"),
        ('[{"bbox_2d": [0.25, 0.1, 0.5, 0.9]}]', "fractions of 1"),
        ('[{"bbox_2d": [1001, 10, 1040, 20]}]', "nothing inside the image"),
        ('[{"bbox_3d": [0, 0, -1, 1, 1, 1, 0, 0, 0]}]', "behind the camera"),
        ('[{"bbox_3d": [0, 0, 1, 1, -1, 1, 0, 0, 0]}]', "negative size"),
        ('[{"bbox_3d": [0, 0, 1, 1, 1]}]', "no space"),
    ],
)
def test_an_answer_without_a_usable_region_is_an_error_that_says_why(text: str, why: str) -> None:
    with pytest.raises(GroundingError) as error:
        parse_regions(text, [SQUARE])
    assert why in str(error.value)


def test_what_cannot_be_used_is_said_beside_what_can() -> None:
    grounding = parse_regions('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6], "label": "b"}]', [SQUARE])
    assert [region.box for region in grounding.regions] == [(1, 2, 3, 4)]
    assert grounding.skipped == ("'b' has a bbox_2d that is no box: '[5, 6], \"label\": \"b\"}]'",)


def test_no_images_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="fit of each image"):
        parse_regions("[]", [])


# ---- which image ----

PAIR = (SQUARE, plan_fit(200, 100, ImageInput(size=(500, 500), fit="fill")))


@pytest.mark.parametrize(
    "text",
    [
        '[{"image": 1, "bbox_2d": [0, 0, 500, 500]}, {"image": 2, "bbox_2d": [0, 0, 500, 500]}]',
        '[{"bbox_2d": [0, 0, 500, 500], "image": "Image 1"}, {"bbox_2d": [0, 0, 500, 500], "picture": "Picture 2"}]',
        '[{"image_index": 0, "bbox_2d": [0, 0, 500, 500]}, {"image_index": "1", "bbox_2d": [0, 0, 500, 500]}]',
        '[{"image": 1, "objects": [{"bbox_2d": [0, 0, 500, 500]}]},'
        ' {"objects": [{"bbox_2d": [0, 0, 500, 500]}], "image": 2}]',
        '{"image_1": [{"bbox_2d": [0, 0, 500, 500]}], "Image 2": {"bbox_2d": [0, 0, 500, 500]}}',
    ],
)
def test_a_region_is_in_the_image_that_it_names(text: str) -> None:
    grounding = parse_regions(text, PAIR)
    assert grounding == Grounding((Region("", 0, (0, 0, 500, 500)), Region("", 1, (0, 0, 100, 50))))


@pytest.mark.parametrize(
    "image",
    ['"image": 0', '"image": 3', '"image": 1.5', '"image": "cup.jpg"', '"label": "image 1"', '"image_index": 2',
     '"image_index": -1'],
)  # fmt: skip
def test_a_region_in_no_image_that_there_is_is_left_out_rather_than_put_into_another(image: str) -> None:
    text = f'[{{"image": 1, "bbox_2d": [1, 2, 3, 4]}}, {{{image}, "bbox_2d": [5, 6, 7, 8]}}]'
    grounding = parse_regions(text, PAIR)
    assert [region.box for region in grounding.regions] == [(1, 2, 3, 4)]
    assert len(grounding.skipped) == 1
    assert "image" in grounding.skipped[0]


@pytest.mark.parametrize("image", ['"image": 1', '"image": 0', '"image_index": 1', '"image": "cup.jpg"'])
def test_of_one_image_it_is_that_one(image: str) -> None:
    assert boxes(f'[{{"bbox_2d": [1, 2, 3, 4], {image}}}]') == [("", 1, 2, 3, 4)]


def test_the_second_of_one_image_is_none() -> None:
    with pytest.raises(GroundingError, match="image 2"):
        parse_regions('[{"bbox_2d": [1, 2, 3, 4], "image": 2}]', [SQUARE])


# ---- where in the image ----


def written(fit: Fit, scale: str, x: float, y: float) -> tuple[float, float]:
    """The point (x, y) of the original as a model writes it that sees the fitted image."""
    x, y = fit.to_fitted(x, y)
    return (x, y) if scale == "pixels" else (x * 1000 / fit.fitted_size[0], y * 1000 / fit.fitted_size[1])


shares = st.floats(0, 1)
scales = st.sampled_from(["relative_1000", "pixels"])


@given(fit=fits, scale=scales, places=st.lists(st.tuples(shares, shares), min_size=3, max_size=6))
def test_what_was_pointed_at_comes_back_within_a_pixel(fit: Fit, scale: Any, places: list[tuple[float, float]]) -> None:
    left, top, right, bottom = fit.shown
    points = [(left + (right - left) * x, top + (bottom - top) * y) for x, y in places]
    (left, right), (top, bottom) = (sorted((points[0][axis], points[1][axis])) for axis in (0, 1))
    assume(min((right - left) / fit.original_size[0], (bottom - top) / fit.original_size[1]) > 1e-5)
    corners = [*written(fit, scale, left, top), *written(fit, scale, right, bottom)]
    outline = [written(fit, scale, *point) for point in points]
    assume(max(corners) > 1 and all(max(point) > 1 for point in outline))  # else: fractions of 1
    text = json.dumps([{"bbox_2d": corners}, {"point_2d": outline[0]}, {"polygon": outline}])
    grounding = parse_regions(text, [fit], scale)
    assert grounding.skipped == ()
    box, point, polygon = grounding.regions
    assert box.box == pytest.approx((left, top, right, bottom), abs=1)
    assert point.point == pytest.approx(points[0], abs=1)
    assert len(polygon.polygon) == len(points)
    assert all(there == pytest.approx(here, abs=1) for there, here in zip(polygon.polygon, points, strict=True))


@given(fit=fits, corners=st.tuples(*[st.integers(0, 1000)] * 4))
@examples(200)
def test_whole_thousandths_are_where_they_are_in_the_fitted_image(fit: Fit, corners: Sequence[int]) -> None:
    (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
    assume(right - left > 1 and bottom - top > 1)
    width, height = fit.fitted_size
    expected = [
        *fit.to_original(left / 1000 * width, top / 1000 * height),
        *fit.to_original(right / 1000 * width, bottom / 1000 * height),
    ]
    expected = [*map(min, expected[:2], expected[2:]), *map(max, expected[:2], expected[2:])]  # turned: other corners
    clipped = [min(max(v, fit.shown[i % 2]), fit.shown[i % 2 + 2]) for i, v in enumerate(expected)]
    visible = min((clipped[i + 2] - clipped[i]) / fit.original_size[i] for i in (0, 1))
    assume(visible == 0 or visible > 1e-5)
    try:
        [region] = parse_regions(json.dumps({"bbox_2d": corners}), [fit]).regions
    except GroundingError:
        assert visible == 0  # on a black bar
    else:
        assert visible > 0
        assert region.box == pytest.approx(clipped, abs=0.01)


@given(fit=fits, scale=scales, rows=st.lists(st.lists(st.floats() | st.integers(-100, 1100), max_size=9), max_size=4))
@examples(200)
def test_regions_are_always_inside_their_image(fit: Fit, scale: Any, rows: list[list[float]]) -> None:
    keys = ("bbox_2d", "point_2d", "polygon", "bbox_3d", "points")
    try:
        grounding = parse_regions(json.dumps([{key: row} for row in rows for key in keys]), [fit], scale)
    except GroundingError:
        return
    check_inside(grounding, [fit])


def check_inside(grounding: Grounding, fits: Sequence[Fit]) -> None:
    for region in grounding.regions:
        width, height = fits[region.image_index].original_size
        assert region.box or region.point or region.polygon or region.position
        if region.box:
            left, top, right, bottom = region.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        for x, y in (*region.polygon, *([region.point] if region.point else [])):
            assert 0 <= x <= width
            assert 0 <= y <= height
        assert len(region.polygon) != 1
        if region.position or region.extent:
            assert region.position is not None
            assert region.extent is not None
            assert all(map(math.isfinite, (*region.position, *region.extent)))
        region.label.encode()


LETTERBOX = plan_fit(1920, 1080, ImageInput(size=(448, 448), fit="contain"))  # the image is from 218.75 to 781.25
CROPPED = plan_fit(1920, 1080, ImageInput(size=(448, 448), fit="cover"))  # of which 420 to 1500 is seen


def test_a_box_over_a_black_bar_ends_with_the_image() -> None:
    [region] = parse_regions('{"bbox_2d": [250, 0, 500, 500]}', [LETTERBOX]).regions
    assert region.box == pytest.approx((480, 0, 960, 540))


def test_a_box_over_the_edge_of_what_was_seen_ends_there() -> None:
    [region] = parse_regions('{"bbox_2d": [-20, 500, 500, 1020]}', [CROPPED]).regions
    assert region.box == pytest.approx((420, 540, 960, 1080))


@pytest.mark.parametrize("shape", ['"bbox_2d": [0, 0, 999, 218]', '"point_2d": [500, 100]',
                                   '"polygon": [[0, 0], [999, 0], [500, 210]]'])  # fmt: skip
def test_what_is_on_a_black_bar_is_left_out(shape: str) -> None:
    with pytest.raises(GroundingError, match="inside the image"):
        parse_regions(f"[{{{shape}}}]", [LETTERBOX])


def test_a_point_just_beside_the_image_is_on_its_edge() -> None:
    [region] = parse_regions('{"point_2d": [1003, 215]}', [LETTERBOX]).regions
    assert region.point == (1920, 0)


def test_a_polygon_is_cut_where_its_edges_leave_the_image() -> None:
    # Moving the corner above the image onto its edge would tilt the sides.
    [region] = parse_regions('{"polygon": [[500, 0], [600, 437.5], [400, 437.5]]}', [LETTERBOX]).regions
    assert sorted(region.polygon) == [
        pytest.approx(point) for point in [(768, 420), (864, 0), (1056, 0), (1152, 420)]
    ]  # fmt: skip


def test_a_box_without_width_is_one_unit_wide() -> None:
    assert boxes('{"bbox_2d": [100, 200, 100, 300]}') == [("", 99.5, 200, 100.5, 300)]
    assert boxes('{"bbox_2d": [1000, 0, 1000, 0]}') == [("", 999.5, 0, 1000, 0.5)]


def test_pixels_are_those_of_the_fitted_image() -> None:
    [region] = parse_regions('{"bbox_2d": [224, 161, 448, 350]}', [LETTERBOX], "pixels").regions
    assert region.box == pytest.approx((960, 270, 1920, 1080))


# ---- whatever is written, and wherever it ends ----

Thing = tuple[str, tuple[int, int, int, int]]
plain = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\"'“”\\<>`"), max_size=9)
things = st.lists(
    st.tuples(plain.map(str.strip), st.tuples(*[st.integers(2, 498)] * 2, *[st.integers(500, 1000)] * 2)),
    min_size=1, max_size=4, unique_by=lambda thing: thing[1],
)  # fmt: skip


def as_dicts(things: list[Thing]) -> list[dict[str, Any]]:
    return [{"bbox_2d": list(box), "label": label} for label, box in things]


WAYS: dict[str, Callable[[list[Thing]], str]] = {
    "json": lambda things: json.dumps(as_dicts(things)),
    "fenced": lambda things: f"Here:\n```json\n{json.dumps(as_dicts(things), ensure_ascii=False, indent=1)}\n```\nBye.",
    "python": lambda things: repr([{"label": label, "bbox": box, "z": None} for label, box in things]),
    "lines": lambda things: "\n".join(json.dumps(thing) for thing in as_dicts(things)),
    "commas": lambda things: "".join(
        [
            "[",
            *(f'{{"bbox_2d": [{", ".join(map(str, box))},], "label": {json.dumps(la)},}},' for la, box in things),
            "]",
        ]
    ),
    "under a key": lambda things: json.dumps({"n": len(things), "objects": as_dicts(things), "done": True}),
    "strings": lambda things: json.dumps([{"name": la, "bbox_2d": [str(n) for n in box]} for la, box in things]),
    "corners": lambda things: json.dumps(
        [{"text": label, "x1": box[2], "y1": box[3], "x2": box[0], "y2": box[1]} for label, box in things]
    ),
    "tags": lambda things: " ".join(
        f"<ref>{label}</ref><box>({box[0]},{box[1]}),({box[2]},{box[3]})</box>" for label, box in things
    ),
    "stray braces": lambda things: "[{ " + ", {".join(json.dumps(thing) for thing in as_dicts(things)) + "]",
}


@pytest.mark.parametrize("way", WAYS)
@given(things=things)
@example(things=[("", (2, 2, 500, 500))])
@example(things=[("], }{[ (: //", (2, 2, 500, 500)), ("# a, b: /*", (2, 3, 500, 500))])
@examples(10)
def test_a_text_that_is_cut_off_has_the_first_of_the_regions(way: str, things: list[Thing]) -> None:
    text = WAYS[way](things)
    whole = regions(text)
    assert [(region.label, region.box) for region in whole] == things
    found = 0
    for end in range(len(text)):
        try:
            grounding = parse_regions(text[:end], [SQUARE])
        except GroundingError:
            assert found == 0
            continue
        assert grounding.skipped == ()
        regions_now = grounding.regions
        assert found <= len(regions_now)  # none is lost as the text goes on
        found = len(regions_now)
        assert found > 0  # or else it would say that there is nothing
        assert [region.box for region in regions_now] == [region.box for region in whole[:found]]
        # Of the last the label may still be to come, but it is never a part of one.
        assert [region.label for region in regions_now[:-1]] == [region.label for region in whole[: found - 1]]
        assert regions_now[-1].label in ("", whole[found - 1].label)
    assert found >= len(whole) - 1


def test_a_region_counts_as_soon_as_its_coordinates_are_complete() -> None:
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "teapot", "color": "blue"}'
    for end in range(len('[{"bbox_2d": [1, 2, 3, 4]'), len(text)):
        [(label, *box)] = boxes(text[:end])
        assert box == [1, 2, 3, 4]
        assert label in ("", "teapot")  # never "tea"
    assert boxes('[{"label": "cup", "x1": 1, "y1": 2, "x2": 3, "y2": 4, ') == [("cup", 1, 2, 3, 4)]
    with pytest.raises(GroundingError):
        parse_regions('[{"label": "cup", "x1": 1, "y1": 2, "x2": 3, "y2": 4', [SQUARE])


PIECES = [
    *('[{"bbox_2d": [1, 2, 300, 400]', ', "label": "cup"}', '{"point_2d": [5, 6]', '"polygon": [[1,2],[3,40],[50,6]]'),
    *('"bbox_3d": [1,2,3,1,1,1,0,0,0]', '"image": 1', '"image_index": 1', "<box>(1,2),(3,4)</box>", "<ref>cup</ref>"),
    *('<points x1="1" y1="2"', '<points x1="1" y1="2" alt="a">b</points>', "```json", "```", "NaN", "1e999", "-5"),
    *("[", "]", "{", "}", "(", ")", ",", ":", '"', "'", "“", "”", "\\", "//", " # ", "/*", "*/", "\n", " ", "\0"),
    *('"x1": 1, "y1": 2, "x2": 3, "y2": 4', '"x": 5', '"y": 6', "null", "[]", "it's", "\ud800", "9" * 400, "é"),
]


@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join), count=st.integers(1, 3))
@examples(200)
def test_any_text_is_regions_inside_their_images_or_the_documented_error(text: str, count: int) -> None:
    fits = [LETTERBOX, CROPPED, SQUARE][:count]
    try:
        grounding = parse_regions(text, fits)
    except GroundingError as error:
        sentence = str(error)
    else:
        check_inside(grounding, fits)
        sentence = " ".join(grounding.skipped)
    sentence.encode()


@given(text=st.text(max_size=200))
def test_any_prose_whatsoever_is_regions_or_the_documented_error(text: str) -> None:
    with suppress(GroundingError):
        parse_regions(text, [SQUARE])


ENDLESS = {
    "opening": "[",
    "objects": '{"a":',
    "shapes": '{"bbox_2d":',
    "lists": '[{"bbox_2d": [1,2,',
    "points": '{"points": [[',
    "quotes": '["',
    "apostrophes": "{'",
    "spaces": '" ',
    "commas": '["",',
    "escapes": '["\\',
    "comments": "[/*/",
    "lines": "[// ",
    "fences": "```json",
    "mixed brackets": "[({",
    "wrong ends": "[)}",
    "tags": "<box>",
    "labels": "<ref>",
    "attributes": '<points x1="',
    "alternatives": "<point alt=",
    "digits": '[{"bbox_2d": [9999999999',
    "exponents": "<box>1e1e",
    "regions": '{"bbox_2d": [1, 2, 3, 4], "label": "a"}, ',
}


@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("closing", ["", "]" * 8000 + "}" * 8000], ids=["cut off", "closed"])
def test_the_time_is_linear_in_the_length_of_the_text(unit: str, closing: str) -> None:
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit)) + closing[: characters // 2]
        best = math.inf
        for _ in range(2):
            start = time.thread_time()
            with suppress(GroundingError):
                parse_regions(text, [SQUARE])
            best = min(best, time.thread_time() - start)
        return best

    # Eight times the text: 8 times the time if linear, 64 times if quadratic.
    assert seconds(8_000) < 30 * seconds(1_000) + 0.05
