"""Parses Qwen3-VL's grounding formats to regions in pixels of the original images.

The formats are those of Qwen's cookbooks (QwenLM/Qwen3-VL: 2d_grounding, spatial_understanding, 3d_grounding,
omni_recognition, ocr, computer_use), and those of Qwen-VL, Qwen2-VL and Qwen2.5-VL: JSON with ``bbox_2d``, ``point_2d``
or ``bbox_3d``, ``<ref>..</ref><box>(x1,y1),(x2,y2)</box>`` and ``<points x1=".." y1=".." alt="..">``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.vision.coordinates import Row, Scale, Unusable, pairs, with_shape
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.lenient_json import NUMBER, Group, Kind, Node, Tag, Value, groups, numbers, read
from qwen3vl_ros.vision.moments import frame_at, time_of
from qwen3vl_ros.vision.region import Region


class GroundingError(ValueError):
    """The answer has no usable region, and does not say that there is none (``[]``)."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """The regions of an answer in the order of its text, and a sentence for each region that was left out."""

    regions: tuple[Region, ...]
    skipped: tuple[str, ...] = ()


def parse_regions(
    text: str, fits: Sequence[Fit], scale: Scale = "relative_1000", times: Sequence[float] = ()
) -> Grounding:
    """Parse the regions in an answer.

    - Every object with complete coordinates counts, wherever the text is cut off. A label that is cut off is "".
    - Boxes and polygons are clipped to the part of the image that the model saw. Empty ones, as in the black bars, are
      left out. So are coordinates further outside than 5 % (points: 1 %), NaN, and fractions of 1, which are in another
      scale. Corners are swapped if necessary; a side of length 0 becomes one unit of the scale long. So always
      0 <= left < right <= width and 0 <= top < bottom <= height.
    - With several images a region must name its image, itself or in an enclosing object: ``image`` counts from 1, as
      the chat template does ("Picture 1: "), and ``image_index`` from 0, as :class:`Region` does.
    - With the frames of a clip a region may name its time, itself or in an enclosing object, and is in the nearest
      frame; else it is in the last one. One whose time is outside of the clip is left out.
    - x precedes y with every key. ``points`` are several regions, ``polygon`` is one.
    - ``bbox_3d`` is [x, y, z, x_size, y_size, z_size, roll, pitch, yaw] in metres, in the camera's frame with x to the
      right, y down and z forward: the cookbook 3d_grounding projects it as u = fx x/z + cx, v = fy y/z + cy. ``extent``
      is the sizes unchanged, along the object's own axes: the cookbook's text and code disagree about the order and the
      unit of the angles (QwenLM/Qwen3-VL#2044), so that they are not used.
    - An exact repetition of a region, as small models write, is dropped.
    - A label is truncated to 1,000 characters.

    Args:
        text: The answer.
        fits: How the images were fitted, in the prompt's order.
        scale: Unit of the coordinates.
        times: Where the images are the frames of a clip, the time of each, seconds since the first one.

    Raises:
        GroundingError: No region is left, and ``text`` does not say that there is none.
    """
    if not fits:
        raise ValueError("an answer that points into images needs the fit of each image: there is none")
    answer = _Answer(text, tuple(fits), scale, tuple(times))
    for part in read(text):
        if isinstance(part, Node):
            answer.add_structure(part)
        else:
            answer.add(part)
    regions = dict.fromkeys(region for _, region in sorted(answer.regions, key=lambda entry: entry[0]))
    if not regions and (answer.skipped or answer.cut_off or not answer.says_none):
        raise GroundingError(_why_nothing(text, answer))
    return Grounding(tuple(regions), tuple(answer.skipped))


def _why_nothing(text: str, answer: _Answer) -> str:
    if answer.skipped:
        few = "; ".join(answer.skipped[:3])
        return f"the answer has nothing to point at that can be used: {few}" + ("; ..." * (len(answer.skipped) > 3))
    if answer.cut_off:
        return "the answer ends before its first region is complete: allow it more tokens (max_tokens)"
    return (
        f"the answer points at nothing, it reads {_short(text)}: ask for JSON such as "
        '[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}], and for [] where there is nothing'
    )


def _name(label: str) -> str:
    return _short(label) if label else "a region without a label"


def _short(value: str | Row) -> str:
    text = repr(value[:61])  # truncate first: thousands of regions may have the same long label
    return text if len(text) <= 60 else f"{text[:57]}..."


_KEYS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "bboxes", "boxes", "bounding_boxes"), "box"),
    **dict.fromkeys(("point_2d", "point", "points_2d", "points", "coordinate", "coordinates"), "point"),
    **dict.fromkeys(("polygon", "polygon_2d", "segmentation", "contour", "quad"), "polygon"),
    **dict.fromkeys(("bbox_3d", "box_3d"), "space"),
}
_SIDES: Final = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_LABELS: Final = (
    *("label", "name", "text_content", "text", "sub_label", "name_en", "names"),
    *("category", "class", "object", "description"),
)
_IMAGES: Final = {"image": 1, "picture": 1, "image_id": 1, "image_index": 0, "picture_index": 0}
"""The keys that name an image, and the number that they count from."""

_LONGEST_LABEL: Final = 1000
"""Most characters of a label; thousands of points may each carry the same one."""

_IMAGE_NAME: Final = re.compile(
    r"(?:(?P<word>image|picture|img|图片|图像|图)[\s_#-]*)?(?P<number>\d{1,6})", re.IGNORECASE
)


def _number(value: Value) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    return value if isinstance(value, float) else None


def _named_row(group: Group) -> Row | None:
    """Return [x1, y1, x2, y2] or [x, y] of a group with these keys, else None."""

    def numbers(names: Sequence[str]) -> Row | None:
        found = [_number(group[name][0]) if name in group else None for name in names]
        return [number for number in found if number is not None] if None not in found else None

    for names in _SIDES:
        if row := numbers(names):
            return row
    for names in (("x", "y", "width", "height"), ("x", "y", "w", "h")):
        if row := numbers(names):
            return [row[0], row[1], row[0] + row[2], row[1] + row[3]]
    return None if "z" in group else numbers(("x", "y"))


def _rows(value: Value, depth: int = 3) -> list[Row] | None:
    """Return ``value`` as rows of numbers; [] if it is empty, None if it is something else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [row] if (row := numbers(value)) else None
    if not isinstance(value, Node) or depth == 0:
        return None
    if any(key for key, _, _ in value.items):
        group = next(groups(value))
        row = None if _label(group) else _named_row(group)
        return [row] if row else None
    row = []
    for _, item, _ in value.items:
        number = _number(item)
        if number is None:
            break
        row.append(number)
    else:
        return [row] if row else []
    rows: list[Row] = []
    for _, item, _ in value.items:
        inner = _rows(item, depth - 1) if isinstance(item, (Node, str)) else None
        if inner is None:
            return None
        rows += inner
    return rows


def _shapes(kind: Kind, rows: list[Row], plural: bool) -> list[tuple[Kind, Row]] | None:
    """Return (kind, row) of each shape: 4 numbers are a box, 2 a point, 6 or more a polygon, or a 3D box; else None."""
    lengths = {len(row) for row in rows}
    if kind == "space":
        return [(kind, row) for row in rows] if lengths <= {6, 7, 9} else None
    if kind == "point":
        if plural and len(rows) == 1 and len(rows[0]) % 2 == 0:
            return [(kind, list(pair)) for pair in pairs(rows[0])]
        return [(kind, row) for row in rows] if lengths <= {2} else None
    if kind == "box" and lengths <= {4}:
        return [(kind, row) for row in rows]
    if lengths == {2}:
        row = [number for pair in rows for number in pair]
        if kind == "box" and len(rows) == 2:
            return [(kind, row)]
        return [("polygon", row)] if len(rows) >= 3 else None
    # A quadrilateral under a box's key is rotated text.
    return [("polygon", row) for row in rows] if all(n >= 6 and n % 2 == 0 for n in lengths) else None


def _label(group: Group) -> str:
    for key in _LABELS:
        value = group[key][0] if key in group else None
        if isinstance(value, Node) and value.closed:
            texts = {name: text for name, text, _ in value.items if isinstance(text, str)}
            names = [text for _, text, _ in value.items if isinstance(text, str)]
            value = texts.get("en") or ", ".join(names)
        if isinstance(value, float):
            value = f"{value:g}"
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _image(group: Group) -> tuple[int, int] | None:
    """Return (number, number of the first image) of the image that a group names, or None."""
    for key, base in _IMAGES.items():
        value = group[key][0] if key in group else None
        if isinstance(value, float):
            value = f"{value:g}"
        match = _IMAGE_NAME.fullmatch(value.strip()) if isinstance(value, str) else None
        if match:
            return int(match["number"]), base
    return None


@dataclass(slots=True)
class _Answer:
    """Collects the regions of an answer as (index in the text, region)."""

    text: str
    fits: tuple[Fit, ...]
    scale: Scale
    times: tuple[float, ...] = ()
    regions: list[tuple[int, Region]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    says_none: bool = False
    cut_off: bool = False
    keyed: bool = False

    def add(self, tag: Tag) -> None:
        self.keyed = True
        shapes = _shapes(tag.kind, tag.rows, plural=False)
        if shapes is None:
            self.skipped.append(f"{_name(tag.label)} has no {tag.kind}: {_short(self.text[tag.at : tag.at + 60])}")
        self._place(tag.at, tag.label, None, shapes or [])

    def add_structure(self, root: Node) -> None:
        self.cut_off |= not root.closed
        empty = [root, *(value for key, value, _ in root.items if key and isinstance(value, Node))]
        self.says_none |= any(node.closed and not node.items for node in empty)
        bare: list[tuple[int, Node]] = []
        # (node, its index in the text, enclosing image, whether only lists enclose it, whether a region encloses it)
        waiting: list[tuple[Node, int, tuple[int, int] | None, bool, bool]] = [(root, 0, None, True, False)]
        while waiting:
            node, at, image, in_lists, in_region = waiting.pop()
            keyed = any(key for key, _, _ in node.items)
            if not keyed and in_lists and any(isinstance(value, float) for _, value, _ in node.items):
                bare.append((at, node))
            inside: list[tuple[Node, int, tuple[int, int] | None, bool, bool]] = []
            for key, value, start in node.items:
                if not key and isinstance(value, Node):
                    inside.append((value, start, image, in_lists and not keyed, in_region))
            for group in groups(node):
                own = self._frame(group) or _image(group) or image
                taken = self._add_group(group, own, in_region)
                for key, (value, start) in group.items():
                    if isinstance(value, Node) and key not in taken:
                        name = _IMAGE_NAME.fullmatch(key)
                        around = (int(name["number"]), 1) if name and name["word"] else own
                        inside.append((value, start, around, False, in_region or bool(taken)))
            waiting += reversed(inside)
        if not self.keyed:
            for at, node in bare:
                self._add_bare(at, node)

    def _add_bare(self, at: int, node: Node) -> None:
        """Add the regions of a list of numbers without keys, as in [[x1, y1, x2, y2], [x1, y1, x2, y2]]."""
        rows = _rows(node) if node.closed else []
        if rows and len(rows) == 1 and len(rows[0]) in (2, 4):
            self._place(at, "", None, [("point" if len(rows[0]) == 2 else "box", rows[0])])

    def _add_group(self, group: Group, image: tuple[int, int] | None, in_region: bool) -> set[str]:
        """Add the region of ``group``, if it is one; return the keys of its coordinates."""
        label = _label(group)
        taken: set[str] = set()
        shapes: list[tuple[Kind, Row]] = []
        starts: list[int] = []
        for key, (value, start) in group.items():
            kind = _KEYS.get(key)
            if not kind:
                continue
            if isinstance(value, Node) and not value.closed:
                self.keyed = True
                continue
            rows = _rows(value)
            if rows is None and isinstance(value, Node) and any(isinstance(item[1], Node) for item in value.items):
                continue  # not coordinates but objects with coordinates
            self.keyed = True
            taken.add(key)
            found = _shapes(kind, rows, plural=key.endswith("s")) if rows is not None else None
            if found is None:
                written = _short(self.text[start : start + 60])
                self.skipped.append(f"{_name(label)} has a {key} that is no {kind}: {written}")
            elif not found:
                self.says_none = True
            else:
                shapes += found
                starts.append(start)
        if not taken and not in_region and (row := _named_row(group)):
            self.keyed = True
            taken.update(("x", "y"))
            shapes.append(("box" if len(row) == 4 else "point", row))
            starts.append(max(start for _, start in group.values()))
        if shapes:
            self._place(min(starts), label, image, shapes)
        return taken

    def _place(self, at: int, label: str, image: tuple[int, int] | None, shapes: list[tuple[Kind, Row]]) -> None:
        """Add one region of several shapes, or several regions if there are several shapes of a kind."""
        label = _clean(label)
        together = len({kind for kind, _ in shapes}) == len(shapes)
        try:
            index = self._index(image)
        except Unusable as reason:
            if shapes:
                self.skipped.append(f"{_name(label)} {reason}")
            return
        nothing = region = Region(label, index, at=at)
        for kind, row in shapes:
            try:
                region = with_shape(region if together else nothing, kind, row, self.fits[index], self.scale)
            except Unusable as reason:
                self.skipped.append(f"{_name(label)} {reason}: {_short(row)}")
                continue
            if not together:
                self.regions.append((at, region))
        if together and region != nothing:
            self.regions.append((at, region))

    def _frame(self, group: Group) -> tuple[int, int] | None:
        """Return (number, 0) of the frame whose time a group names, the number of frames for none; None = no time."""
        time = time_of(group) if self.times else None
        if time is None:
            return None
        frame = frame_at(self.times, time)
        return len(self.times) if frame is None else frame, 0

    def _index(self, image: tuple[int, int] | None) -> int:
        count = len(self.fits)
        if image is None and self.times:
            return count - 1
        if image is None:
            if count > 1:
                raise Unusable(f"does not say in which of the {count} images it is (image, from 1)")
            return 0
        number, base = image
        if count == 1 and number <= 1:
            return 0  # whatever number it names
        if self.times and number - base == count:
            raise Unusable(f"is at a time outside of the clip, which is {self.times[-1]:.3g} s long")
        if not 0 <= number - base < count:
            raise Unusable(f"is in image {number}, counted from {base}, of {count}")
        return number - base


def _clean(label: str) -> str:
    return output_text(label.strip()[:_LONGEST_LABEL]).strip()
