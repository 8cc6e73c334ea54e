"""Checks a Watch message, and makes of it the rules of its state and the question that it asks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import BadRequest, Cancel, Image
from qwen3vl_ros.msg import Watch
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.prompts.schema import parse_schema
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.vision.region import Point
from qwen3vl_ros.vlm.messages import request_from
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.watch_state import ALL_KINDS, Kind, Rules

SHORTEST_PERIOD = 0.02
"""Seconds: no camera of a robot is faster."""

MOST_CORNERS = 1000
MOST_CHARACTERS = 65536

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_YES_NO = "yes_no"
_DEFAULT_THRESHOLDS = {Watch.CONDITION_PROBABILITY: (0.7, 0.3), Watch.CONDITION_IMAGE: (16.0, 12.0)}
_CONDITIONS = (
    Watch.CONDITION_PROBABILITY,
    Watch.CONDITION_JSON,
    Watch.CONDITION_TEXT,
    Watch.CONDITION_IMAGE,
)


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A checked watch.

    ``polygon``: its region, () = the whole image. ``on`` and ``off``: thresholds of a probability, or in grey levels.
    ``schema``: what the answer's JSON has to satisfy. ``reference``: uint8 [height, width, 3] RGB, None = the first
    frame. ``valid_for``: seconds, 0 = for ever.
    """

    rules: Rules
    polygon: tuple[Point, ...]
    on: float
    off: float
    schema: Mapping[str, Any] | None
    reference: Image | None
    valid_for: float


def check_identifier(watch_id: str) -> None:
    """Raise :class:`BadRequest` unless ``watch_id`` can be the identifier of a watch."""
    if not _IDENTIFIER.fullmatch(watch_id):
        raise BadRequest(f'watch_id: {watch_id!r:.150} is not made of up to 128 letters, digits, "_", "-" and "."')


def check(watch: Any, settings: Settings, tasks: Tasks, scheduler: Any) -> WatchRequest:
    """Check every field of a Watch.msg.

    Args:
        watch: The message.
        settings: The node's.
        tasks: The tasks that it may name.
        scheduler: Has the cameras, and decodes the reference.

    Raises:
        BadRequest: Something makes no sense; the sentence names the field.
    """
    if watch.condition not in _CONDITIONS:
        raise BadRequest(f"condition: {watch.condition} is none of {', '.join(map(str, _CONDITIONS))}")
    if len(watch.prompt) + len(watch.slots) + len(watch.message) > MOST_CHARACTERS:
        raise BadRequest(f"prompt, slots, message: they have more than {MOST_CHARACTERS} characters together")
    image_only = watch.condition == Watch.CONDITION_IMAGE
    if not image_only and not watch.task and not watch.prompt.strip():
        raise BadRequest("prompt: it is empty, so there is nothing to ask")
    for name in watch.cameras:
        scheduler.camera(name)
    polygon = _polygon(watch)
    if (polygon or image_only) and len(watch.cameras) > 1:
        raise BadRequest(f"cameras: {'a region' if polygon else 'a reference'} is of one camera; name a single one")
    if image_only:
        if watch.prompt and not watch.message:
            raise BadRequest("prompt: with CONDITION_IMAGE nothing is asked; put the sentence for people into message")
        if watch.task or watch.slots:
            raise BadRequest("task: with CONDITION_IMAGE nothing is asked; leave task and slots empty")
        request = None
    else:
        request = question(watch, settings, tasks)
    schema = None
    if watch.condition == Watch.CONDITION_JSON:
        if request is None or request.response_schema is None:
            raise BadRequest("task: CONDITION_JSON needs a task whose answer is JSON, such as count or locate")
        if not watch.condition_schema:
            raise BadRequest(
                'condition_schema: it is empty; give one such as {"properties": {"count": {"minimum": 3}}}'
            )
        schema = _schema(watch.condition_schema)
    elif watch.condition_schema:
        raise BadRequest("condition_schema: it is for CONDITION_JSON; leave it empty")
    if request is not None and watch.condition == Watch.CONDITION_PROBABILITY and not request.choices:
        raise BadRequest(
            f"task: {request.task} has no choices whose probability could be watched; take yes_no, or another condition"
        )
    on, off = _thresholds(watch)
    return WatchRequest(
        _rules(watch, settings),
        polygon,
        on,
        off,
        schema,
        _reference(watch, scheduler),
        _seconds(watch, "valid_for"),
    )


