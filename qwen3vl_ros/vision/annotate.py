"""Writes question and answer below an image and draws regions into it, for display."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from qwen3vl_ros.engines.base import Image
from qwen3vl_ros.vision.region import Region

MIN_WIDTH: Final = 640
"""Least width in pixels: narrower images are enlarged or get margins, so that a line of text fits."""

_MAX_ENLARGED_HEIGHT: Final = 960
_MAX_QUESTION_LINES: Final = 4
_MAX_ANSWER_LINES: Final = 16

_BAR: Final = (17, 20, 26)
_ACCENT: Final = (56, 189, 178)
_QUESTION: Final = (148, 158, 174)
_ANSWER: Final = (246, 248, 251)
# Okabe and Ito's colours, which are distinguishable with any colour vision (https://jfly.uni-koeln.de/color/).
_PALETTE: Final = ((240, 228, 66), (86, 180, 233), (230, 159, 0), (0, 190, 140), (204, 121, 167), (240, 110, 40))

_FONT_FOLDERS: Final = ("~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts")
_LATIN_FONTS: Final = ("NotoSans-Regular.ttf", "DejaVuSans.ttf")
_CJK_FONTS: Final = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
)
# Ideographs, kana, hangul, full-width forms: written without spaces, so a line may break after any character.
_CJK: Final = re.compile("[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]")
_WORD: Final = re.compile(rf"{_CJK.pattern}|\s+|(?:(?!{_CJK.pattern})\S)+")


def annotate(image: Image, question: str, answer: str, regions: Sequence[Region] = ()) -> Image:
    """Add a bar with the question (small, grey) and the answer (larger, white) below an image.

    The image keeps its size if it is at least :data:`MIN_WIDTH` wide; a narrower one is enlarged (nearest neighbour by
    a whole factor, so that pixel values do not change) and centred. Text is wrapped and keeps its line breaks; beyond 4
    lines of question and 16 of answer it is truncated with an ellipsis.

    Fonts are the system's: Noto Sans or DejaVu Sans, for Chinese, Japanese and Korean text Noto Sans CJK, Source Han
    Sans, WenQuanYi or Droid Sans Fallback (Debian: ``apt install fonts-noto-cjk``). Where none is installed, Pillow's
    built-in font is used, which draws boxes for other scripts than Latin.

    Args:
        image: uint8 [height, width, 3] RGB.
        question: Text of the question.
        answer: Text of the answer.
        regions: In pixels of ``image``; drawn with labels and, if known, scores and distances. Without any, no pixel
            of the image is covered.

    Returns:
        uint8 [height, width, 3] RGB.
    """
    enlarged = _enlarged(image)
    height, image_width, _ = enlarged.shape
    width = max(image_width, MIN_WIDTH)

    size = min(max(round(width / 36), 18), 96)
    margin = round(1.2 * size)
    stripe = max(round(size / 5), 3)
    left, room = margin + stripe + round(0.7 * size), width - 2 * margin - stripe - round(0.7 * size)
    blocks = [
        (*_wrapped(question, round(0.78 * size), room, _MAX_QUESTION_LINES), round(1.08 * size), _QUESTION),
        (*_wrapped(answer, size, room, _MAX_ANSWER_LINES), round(1.38 * size), _ANSWER),
    ]
    gap = round(0.45 * size) if all(lines for lines, *_ in blocks) else 0
    text_height = sum(len(lines) * leading for lines, _, leading, _ in blocks) + gap

    sheet = PIL.Image.new("RGB", (width, height + text_height + 2 * margin), _BAR)
    sheet.paste(PIL.Image.fromarray(enlarged), ((width - image_width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    left_edge, factor = (width - image_width) // 2, image_width / image.shape[1]
    for number, region in enumerate(regions):
        _draw_region(draw, region, _PALETTE[number % len(_PALETTE)], factor, left_edge, (width, height), size)
    y = height + margin
    if text_height:
        draw.rounded_rectangle((margin, y, margin + stripe - 1, y + text_height - 1), stripe / 2, _ACCENT)
    for lines, font, leading, colour in blocks:
        for line in lines:
            draw.text((left, y + leading / 2), line, colour, font, anchor="lm")
            y += leading
        y += gap
    return np.array(sheet)


def _draw_region(
    draw: ImageDraw.ImageDraw,
    region: Region,
    colour: tuple[int, int, int],
    factor: float,
    left_edge: int,
    room: tuple[int, int],
    size: int,
) -> None:
    """Draw box, outline or point twice, dark and wide, then in colour, so that it shows on any image; and its label."""

    def place(x: float, y: float) -> tuple[float, float]:
        return left_edge + x * factor, y * factor

    stroke = max(2, round(size / 9))
    polygon = [place(x, y) for x, y in region.polygon]
    top_left = polygon[0] if polygon else place(0, 0)
    for line, width in ((_BAR, stroke + 2), (colour, stroke)):
        if region.box is not None:
            left, top, right, bottom = region.box
            top_left = place(left, top)
            draw.rectangle((*top_left, *place(right, bottom)), outline=line, width=width)
        if len(polygon) > 1:
            draw.line([*polygon, polygon[0]], line, width)
        if region.point is not None:
            x, y = place(*region.point)
            radius = size / 3 + (2 if line is _BAR else 0)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=line, width=width)
            if region.box is None:
                top_left = (x + radius, y - radius)
    distance = "" if region.position is None else f" {math.dist(region.seen_from, region.position):.2f} m"
    score = "" if region.score is None else f" {region.score:.2f}"
    lines, font = _wrapped(region.label + score + distance, round(0.72 * size), room[0] - 2 * stroke, 1)
    if not lines or not lines[0]:
        return
    text_width, text_height = font.getlength(lines[0]) + 2 * stroke, round(0.95 * size)
    x = min(max(0.0, top_left[0]), room[0] - text_width)
    y = top_left[1] - text_height if top_left[1] >= text_height else top_left[1]
    y = min(max(0.0, y), room[1] - text_height)
    draw.rectangle((x, y, x + text_width, y + text_height), fill=colour)
    draw.text((x + stroke, y + text_height / 2), lines[0], _BAR, font, anchor="lm")


def _enlarged(image: Image) -> Image:
    """Enlarge ``image`` by the whole factor that brings it closest to :data:`MIN_WIDTH` without making it too tall."""
    height, width, _ = image.shape
    factor = max(1, min(MIN_WIDTH // width, _MAX_ENLARGED_HEIGHT // height))
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image


def _wrapped(text: str, size: int, room: int, max_lines: int) -> tuple[list[str], FreeTypeFont]:
    """Wrap ``text`` to at most ``max_lines`` lines of at most ``room`` pixels; return the lines and their font."""
    text = text.strip()
    # Hardly any character is narrower than a fifth of the font's size, so more characters than this do not fit.
    longest = max_lines * room * 5 // size
    too_long, text = len(text) > longest, text[:longest].encode("utf-8", "replace").decode()
    font = _font(size, bool(_CJK.search(text)))
    lines = list(itertools.islice(_lines(text, font, room), max_lines + 1))
    if len(lines) > max_lines or too_long:
        lines, last = lines[: max_lines - 1], lines[:max_lines][-1]
        while last and font.getlength(last + "\N{HORIZONTAL ELLIPSIS}") > room:
            last = last[:-1]
        lines.append(last.rstrip() + "\N{HORIZONTAL ELLIPSIS}")
    return lines, font


def _lines(text: str, font: FreeTypeFont, room: int) -> Iterator[str]:
    """Yield ``text`` in lines of at most ``room`` pixels; lazily, since measuring text takes time."""
    for paragraph in text.splitlines():
        line = ""
        for word in _WORD.findall("".join(c if c.isprintable() else " " for c in paragraph)):
            while font.getlength((line + word).rstrip()) > room:
                if not line.strip():  # a single word is wider than the bar
                    fits = (
                        bisect.bisect(range(len(word) + 1), float(room), lo=2, key=lambda n: font.getlength(word[:n]))
                        - 1
                    )
                    line, word = word[:fits], word[fits:]
                yield line.rstrip()
                line, word = "", word.lstrip()
            line += word
        yield line.rstrip()


@lru_cache(maxsize=32)
def _font(size: int, cjk: bool) -> FreeTypeFont:
    """Load the best font of this machine, ``size`` pixels high."""
    path = _font_file(_CJK_FONTS + _LATIN_FONTS if cjk else _LATIN_FONTS + _CJK_FONTS)
    # load_default returns a bitmap font only in a Pillow built without FreeType, which no distribution ships.
    return cast(FreeTypeFont, ImageFont.load_default(size)) if path is None else ImageFont.truetype(path, size)


@lru_cache(maxsize=2)
def _font_file(names: tuple[str, ...]) -> Path | None:
    """Return the first of ``names`` that is installed, None without any."""
    for folder in _FONT_FOLDERS:
        found = {path.name: path for path in Path(folder).expanduser().rglob("*.[ot]t[fc]")}
        for name in names:
            if name in found:
                return found[name]
    return None
