"""Splits wide or finely detailed images into overlapping parts, and merges objects that were found in two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from qwen3vl_ros.vision.fit import Fit, Rectangle
from qwen3vl_ros.vision.region import Box, Region

OVERLAP: Final = 0.2
"""Overlap of neighbours as a share of a part's side, as in SAHI: an object no larger is complete in one of the two."""

_SAME: Final = 0.5
"""Least overlap (intersection over union), within the area of both parts, of the boxes of one object."""

_MOST_COMPARED: Final = 500
"""Most regions that are merged, since each is compared with each; no image has as many objects."""

_SAME_POINT: Final = 0.02
"""Greatest distance of the points on one object, as a share of the longer side of a part."""


def tiles(width: int, height: int, columns: int, rows: int) -> list[Rectangle]:
    """Return the parts of an image of width x height pixels, row by row, in whole pixels."""
    return [
        (float(left), float(top), float(right), float(bottom))
        for top, bottom in _spans(height, rows)
        for left, right in _spans(width, columns)
    ]


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    """Return ``count`` equal spans that cover ``length`` and overlap by a share of :data:`OVERLAP`."""
    span = length / (count - (count - 1) * OVERLAP)
    starts = (round(number * span * (1 - OVERLAP)) for number in range(count))
    ends = (min(length, round(number * span * (1 - OVERLAP) + span)) for number in range(count))
    return [
        (min(start, length - 1), max(end, min(start, length - 1) + 1)) for start, end in zip(starts, ends, strict=True)
    ]


def merged(regions: Sequence[Region], fits: Sequence[Fit]) -> list[Region]:
    """Merge regions of the same object in several parts of an image.

    Two regions of two parts are the same object if they have the same label and, within the area of both parts, the
    same box, or nearly the same point. The merged box is the hull of both, since each may be cut at its part's edge;
    each side has the spread of the box that it is from. The score is the greater one.
    More than :data:`_MOST_COMPARED` regions, from a model that repeats itself, are returned unchanged.

    Args:
        regions: In pixels of the original image; ``image_index`` is an index of ``fits``.
        fits: How the parts were fitted.
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
    scores = [score for score in (thing.score, region.score) if score is not None]
    thing = replace(thing, score=max(scores, default=None))
    if thing.box is None or region.box is None:
        return thing
    (left, top, right, bottom), other = thing.box, region.box
    box = (min(left, other[0]), min(top, other[1]), max(right, other[2]), max(bottom, other[3]))
    spread: tuple[float, ...] = ()
    if thing.spread and region.spread:
        sides = zip(box, thing.box, thing.spread, region.spread, strict=True)
        spread = tuple(own if side == mine else theirs for side, mine, own, theirs in sides)
    return replace(thing, box=box, polygon=(), spread=spread)


def _common(one: Box, other: Box) -> Box | None:
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _overlap(one: Box, other: Box) -> float:
    """Return the intersection over union."""
    common = _common(one, other)
    if common is None:
        return 0.0
    both, first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (common, one, other))
    return both / (first + second - both)
