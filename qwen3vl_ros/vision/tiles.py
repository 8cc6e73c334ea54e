"""Wide or finely detailed images in parts that overlap, and things that were found in two parts made one again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from qwen3vl_ros.vision.fit import Fit, Rectangle
from qwen3vl_ros.vision.region import Box, Region

OVERLAP: Final = 0.2
"""Share of a part's side that its neighbour shows too: what is no larger is whole in one of the two (as SAHI cuts)."""

_SAME: Final = 0.5
"""Least overlap (intersection over union) of the boxes of one thing, in what both parts show."""

_MOST_COMPARED: Final = 500
"""Regions beyond which none are made one: each is compared with each. No camera sees as many things."""

_SAME_POINT: Final = 0.02
"""Greatest distance of the points on one thing, as a share of the longer side of what a part shows."""


def tiles(width: int, height: int, columns: int, rows: int) -> list[Rectangle]:
    """The parts of an image of width x height pixels, row by row, in whole pixels."""
    return [
        (float(left), float(top), float(right), float(bottom))
        for top, bottom in _spans(height, rows)
        for left, right in _spans(width, columns)
    ]


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    """``count`` equal spans that cover ``length`` and overlap by :data:`OVERLAP` of themselves."""
    span = length / (count - (count - 1) * OVERLAP)
    starts = (round(number * span * (1 - OVERLAP)) for number in range(count))
    ends = (min(length, round(number * span * (1 - OVERLAP) + span)) for number in range(count))
    return [
        (min(start, length - 1), max(end, min(start, length - 1) + 1)) for start, end in zip(starts, ends, strict=True)
    ]


def merged(regions: Sequence[Region], fits: Sequence[Fit]) -> list[Region]:
    """``regions`` without repetitions; their ``image_index`` counts ``fits``, those of the parts of one image.

    Two regions of two parts are one thing when they have the same label and, in what both parts show, the same box
    (the thing is then what both boxes hold together: each may be cut at its part's edge), or nearly the same point.
    More than :data:`_MOST_COMPARED` regions, from a model that repeats itself for ever, stay as they are.
    """
    if len(regions) > _MOST_COMPARED:
        return list(regions)
    things: list[tuple[Region, list[int]]] = []
    for region in regions:
        for number, (thing, seen_in) in enumerate(things):
            if region.image_index not in seen_in and _same(thing, region, [fits[i].shown for i in seen_in], fits):
                things[number] = (_together(thing, region), [*seen_in, region.image_index])
                break
        else:
            things.append((region, [region.image_index]))
    return [thing for thing, _ in things]


def _same(thing: Region, region: Region, shown: Sequence[Rectangle], fits: Sequence[Fit]) -> bool:
    if thing.label.casefold() != region.label.casefold():
        return False
    part = fits[region.image_index].shown
    for other in shown:
        both = _common(part, other)
        if both is None:
            continue
        if thing.box is not None and region.box is not None:
            one, two = _common(thing.box, both), _common(region.box, both)
            if one is not None and two is not None and _overlap(one, two) >= _SAME:
                return True
        elif thing.point is not None and region.point is not None:
            apart = max(abs(thing.point[0] - region.point[0]), abs(thing.point[1] - region.point[1]))
            if apart <= _SAME_POINT * max(part[2] - part[0], part[3] - part[1]):
                return True
    return False


def _together(thing: Region, region: Region) -> Region:
    if thing.box is None or region.box is None:
        return thing
    (left, top, right, bottom), other = thing.box, region.box
    box = (min(left, other[0]), min(top, other[1]), max(right, other[2]), max(bottom, other[3]))
    return replace(thing, box=box, polygon=())


def _common(one: Box, other: Box) -> Box | None:
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = _common(one, other)
    if common is None:
        return 0.0
    both, first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (common, one, other))
    return both / (first + second - both)
