"""AskImage's result as typed, frozen dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer as AnswerMessage
from qwen3vl_ros.msg import Region as RegionMessage


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and times of an answer. Times in wall-clock seconds; None = that stage was not reached (see Usage.msg).

    ``image_change``: of the camera's frame against the one that the model read before, grey levels; None = there is
    none.
    """

    prompt_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    bytes_sent: int = 0
    image_change: float | None = None
    max_image_tokens: int = 0
    queue_time: float | None = None
    image_time: float | None = None
    encode_time: float | None = None
    first_token_time: float | None = None
    expected_first_token_time: float | None = None
    total_time: float | None = None
    tokens_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image; x and y of its top left corner, x right, y down."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Position:
    """A position in metres in the frame ``frame_id`` at ``stamp``; ``extent`` along its axes, 0 = unknown.

    ``kind``: "centre" of the object, or the "surface" that is seen at a point; "" from a node that does not tell.
    ``covariance``: 9 numbers, row by row, square metres; () = unknown.
    """

    x: float
    y: float
    z: float
    frame_id: str
    stamp: Time
    extent: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kind: str = ""
    covariance: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """An object that the answer points at, in the image ``image_index`` of ``Answer.image_headers``.

    ``point`` and ``polygon`` are (x, y) in pixels of the original image. Fields are None or () if the answer has none;
    ``position_error`` says why there is no position. ``score``: how sure the model is, 0..1, None = unknown.
    ``spread``: standard deviations of the left, top, right and bottom side, of a point of x and y; () = unknown.
    """

    label: str
    image_index: int = 0
    box: Box | None = None
    point: tuple[float, float] | None = None
    polygon: tuple[tuple[float, float], ...] = ()
    position: Position | None = None
    position_error: str = ""
    score: float | None = None
    spread: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """A time that the answer to a question about a clip names, in the clock of the images' stamps.

    ``end_stamp`` is ``stamp`` where it is no range of time. ``image_index``: of the nearest frame, in
    ``Answer.image_headers``. ``label``: what happens then, "" if the answer does not say.
    """

    label: str
    stamp: Time
    end_stamp: Time
    image_index: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and the frames that it is about.

    ``json`` is the parsed, validated JSON if the question had a response schema, else None. ``image_headers`` are
    the std_msgs/Header of the images used, in the order the model saw them: ``stamp`` and ``frame_id`` for tf.
    ``moments``: the times that it names, of a question about a clip.
    ``pixel_stamps``: stamps of the frames whose pixels the model read, earlier ones where nothing had changed since.
    ``probability`` of the first of a task's choices (of yes, for yes_no), 0..1: its share of ``probability_mass``,
    the sum over all choices; None = unknown. ``notes``: remarks, a sentence each.
    ``finish_reason``: "stop", "length" (cut at max_tokens or the context) or "cancelled".
    ``goal_id``: identifier of the goal, 32 hexadecimal digits, by which a recording knows the answer.
    """

    text: str
    reasoning: str = ""
    json: Any = None
    regions: tuple[Region, ...] = ()
    moments: tuple[Moment, ...] = ()
    probability: float | None = None
    probability_mass: float | None = None
    notes: tuple[str, ...] = ()
    image_headers: tuple[Header, ...] = ()
    pixel_stamps: tuple[Time, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = ""
    engine: str = ""
    model: str = ""
    goal_id: str = ""

    @property
    def stamp(self) -> Time | None:
        """Stamp of the first image, in the camera's clock; None without an image."""
        return self.image_headers[0].stamp if self.image_headers else None


def answer_of_result(result: AskImage.Result | AnswerMessage, goal_id: str = "") -> Answer:
    """Convert the AskImage result of a goal, whole or partial, or an Answer message, which has fewer fields."""
    return Answer(
        text=result.text,
        reasoning=getattr(result, "reasoning", ""),
        json=json.loads(result.json) if result.json else None,
        regions=tuple(_region(region) for region in result.regions),
        moments=tuple(Moment(one.label, one.stamp, one.end_stamp, one.image_index) for one in result.moments),
        probability=_known(result.probability),
        probability_mass=_known(result.probability_mass),
        notes=tuple(result.notes),
        image_headers=tuple(result.image_headers),
        pixel_stamps=tuple(getattr(result, "pixel_stamps", ())),
        usage=_usage(result.usage),
        finish_reason=result.finish_reason,
        engine=result.engine,
        model=result.model,
        goal_id=goal_id,
    )


def _known(number: float) -> float | None:
    return number if number >= 0 else None


def _usage(usage: Any) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        image_tokens=usage.image_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        bytes_sent=usage.bytes_sent,
        image_change=_known(usage.image_change),
        max_image_tokens=usage.max_image_tokens,
        queue_time=_known(usage.queue_time),
        image_time=_known(usage.image_time),
        encode_time=_known(usage.encode_time),
        first_token_time=_known(usage.first_token_time),
        expected_first_token_time=_known(usage.expected_first_token_time),
        total_time=_known(usage.total_time),
        tokens_per_second=usage.tokens_per_second,
    )


_KINDS = {RegionMessage.POSITION_CENTRE: "centre", RegionMessage.POSITION_SURFACE: "surface"}


def _region(region: Any) -> Region:
    roi = region.roi
    position = None
    if region.has_position:
        point, header = region.position.point, region.position.header
        extent = (region.extent.x, region.extent.y, region.extent.z)
        covariance = tuple(region.position_covariance) if any(region.position_covariance) else ()
        kind = _KINDS.get(region.position_kind, "")
        position = Position(point.x, point.y, point.z, header.frame_id, header.stamp, extent, kind, covariance)
    return Region(
        label=region.label,
        image_index=region.image_index,
        box=Box(roi.x_offset, roi.y_offset, roi.width, roi.height) if roi.width and roi.height else None,
        point=(region.point.x, region.point.y) if region.has_point else None,
        polygon=tuple((corner.x, corner.y) for corner in region.polygon.points),
        position=position,
        position_error=region.position_error,
        score=_known(region.score),
        spread=tuple(region.spread),
    )
