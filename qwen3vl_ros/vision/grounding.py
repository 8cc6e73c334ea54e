"""What Qwen3-VL writes when it points at things, as regions in pixels of the original pictures.

The formats are those of Qwen's cookbooks (QwenLM/Qwen3-VL: 2d_grounding, spatial_understanding, 3d_grounding,
omni_recognition, ocr, computer_use), and those of Qwen-VL, Qwen2-VL and Qwen2.5-VL: JSON with ``bbox_2d``, ``point_2d``
or ``bbox_3d``, ``<ref>..</ref><box>(x1,y1),(x2,y2)</box>`` and ``<points x1=".." y1=".." alt="..">``. Models get JSON
wrong and answers are cut off, so the reader here takes what is complete and never guesses the rest.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeAlias

from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.region import Box, Point, Region, Vector

Scale: TypeAlias = Literal["thousandths", "pixels"]
"""What coordinates in an answer count: 1/1000 of the picture that the model saw (Qwen3-VL, Qwen2-VL, Qwen-VL) or
pixels of it (Qwen2.5-VL). A format does not tell: the model does."""


class GroundingError(ValueError):
    """The answer points at nothing that can be used, and does not say that there is nothing (``[]``)."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """The regions of an answer in the order of its text, and why others that it has are left out, a sentence each."""

    regions: tuple[Region, ...]
    skipped: tuple[str, ...] = ()


def parse_regions(text: str, fits: Sequence[Fit], scale: Scale = "thousandths") -> Grounding:
    """The regions in ``text``, an answer about the pictures that were fitted by ``fits`` (in the prompt's order).

    - Every object whose coordinates are complete counts, wherever the text is cut off. A label that is cut off is "".
    - Boxes and polygons are clipped to what the model saw of the picture. What has nothing inside, as in the black
      bars, is left out. So are coordinates further outside than 5 % (points: 1 %), NaN, and fractions of 1: they were
      meant in another scale. Corners are swapped where needed; a side of length 0 becomes one unit of the scale long.
      So 0 <= left < right <= width and 0 <= top < bottom <= height, always.
    - With several pictures a region must say which it is in, itself or in an object around it: ``image`` counts from 1,
      as the chat template does ("Picture 1: "), and ``image_index`` from 0, as :class:`Region` does.
    - x comes before y whatever the key. ``points`` are that many regions, ``polygon`` is one.
    - ``bbox_3d`` is [x, y, z, x_size, y_size, z_size, roll, pitch, yaw] in metres, in the camera's frame with x to the
      right, y down and z forward: the cookbook 3d_grounding projects it as u = fx x/z + cx, v = fy y/z + cy. ``extent``
      is the sizes as they are, along the thing's own axes: the cookbook's text and code disagree about the order and
      the unit of the angles (QwenLM/Qwen3-VL#2044), so that they are not used.
    - A region that is repeated to the letter, as small models do, counts once.

    Raises :class:`GroundingError` if no region is left and ``text`` does not say that there is none.
    """
    if not fits:
        raise ValueError("an answer that points into pictures needs the fit of each picture: there is none")
    answer = _Answer(text, tuple(fits), scale)
    for part in _read(text):
        if isinstance(part, _Node):
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- text to structures: JSON as models write it ----

_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_OUTSIDE: Final = re.compile(
    r"""(?P<open>[\[{])
      | <(?:ref|\|object_ref_start\|)> (?P<label>[^<]*) <
      | <(?P<shape>box|quad|\|box_start\||\|quad_start\|)> (?P<corners>[^<]*) <
      | <points?\b (?P<attributes>[^<>]*) (?: > (?P<phrase>[^<]*) </points?> )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What begins a structure in prose. Nothing in it can run past the next "<", so that searching stays linear."""

_TOKEN: Final = re.compile(
    r"""(?P<space> \s+ | (?://|\#)[ \t][^\n]* | /\*(?:.*?\*/|.*) )
      | (?P<fence> ``` )
      | (?P<open> [\[({] )
      | (?P<close> [\])}] )
      | (?P<colon> : )
      | (?P<comma> , )
      | (?P<quote> ["'“] )
      | (?P<word> [^\s\[\](){}:,`/\#]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENER: Final = {"]": "[", "}": "{", ")": "("}
_AFTER_VALUE: Final = r"[\[({\]})\"'“] | // | /\* | \# | ``` | \Z"
_AFTER_STRING: Final = rf"(?=\s*(?: : | {_AFTER_VALUE} | ,\s*(?: {_AFTER_VALUE} | [\d.+-] | null | None | \w+\s*: ) ))"
_STRING_END: Final = {
    opening: re.compile(rf"\\. | {closing}{_AFTER_STRING}", re.VERBOSE | re.DOTALL)
    for opening, closing in {'"': '"', "'": "'", "“": "”"}.items()
}
"""An escape, or a quote that is followed by what follows a string: models forget to escape quotes in labels."""

_ESCAPE: Final = re.compile(
    r"\\(u[\da-fA-F]{4} | U00(?:0[\da-fA-F]|10)[\da-fA-F]{4} | x[\da-fA-F]{2} | .)", re.VERBOSE | re.DOTALL
)
"""JSON's and Python's."""

_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


@dataclass(slots=True, eq=False)
class _Node:
    """An object, list or tuple: (key, value, where the value begins); key "" = none. ``closed``: its end was seen."""

    opener: str
    items: list[tuple[str, _Value, int]] = field(default_factory=list)
    key: str = ""
    closed: bool = False

    def add(self, value: _Value, at: int) -> None:
        self.items.append((self.key, value, at))
        self.key = ""

    def last_is_key(self) -> None:
        if self.items and not self.items[-1][0] and isinstance(self.items[-1][1], (str, float)):
            self.key = str(self.items.pop()[1])


_Value: TypeAlias = "str | float | _Node | None"


class _Tag(NamedTuple):
    """A tag's shapes: rows of coordinates."""

    at: int
    label: str
    kind: _Kind
    rows: list[list[float]]


def _read(text: str) -> Iterator[_Node | _Tag]:
    """Everything in ``text`` that may hold regions, in order, in time linear in its length."""
    position, label = 0, ""
    while match := _OUTSIDE.search(text, position):
        at, position = match.start(), match.end()
        if match["open"]:
            node, position = _read_structure(text, at)
            yield node
        elif match["label"] is not None:
            label, position = match["label"], position - 1
        elif match["shape"]:
            position -= 1
            row = _numbers(match["corners"]) or []
            if "quad" in match["shape"].lower():
                yield _Tag(at, label, "polygon", [row])
            elif len(row) == 2:
                yield _Tag(at, label, "point", [row])
            elif len(row) % 4 == 0:
                yield _Tag(at, label, "box", [row[i : i + 4] for i in range(0, len(row), 4)])
            else:
                yield _Tag(at, label, "box", [row])
        else:
            yield _points_tag(at, match["attributes"], match["phrase"])


def _points_tag(at: int, attributes: str, phrase: str | None) -> _Tag:
    """``<points x1="1" y1="2" x2=".." .. alt="label">label</points>``, or x and y in ``<point ...>``."""
    places: dict[str, dict[str, float]] = {}
    # What follows the number shows that it is complete.
    for axis, index, number in re.findall(r"""\b([xy])(\d*)\s*=\s*["']?([-+.\deE]+)(?=["'\s/>])""", attributes):
        if _NUMBER.fullmatch(number):
            places.setdefault(index, {})[axis] = float(number)
    alt = re.search(r"""\balt\s*=\s*(?:"([^"]*)"|'([^']*)')""", attributes)
    label = (alt[1] or alt[2] if alt else None) or phrase or ""
    return _Tag(at, label, "point", [[place["x"], place["y"]] for place in places.values() if len(place) == 2])


def _read_structure(text: str, start: int) -> tuple[_Node, int]:
    """The structure that opens at ``start``, and where it ends: at its bracket, the end of a code fence or the text."""
    root = _Node(text[start])
    stack, opened = [root], Counter(text[start])
    position = start + 1
    while stack and (token := _TOKEN.match(text, position)):
        at, position = position, token.end()
        if token["open"]:
            node = _Node(token["open"])
            stack[-1].add(node, at)
            stack.append(node)
            opened[node.opener] += 1
        elif token["close"] and opened[_OPENER[token["close"]]]:
            # It also closes what a model forgot to close in it. One that nothing opened is passed over.
            closed = None
            while closed != _OPENER[token["close"]]:
                node = stack.pop()
                node.closed, closed = True, node.opener
                opened[closed] -= 1
        elif token["fence"]:
            return root, position
        elif token["colon"]:
            stack[-1].last_is_key()
        elif token["comma"]:
            stack[-1].key = ""
        elif token["quote"]:
            end = _string_end(text, position, token["quote"])
            if end is None:
                return root, len(text)
            stack[-1].add(_unescape(text[position:end]), at)
            position = end + 1
        elif token["word"] and position < len(text):  # at the end of the text, more of it may be missing
            stack[-1].add(_scalar(token["word"]), at)
    return root, position


def _string_end(text: str, position: int, quote: str) -> int | None:
    while (match := _STRING_END[quote].search(text, position)) and match[0][0] == "\\":
        position = match.end()
    return match.start() if match else None


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda e: chr(int(e[1][1:], 16)) if len(e[1]) > 1 else _ESCAPED.get(e[1], e[1]), text)


def _numbers(text: str) -> list[float] | None:
    """[1, 2, 3, 4] of "(1,2),(3,4)" or "1 2 3 4"; None if there is anything else."""
    words = re.split(r"[\s,()\[\]]+", text)
    inner = words[not words[0] : len(words) - (not words[-1])]
    return [float(word) for word in inner] if all(_NUMBER.fullmatch(word) for word in inner) else None


def _scalar(word: str) -> str | float | None:
    if _NUMBER.fullmatch(word):
        return float(word)
    return None if word in ("null", "None") else word


# ---- structures to rows of coordinates ----

_Kind: TypeAlias = Literal["box", "point", "polygon", "space"]
_Row: TypeAlias = "list[float]"

_KEYS: Final[dict[str, _Kind]] = {
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
_PICTURES: Final = {"image": 1, "picture": 1, "image_id": 1, "image_index": 0, "picture_index": 0}
"""The keys that say which picture, and from what they count."""

_PICTURE_NAME: Final = re.compile(
    r"(?:(?P<word>image|picture|img|图片|图像|图)[\s_#-]*)?(?P<number>\d{1,6})", re.IGNORECASE
)

_Group: TypeAlias = "dict[str, tuple[_Value, int]]"


def _groups(node: _Node) -> Iterator[_Group]:
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


def _number(value: _Value) -> float | None:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    return value if isinstance(value, float) else None


def _named_row(group: _Group) -> _Row | None:
    """[x1, y1, x2, y2] or [x, y] of a group whose keys name them."""

    def numbers(names: Sequence[str]) -> _Row | None:
        found = [_number(group[name][0]) if name in group else None for name in names]
        return [number for number in found if number is not None] if None not in found else None

    for names in _SIDES:
        if row := numbers(names):
            return row
    for names in (("x", "y", "width", "height"), ("x", "y", "w", "h")):
        if row := numbers(names):
            return [row[0], row[1], row[0] + row[2], row[1] + row[3]]
    return None if "z" in group else numbers(("x", "y"))


def _rows(value: _Value, depth: int = 3) -> list[_Row] | None:
    """``value`` as rows of numbers; none if it is empty; None if it is something else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [row] if (row := _numbers(value)) else None
    if not isinstance(value, _Node) or depth == 0:
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
    rows: list[_Row] = []
    for _, item, _ in value.items:
        inner = _rows(item, depth - 1) if isinstance(item, (_Node, str)) else None
        if inner is None:
            return None
        rows += inner
    return rows


def _pairs(row: _Row) -> list[Point]:
    return list(zip(row[::2], row[1::2], strict=True))


def _shapes(kind: _Kind, rows: list[_Row], plural: bool) -> list[tuple[_Kind, _Row]] | None:
    """One (kind, row) per shape: 4 numbers of a box, 2 of a point, 6 or more of a polygon, 6 or more in space."""
    lengths = {len(row) for row in rows}
    if kind == "space":
        return [(kind, row) for row in rows] if lengths <= {6, 7, 9} else None
    if kind == "point":
        if plural and len(rows) == 1 and len(rows[0]) % 2 == 0:
            return [(kind, list(pair)) for pair in _pairs(rows[0])]
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
        if isinstance(value, _Node) and value.closed:
            texts = {name: text for name, text, _ in value.items if isinstance(text, str)}
            names = [text for _, text, _ in value.items if isinstance(text, str)]
            value = texts.get("en") or ", ".join(names)
        if isinstance(value, float):
            value = f"{value:g}"
        if isinstance(value, str) and value.strip():
            return value
    return ""


def _picture(group: _Group) -> tuple[int, int] | None:
    """(number, where counting begins) of the picture that a group names."""
    for key, base in _PICTURES.items():
        value = group[key][0] if key in group else None
        if isinstance(value, float):
            value = f"{value:g}"
        match = _PICTURE_NAME.fullmatch(value.strip()) if isinstance(value, str) else None
        if match:
            return int(match["number"]), base
    return None


class _Unusable(Exception):
    """Why something cannot be a region."""


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

    def add(self, tag: _Tag) -> None:
        self.keyed = True
        shapes = _shapes(tag.kind, tag.rows, plural=False)
        if shapes is None:
            self.skipped.append(f"{_name(tag.label)} has no {tag.kind}: {_short(self.text[tag.at : tag.at + 60])}")
        self._place(tag.at, tag.label, None, shapes or [])

    def add_structure(self, root: _Node) -> None:
        self.cut_off |= not root.closed
        empty = [root, *(value for key, value, _ in root.items if key and isinstance(value, _Node))]
        self.says_none |= any(node.closed and not node.items for node in empty)
        bare: list[tuple[int, _Node]] = []
        # (node, where it begins, picture around it, whether only lists are around it, whether a region is around it)
        waiting: list[tuple[_Node, int, tuple[int, int] | None, bool, bool]] = [(root, 0, None, True, False)]
        while waiting:
            node, at, picture, in_lists, in_region = waiting.pop()
            keyed = any(key for key, _, _ in node.items)
            if not keyed and in_lists and any(isinstance(value, float) for _, value, _ in node.items):
                bare.append((at, node))
            inside: list[tuple[_Node, int, tuple[int, int] | None, bool, bool]] = []
            for key, value, start in node.items:
                if not key and isinstance(value, _Node):
                    inside.append((value, start, picture, in_lists and not keyed, in_region))
            for group in _groups(node):
                own = _picture(group) or picture
                taken = self._add_group(group, own, in_region)
                for key, (value, start) in group.items():
                    if isinstance(value, _Node) and key not in taken:
                        name = _PICTURE_NAME.fullmatch(key)
                        around = (int(name["number"]), 1) if name and name["word"] else own
                        inside.append((value, start, around, False, in_region or bool(taken)))
            waiting += reversed(inside)
        if not self.keyed:
            for at, node in bare:
                self._add_bare(at, node)

    def _add_bare(self, at: int, node: _Node) -> None:
        """A list of numbers without keys around it, as in [[x1, y1, x2, y2], [x1, y1, x2, y2]]."""
        rows = _rows(node) if node.closed else []
        if rows and len(rows) == 1 and len(rows[0]) in (2, 4):
            self._place(at, "", None, [("point" if len(rows[0]) == 2 else "box", rows[0])])

    def _add_group(self, group: _Group, picture: tuple[int, int] | None, in_region: bool) -> set[str]:
        """Adds the region of ``group``, if it is one; the keys that were its coordinates."""
        label = _label(group)
        taken: set[str] = set()
        shapes: list[tuple[_Kind, _Row]] = []
        starts: list[int] = []
        for key, (value, start) in group.items():
            kind = _KEYS.get(key)
            if not kind:
                continue
            if isinstance(value, _Node) and not value.closed:
                self.keyed = True
                continue
            rows = _rows(value)
            if rows is None and isinstance(value, _Node) and any(isinstance(item[1], _Node) for item in value.items):
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
            self._place(min(starts), label, picture, shapes)
        return taken

    def _place(self, at: int, label: str, picture: tuple[int, int] | None, shapes: list[tuple[_Kind, _Row]]) -> None:
        """Adds a region of several shapes, or several regions if there are several of a kind."""
        label = _clean(label)
        together = len({kind for kind, _ in shapes}) == len(shapes)
        try:
            index = self._index(picture)
        except _Unusable as reason:
            if shapes:
                self.skipped.append(f"{_name(label)} {reason}")
            return
        nothing = region = Region(label, index)
        for kind, row in shapes:
            try:
                region = _with_shape(region if together else nothing, kind, row, self.fits[index], self.scale)
            except _Unusable as reason:
                self.skipped.append(f"{_name(label)} {reason}: {_short(row)}")
                continue
            if not together:
                self.regions.append((at, region))
        if together and region != nothing:
            self.regions.append((at, region))

    def _index(self, picture: tuple[int, int] | None) -> int:
        count = len(self.fits)
        if picture is None:
            if count > 1:
                raise _Unusable(f"does not say in which of the {count} pictures it is (image, from 1)")
            return 0
        number, base = picture
        if count == 1 and number <= 1:
            return 0  # however it counts
        if not 0 <= number - base < count:
            raise _Unusable(f"is in picture {number}, counted from {base}, of {count}")
        return number - base


# ---- rows of coordinates to pixels of the original picture ----

_SLACK: Final = 0.05
"""How far outside the fitted picture coordinates may be, as a share of its side. The models' own go from 0 to 1000 and,
rarely, some units over; further out they are in another scale, and clipped they would be plausible and wrong."""

_POINT_SLACK: Final = 0.01
"""The same for points and what the picture shows: a point cannot be clipped, only moved to the edge."""

_SLIVER: Final = 1e-6
"""A share of the original's side: what is narrower than this after clipping only touches the edge."""


def _clean(label: str) -> str:
    """``label`` as text that any encoder and any C string takes: no lone surrogates, no NUL."""
    return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "").strip()


def _with_shape(region: Region, kind: _Kind, row: _Row, fit: Fit, scale: Scale) -> Region:
    if not all(math.isfinite(number) for number in row):
        raise _Unusable("has a number that is not finite")
    if kind == "space":
        return _with_position(region, row)
    units = (1000.0, 1000.0) if scale == "thousandths" else fit.fitted_size
    if all(abs(number) <= 1 for number in row) and not all(number.is_integer() for number in row):
        raise _Unusable("is in fractions of 1, which no Qwen-VL model writes")
    for axis, unit in enumerate(units):
        if not all(-_SLACK * unit <= number <= (1 + _SLACK) * unit for number in row[axis::2]):
            raise _Unusable(f"is not within 0..{unit:g} ({'xy'[axis]}): does this model write in another scale?")
    if kind == "box":
        return replace(region, box=_to_box(row, units, fit))
    if kind == "point":
        return replace(region, point=_to_point((row[0], row[1]), units, fit))
    return replace(region, polygon=_to_polygon(_pairs(row), units, fit))


def _with_position(region: Region, row: _Row) -> Region:
    position: Vector = (row[0], row[1], row[2])
    extent: Vector = (row[3], row[4], row[5])
    if position[2] <= 0:
        raise _Unusable("is behind the camera")
    if min(extent) < 0:
        raise _Unusable("has a negative size")
    return replace(region, position=position, extent=extent)


def _visible(fit: Fit) -> Box:
    """What the model saw of the original; sums of fractions may end a hair beside the picture."""
    left, top, right, bottom = fit.shown
    return max(left, 0.0), max(top, 0.0), min(right, float(fit.original_size[0])), min(bottom, fit.original_size[1])


def _to_fitted(x: float, y: float, units: Sequence[float], fit: Fit) -> Point:
    return x / units[0] * fit.fitted_size[0], y / units[1] * fit.fitted_size[1]


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _to_box(row: _Row, units: Sequence[float], fit: Fit) -> Box:
    (left, right), (top, bottom) = sorted(row[::2]), sorted(row[1::2])
    if left == right:
        left, right = left - 0.5, right + 0.5
    if top == bottom:
        top, bottom = top - 0.5, bottom + 0.5
    left, top = fit.to_original(*_to_fitted(left, top, units, fit))
    right, bottom = fit.to_original(*_to_fitted(right, bottom, units, fit))
    visible = _visible(fit)
    left, right = (_clamp(x, visible[0], visible[2]) for x in (left, right))
    top, bottom = (_clamp(y, visible[1], visible[3]) for y in (top, bottom))
    _check_size(right - left, bottom - top, fit)
    return left, top, right, bottom


def _check_size(width: float, height: float, fit: Fit) -> None:
    if width <= _SLIVER * fit.original_size[0] or height <= _SLIVER * fit.original_size[1]:
        raise _Unusable("has nothing inside the picture")


def _to_point(point: Point, units: Sequence[float], fit: Fit) -> Point:
    fitted = _to_fitted(*point, units, fit)
    for axis, (value, size) in enumerate(zip(fitted, fit.fitted_size, strict=True)):
        low, high = fit.place[axis], fit.place[axis + 2]
        if not low - _POINT_SLACK * size <= value <= high + _POINT_SLACK * size:
            raise _Unusable("is not inside the picture")
    x, y = fit.to_original(*fitted)
    left, top, right, bottom = _visible(fit)
    return _clamp(x, left, right), _clamp(y, top, bottom)


def _to_polygon(points: list[Point], units: Sequence[float], fit: Fit) -> tuple[Point, ...]:
    """Clipped as Sutherland and Hodgman do (1974), so that its edges stay where they are."""
    polygon = [fit.to_original(*_to_fitted(*point, units, fit)) for point in points]
    left, top, right, bottom = _visible(fit)
    for axis, limit, sign in ((0, left, 1), (1, top, 1), (0, right, -1), (1, bottom, -1)):
        edge = limit - sign * _SLIVER * fit.original_size[axis]  # a hair out, so that a corner on it stays one corner
        clipped: list[Point] = []
        for before, after in zip([*polygon[-1:], *polygon[:-1]], polygon, strict=True):
            inside = sign * (before[axis] - edge), sign * (after[axis] - edge)
            if (inside[0] < 0) != (inside[1] < 0):
                share = inside[0] / (inside[0] - inside[1])
                clipped.append((before[0] + share * (after[0] - before[0]), before[1] + share * (after[1] - before[1])))
            if inside[1] >= 0:
                clipped.append(after)
        polygon = clipped
    if not polygon:
        raise _Unusable("has nothing inside the picture")
    polygon = [(_clamp(x, left, right), _clamp(y, top, bottom)) for x, y in polygon]
    xs, ys = zip(*polygon, strict=True)
    _check_size(max(xs) - min(xs), max(ys) - min(ys), fit)
    return tuple(polygon)
