"""The annotated image shows the whole image, the question and the answer, whatever their sizes and scripts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from examples import examples
from qwen3vl_ros.vision import annotate as annotate_module
from qwen3vl_ros.vision.annotate import _ANSWER, _BAR, _QUESTION, _font, _font_file, _wrapped, annotate
from qwen3vl_ros.vision.region import Region

QUESTION = "What colour is the box on the left?"
ANSWER = "The box on the left is red."


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rows_with(colour: tuple[int, int, int], bar: NDArray) -> NDArray:
    return np.flatnonzero((bar == colour).all(axis=2).any(axis=1))


@pytest.mark.parametrize("size", [(640, 480), (641, 333), (1920, 1080), (4000, 20), (640, 1)])
def test_the_bar_is_below_the_image_and_covers_none_of_it(size: tuple[int, int]) -> None:
    image = noise(*size)
    before = image.copy()
    annotated = annotate(image, QUESTION, ANSWER)
    assert np.array_equal(image, before)
    assert annotated.dtype == np.uint8
    assert annotated.flags.c_contiguous
    assert annotated.shape[1] == size[0]
    assert np.array_equal(annotated[: size[1]], image)
    assert (annotated[size[1]] == _BAR).all()


@pytest.mark.parametrize(
    ("size", "factor"),
    [((1, 1), 640), ((10, 10), 64), ((224, 224), 2), ((320, 240), 2), ((5, 3000), 1), ((600, 400), 1)],
)
def test_small_images_are_enlarged_by_a_whole_factor_and_centred(size: tuple[int, int], factor: int) -> None:
    image = noise(*size)
    annotated = annotate(image, QUESTION, ANSWER)
    assert annotated.shape[1] == 640
    left = (640 - factor * size[0]) // 2
    shown = annotated[: factor * size[1], left : left + factor * size[0]]
    assert np.array_equal(shown, image.repeat(factor, axis=0).repeat(factor, axis=1))


@pytest.mark.parametrize("width", [640, 1920])
def test_the_question_stands_above_a_larger_answer(width: int) -> None:
    bar = annotate(noise(width, 100), "Hx", "Hx")[100:]
    question, answer = rows_with(_QUESTION, bar), rows_with(_ANSWER, bar)
    assert question.max() < answer.min()
    assert np.ptp(answer) > np.ptp(question)


def test_every_word_of_both_shows() -> None:
    image = noise(640, 10)
    words = [annotate(image, q, a).tobytes() for q in ("red?", "rod?") for a in ("yes", "yet")]
    assert len(set(words)) == 4


def test_without_any_text_the_image_is_still_there() -> None:
    image = noise(640, 10)
    assert np.array_equal(annotate(image, "", " \n")[:10], image)


@examples(50)
@given(question=st.text(max_size=400), answer=st.text(max_size=2000))
def test_any_text_stays_inside_the_margins(question: str, answer: str) -> None:
    bar = annotate(noise(640, 8), question, answer)[8:]
    assert (bar[:, :12] == _BAR).all()
    assert (bar[:, -4:] == _BAR).all()


@examples(50)
@given(text=st.text(st.characters(codec="utf-8"), max_size=600), size=st.integers(12, 40), room=st.integers(200, 900))
def test_wrapping_loses_no_character_and_keeps_to_the_room(text: str, size: int, room: int) -> None:
    lines, font = _wrapped(text, size, room, 1000)
    assert all(font.getlength(line) <= room or len(line) == 1 for line in lines)
    shown = "".join("".join(lines).split())
    assert shown == "".join("".join(c if c.isprintable() else " " for c in text).split())


def test_line_breaks_in_the_answer_are_kept() -> None:
    assert _wrapped("one\n\ntwo three", 20, 500, 9)[0] == ["one", "", "two three"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("word " * 10_000, id="words"),
        pytest.param("x" * 1_000_000, id="one word"),
        pytest.param("\n".join("abcdefghij"), id="lines"),
        pytest.param("红" * 9_999, id="chinese"),
        pytest.param("il" * 5_000, id="narrow letters"),
    ],
)
def test_text_that_is_too_long_ends_with_an_ellipsis(text: str) -> None:
    lines, font = _wrapped(text, 20, 500, 5)
    assert len(lines) == 5
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 500 for line in lines)


def test_letters_that_take_no_room_are_not_lost_in_silence() -> None:
    assert _wrapped("a" + "\u0301" * 10_000 + " end", 20, 500, 5)[0][-1].endswith("…")


def test_wrapping_ends_even_where_not_two_letters_fit() -> None:
    assert "".join(_wrapped("WWW", 20, 5, 9)[0]) == "WWW"


def test_text_that_just_fits_has_no_ellipsis() -> None:
    assert _wrapped("a\nb\nc", 20, 500, 3)[0] == ["a", "b", "c"]


def test_chinese_breaks_between_any_two_characters() -> None:
    lines, font = _wrapped("红" * 100, 20, 205, 20)
    assert {len(line) for line in lines[:-1]} == {int(205 // font.getlength("红"))}


@pytest.mark.skipif(
    _font_file(annotate_module._CJK_FONTS) is None, reason="no Chinese font on this machine: apt install fonts-noto-cjk"
)
@pytest.mark.parametrize("pair", ["红绿", "あい", "가나"])
def test_chinese_japanese_and_korean_are_drawn_with_their_glyphs(pair: str) -> None:
    font = _font(40, True)
    assert bytes(font.getmask(pair[0])) != bytes(font.getmask(pair[1]))


def test_without_any_font_on_the_system_text_still_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate_module, "_FONT_FOLDERS", ("/nonexistent",))
    _font.cache_clear()
    _font_file.cache_clear()
    try:
        bar = annotate(noise(640, 10), QUESTION, ANSWER + " 红")[10:]
    finally:
        monkeypatch.undo()
        _font.cache_clear()
        _font_file.cache_clear()
    assert rows_with(_QUESTION, bar).max() < rows_with(_ANSWER, bar).min()


# --- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (96, 64), (1921, 1081)])
def test_a_box_is_drawn_where_the_thing_is_at_any_size(size: tuple[int, int]) -> None:
    width, height = size
    plain = np.full((height, width, 3), 128, np.uint8)
    box = (width * 0.25, height * 0.5, width * 0.5, height * 0.75)
    drawn = annotate(plain, QUESTION, ANSWER, [Region("cup", box=box)])
    scale = max(1, min(640 // width, 960 // height))
    left_edge = (drawn.shape[1] - width * scale) // 2
    changed = (drawn[: height * scale] != annotate(plain, QUESTION, ANSWER)[: height * scale]).any(axis=2)
    rows, columns = np.nonzero(changed[round(box[1] * scale) :])  # below the label, which stands on the box
    assert columns.min() - left_edge == pytest.approx(box[0] * scale, abs=6)
    assert columns.max() - left_edge == pytest.approx(box[2] * scale, abs=6)
    assert rows.max() + round(box[1] * scale) == pytest.approx(box[3] * scale, abs=6)
    inside = changed[round(0.58 * height * scale) : round(0.67 * height * scale)]
    middle = left_edge + round(0.375 * width * scale)
    assert not inside[:, middle].any(), "the thing itself is not covered"


def test_names_points_outlines_and_distances_are_drawn() -> None:
    plain = np.full((480, 640, 3), 128, np.uint8)
    images = [
        annotate(plain, QUESTION, ANSWER, [region])[:480].tobytes()
        for region in (
            Region("", point=(300, 200)),
            Region("tip", point=(300, 200)),
            Region("tip", point=(300, 200), position=(0.0, 0.0, 2.0)),
            Region("tip", polygon=((100, 100), (200, 100), (150, 200))),
        )
    ]
    assert len(set(images)) == 4
    assert plain.tobytes() not in images


@given(
    box=st.tuples(*[st.floats(-50, 700)] * 4),
    label=st.text(max_size=200),
    size=st.tuples(st.integers(1, 700), st.integers(1, 500)),
)
@examples(40)
def test_no_region_however_strange_spoils_the_image(
    box: tuple[float, float, float, float], label: str, size: tuple[int, int]
) -> None:
    left, top, right, bottom = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    plain = np.zeros((size[1], size[0], 3), np.uint8)
    drawn = annotate(plain, QUESTION, ANSWER, [Region(label, box=(left, top, right, bottom))])
    assert drawn.shape == annotate(plain, QUESTION, ANSWER).shape
