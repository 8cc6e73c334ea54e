"""What Qwen3-VL writes when it points at things, as regions in pixels of the original images.

The formats are those of Qwen's cookbooks (QwenLM/Qwen3-VL: 2d_grounding, spatial_understanding, 3d_grounding,
omni_recognition, ocr, computer_use), and those of Qwen-VL, Qwen2-VL and Qwen2.5-VL: JSON with ``bbox_2d``, ``point_2d``
or ``bbox_3d``, ``<ref>..</ref><box>(x1,y1),(x2,y2)</box>`` and ``<points x1=".." y1=".." alt="..">``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.vision.coordinates import Row, Scale, Unusable, pairs, with_shape
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.lenient_json import NUMBER, Kind, Node, Tag, Value, numbers, read
from qwen3vl_ros.vision.region import Region


class GroundingError(ValueError):
    """The answer points at nothing that can be used, and does not say that there is nothing (``[]``)."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """The regions of an answer in the order of its text, and why others that it has are left out, a sentence each."""

    regions: tuple[Region, ...]
    skipped: tuple[str, ...] = ()


def parse_regions(text: str, fits: Sequence[Fit], scale: Scale = "relative_1000") -> Grounding:
    """The regions in ``text``, an answer about the images that were fitted by ``fits`` (in the prompt's order).

    - Every object whose coordinates are complete counts, wherever the text is cut off. A label that is cut off is "".
    - Boxes and polygons are clipped to what the model saw of the image. What has nothing inside, as in the black
      bars, is left out. So are coordinates further outside than 5 % (points: 1 %), NaN, and fractions of 1: they were
      meant in another scale. Corners are swapped where needed; a side of length 0 becomes one unit of the scale long.
      So 0 <= left < right <= width and 0 <= top < bottom <= height, always.
    - With several images a region must say which it is in, itself or in an object around it: ``image`` counts from 1,
      as the chat template does ("Picture 1: "), and ``image_index`` from 0, as :class:`Region` does.
    - x comes before y whatever the key. ``points`` are that many regions, ``polygon`` is one.
    - ``bbox_3d`` is [x, y, z, x_size, y_size, z_size, roll, pitch, yaw] in metres, in the camera's frame with x to the
      right, y down and z forward: the cookbook 3d_grounding projects it as u = fx x/z + cx, v = fy y/z + cy. ``extent``
      is the sizes as they are, along the thing's own axes: the cookbook's text and code disagree about the order and
      the unit of the angles (QwenLM/Qwen3-VL#2044), so that they are not used.
    - A region that is repeated to the letter, as small models do, counts once.
    - Of a label, the first 1,000 characters are kept.

    Raises :class:`GroundingError` if no region is left and ``text`` does not say that there is none.
    """
    if not fits:
        raise ValueError("an answer that points into images needs the fit of each image: there is none")
    answer = _Answer(text, tuple(fits), scale)
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
    text = repr(value[:61])  # cut first: the same label may be told with each of thousands of regions
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
"""The keys that say which image, and from what they count."""

_LONGEST_LABEL: Final = 1000
"""Characters that are kept of a label. One label may be that of thousands of points, each of which carries it."""

_IMAGE_NAME: Final = re.compile(
    r"(?:(?P<word>image|picture|img|图片|图像|图)[\s_#-]*)?(?P<number>\d{1,6})", re.IGNORECASE
)

_Group: TypeAlias = "dict[str, tuple[Value, int]]"


def _groups(node: Node) -> Iterator[_Group]:
    """A node's keys and their values (value, where it begins); a key that comes again begins another thing."""
    group: _Group = {}
    for key, value, at in node.items:
        name = key.strip().lower().replace("-", "_").replace(" ", "_")
        if name in group:
            yield group
            group = {}
        if name:
            group[name] = (value, at)
    yield group


def _number(value: Value) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    return value if isinstance(value, float) else None


def _named_row(group: _Group) -> Row | None:
    """[x1, y1, x2, y2] or [x, y] of a group whose keys name them."""

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
    """``value`` as rows of numbers; none if it is empty; None if it is something else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [row] if (row := numbers(value)) else None
    if not isinstance(value, Node) or depth == 0:
        return None
    if any(key for key, _, _ in value.items):
        group = next(_groups(value))
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
    """One (kind, row) per shape: 4 numbers of a box, 2 of a point, 6 or more of a polygon, 6 or more in space."""
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
    # A quadrilateral under a box's key is text that stands at an angle.
    return [("polygon", row) for row in rows] if all(n >= 6 and n % 2 == 0 for n in lengths) else None


def _label(group: _Group) -> str:
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


def _image(group: _Group) -> tuple[int, int] | None:
    """(number, where counting begins) of the image that a group names."""
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
    """The regions of an answer as they are found: (where in the text, region)."""

    text: str
    fits: tuple[Fit, ...]
    scale: Scale
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
        # (node, where it begins, image around it, whether only lists are around it, whether a region is around it)
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
            for group in _groups(node):
                own = _image(group) or image
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
        """A list of numbers without keys around it, as in [[x1, y1, x2, y2], [x1, y1, x2, y2]]."""
        rows = _rows(node) if node.closed else []
        if rows and len(rows) == 1 and len(rows[0]) in (2, 4):
            self._place(at, "", None, [("point" if len(rows[0]) == 2 else "box", rows[0])])

    def _add_group(self, group: _Group, image: tuple[int, int] | None, in_region: bool) -> set[str]:
        """Adds the region of ``group``, if it is one; the keys that were its coordinates."""
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
                continue  # not coordinates but objects that have some
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
        """Adds a region of several shapes, or several regions if there are several of a kind."""
        label = _clean(label)
        together = len({kind for kind, _ in shapes}) == len(shapes)
        try:
            index = self._index(image)
        except Unusable as reason:
            if shapes:
                self.skipped.append(f"{_name(label)} {reason}")
            return
        nothing = region = Region(label, index)
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

    def _index(self, image: tuple[int, int] | None) -> int:
        count = len(self.fits)
        if image is None:
            if count > 1:
                raise Unusable(f"does not say in which of the {count} images it is (image, from 1)")
            return 0
        number, base = image
        if count == 1 and number <= 1:
            return 0  # however it counts
        if not 0 <= number - base < count:
            raise Unusable(f"is in image {number}, counted from {base}, of {count}")
        return number - base


def _clean(label: str) -> str:
    return output_text(label.strip()[:_LONGEST_LABEL]).strip()