def question(watch: Any, settings: Settings, tasks: Tasks) -> AskRequest:
    """Return what a watch asks, with the tasks and the node's defaults as they are now; raises :class:`BadRequest`."""
    task = watch.task or (_YES_NO if watch.condition == Watch.CONDITION_PROBABILITY else "")
    goal = AskImage.Goal(
        prompt=watch.prompt,
        task=task,
        slots=watch.slots,
        cameras=list(watch.cameras),
        options=watch.options,
        max_image_tokens=watch.max_image_tokens,
    )
    request = request_from(goal, settings, tasks)
    if request.from_memory:
        raise BadRequest(f"task: {task} is answered from the memory, and a watch asks about images; take another task")
    return replace(request, region=_polygon(watch))


def _rules(watch: Any, settings: Settings) -> Rules:
    needed = watch.needed or 1
    of_last = watch.of_last or needed
    if needed > of_last:
        raise BadRequest(f"needed: {needed} of the last {of_last} answers cannot be; make of_last at least as great")
    kinds = Kind(watch.kinds) if 0 <= watch.kinds <= ALL_KINDS else None
    if kinds is None:
        raise BadRequest(f"kinds: {watch.kinds} is no sum of KIND_ON (1), KIND_OFF (2) and KIND_UPDATE (4)")
    shortest, longest = _seconds(watch, "min_period"), _seconds(watch, "max_period")
    if 0 < shortest < SHORTEST_PERIOD:
        raise BadRequest(f"min_period: {shortest:g} s is shorter than {SHORTEST_PERIOD:g} s")
    least = shortest or max(settings.watch_min_period, SHORTEST_PERIOD)
    if longest and shortest and longest < shortest:
        raise BadRequest(f"max_period: {longest:g} s is shorter than min_period, {shortest:g} s")
    least = min(least, longest) if longest and not shortest else least
    return Rules(
        updates=watch.condition == Watch.CONDITION_TEXT,
        needed=needed,
        of_last=of_last,
        min_period=least,
        max_period=longest or max(settings.watch_max_period, least),
        cooldown=_seconds(watch, "cooldown"),
        max_duration=_seconds(watch, "max_duration") or math.inf,
        kinds=kinds or ALL_KINDS,
    )


def _thresholds(watch: Any) -> tuple[float, float]:
    defaults = _DEFAULT_THRESHOLDS.get(watch.condition)
    if defaults is None:
        if watch.on_threshold >= 0 or watch.off_threshold >= 0:
            raise BadRequest(
                "on_threshold: thresholds are for CONDITION_PROBABILITY and CONDITION_IMAGE; leave them -1"
            )
        return 0.0, 0.0
    most = 1.0 if watch.condition == Watch.CONDITION_PROBABILITY else 255.0
    for name in ("on_threshold", "off_threshold"):
        value = getattr(watch, name)
        if math.isnan(value) or value > most:
            raise BadRequest(f"{name}: {value:g} is not from 0 to {most:g}; a negative number leaves it unset")
    on, off = (float(f"{value:.7g}") for value in (watch.on_threshold, watch.off_threshold))
    if on < 0 and off < 0:
        return defaults
    on = max(defaults[0], off) if on < 0 else on
    off = min(defaults[1], on) if off < 0 else off
    if off > on:
        raise BadRequest(f"off_threshold: {off:g} is above on_threshold, {on:g}")
    return on, off


def _polygon(watch: Any) -> tuple[Point, ...]:
    corners = tuple((float(point.x), float(point.y)) for point in watch.region.points)
    if not corners:
        return ()
    if not 3 <= len(corners) <= MOST_CORNERS:
        raise BadRequest(f"region: it has {len(corners)} corners; a polygon has from 3 to {MOST_CORNERS}")
    if not all(math.isfinite(number) for corner in corners for number in corner):
        raise BadRequest("region: a corner is not finite")
    return corners


def _schema(text: str) -> Mapping[str, Any]:
    try:
        schema = parse_schema(text)
    except BadRequest as error:
        raise BadRequest(str(error).replace("response_schema", "condition_schema", 1)) from error
    assert schema is not None
    return schema


def _reference(watch: Any, scheduler: Any) -> Image | None:
    if not len(watch.reference.data):
        return None
    if watch.condition != Watch.CONDITION_IMAGE:
        raise BadRequest("reference: it is for CONDITION_IMAGE; leave it empty")
    try:
        image: Image = scheduler.decode(watch.reference, Cancel())
    except BadRequest as error:
        raise BadRequest(f"reference: {error}") from error
    return image


def _seconds(watch: Any, name: str) -> float:
    duration = getattr(watch, name)
    seconds = float(duration.sec) + float(duration.nanosec) / 1e9
    if seconds < 0:
        raise BadRequest(f"{name}: {seconds:g} s is negative")
    return seconds
