"""Makes a Watch message of Python arguments, or of JSON, and refuses wrong ones before anything is sent."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from geometry_msgs.msg import Point32, Polygon
from sensor_msgs.msg import CompressedImage

from qwen3vl_ros.client.exceptions import BadImage, BadRequest
from qwen3vl_ros.client.goal import build_goal
from qwen3vl_ros.engines.plain_text import input_text
from qwen3vl_ros.msg import Watch
from qwen3vl_ros.vision.image_message import byte_field

CONDITIONS: Final = {
    "probability": Watch.CONDITION_PROBABILITY,
    "json": Watch.CONDITION_JSON,
    "text": Watch.CONDITION_TEXT,
    "image": Watch.CONDITION_IMAGE,
}
KINDS: Final = {"on": Watch.KIND_ON, "off": Watch.KIND_OFF, "update": Watch.KIND_UPDATE}

_ASKED: Final = (
    *("task", "slots", "cameras", "max_image_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "seed", "max_tokens", "stop"),
)
"""Arguments that mean what they mean of a question."""

_SECONDS: Final = ("min_period", "max_period", "cooldown", "valid_for", "max_duration")
_OWN: Final = (
    *("watch_id", "region", "condition", "on_threshold", "off_threshold", "condition_schema", "reference", "needed"),
    *("of_last", "kinds", "message", "evidence", "priority", "muted"),
)
NAMES: Final = ("prompt", *_ASKED, *_SECONDS, *_OWN)


def build_watch(prompt: str = "", **arguments: Any) -> Watch:
    """Build a Watch.msg of its fields by name, where words and numbers take the place of messages and constants.

    Args:
        prompt: The question.
        **arguments: ``task``, ``slots``, ``cameras``, ``max_image_tokens`` and sampling options as of
            :meth:`VlmClient.ask`; ``condition``: "probability", "json", "text" or "image"; ``condition_schema``: a
            JSON Schema; ``region``: corners (x, y); ``reference``: a JPEG or PNG file or its bytes; ``kinds``: some of
            "on", "off" and "update"; ``min_period``, ``max_period``, ``cooldown``, ``valid_for`` and ``max_duration``
            in seconds; the rest as in Watch.msg.

    Raises:
        BadRequest: An argument is unknown or wrong.
    """
    for name in arguments:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            raise BadRequest(f"{name} is no field of a watch" + (f"; {near[0]} is." if near else "."))
    asked = {name: value for name, value in arguments.items() if name in _ASKED and value is not None}
    _check_types(asked)
    goal = build_goal(prompt, **asked)
    watch = Watch(
        prompt=goal.prompt,
        task=goal.task,
        slots=goal.slots,
        cameras=goal.cameras,
        options=goal.options,
        max_image_tokens=goal.max_image_tokens,
    )
    for name in _SECONDS:
        if arguments.get(name) is not None:
            _set_seconds(getattr(watch, name), name, arguments[name])
    for name in ("watch_id", "message"):
        if (text := arguments.get(name)) is not None:
            setattr(watch, name, _text(name, text))
    for name, limit in (("needed", 256), ("of_last", 256), ("priority", 256)):
        if (number := arguments.get(name)) is not None:
            setattr(watch, name, _integer(name, number, limit))
    for name in ("evidence", "muted"):
        setattr(watch, name, bool(arguments.get(name, False)))
    for name in ("on_threshold", "off_threshold"):
        if (number := arguments.get(name)) is not None:
            setattr(watch, name, _number(name, number))
    for name in ("region", "kinds"):
        if not isinstance(arguments.get(name) or (), (list, tuple, set)):
            raise BadRequest(f"{name} is a list, got {arguments[name]!r:.100}.")
    watch.condition = _condition(arguments.get("condition") or "probability")
    watch.kinds = sum(set(map(_kind, arguments.get("kinds") or ())))
    watch.region = _polygon(arguments.get("region") or ())
    watch.condition_schema = _schema(arguments.get("condition_schema") or "")
    if (reference := arguments.get("reference")) is not None:
        watch.reference = _image(reference)
    return watch


def _check_types(asked: Mapping[str, Any]) -> None:
    """Refuse what JSON can bring and a caller's type checker would have refused."""
    for name, value in asked.items():
        if name in ("cameras", "stop"):
            right = isinstance(value, (list, tuple))
        elif name == "slots":
            right = isinstance(value, Mapping)
        elif name == "task":
            right = isinstance(value, str)
        elif name == "max_image_tokens":
            right = value == "auto" or _is_number(value)
        else:
            right = _is_number(value)
        if not right:
            raise BadRequest(f"{name} cannot be {value!r:.100}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} is a string, got {type(value).__name__}.")
    try:
        return input_text(name, value)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _number(name: str, value: Any) -> float:
    if not _is_number(value) or value < 0:
        raise BadRequest(f"{name} is a number that is not negative, got {value!r:.50}.")
    return float(value)


def _integer(name: str, value: Any, limit: int) -> int:
    if not _is_number(value) or int(value) != value or not 0 <= value < limit:
        raise BadRequest(f"{name} is a whole number from 0 to {limit - 1}, got {value!r:.50}.")
    return int(value)


def _set_seconds(duration: Any, name: str, value: Any) -> None:
    seconds = _number(name, value)
    if seconds >= 2**31:
        raise BadRequest(f"{name} is a number of seconds, got {value!r:.50}.")
    duration.sec = int(seconds)
    duration.nanosec = min(round((seconds - int(seconds)) * 1e9), 999_999_999)


def _condition(name: Any) -> int:
    if not isinstance(name, str) or name not in CONDITIONS:
        raise BadRequest(f"condition is one of {', '.join(CONDITIONS)}, got {name!r:.50}.")
    number: int = CONDITIONS[name]
    return number


def _kind(name: Any) -> int:
    if not isinstance(name, str) or name not in KINDS:
        raise BadRequest(f"kinds are some of {', '.join(KINDS)}, got {name!r:.50}.")
    number: int = KINDS[name]
    return number


def _polygon(corners: Sequence[Any]) -> Polygon:
    points = []
    for corner in corners:
        if not isinstance(corner, (list, tuple)) or len(corner) != 2 or not all(map(_is_number, corner)):
            raise BadRequest(f"region is a list of corners (x, y) in pixels, got {corner!r:.50} in it.")
        points.append(Point32(x=float(corner[0]), y=float(corner[1])))
    return Polygon(points=points)


def _schema(schema: Any) -> str:
    if isinstance(schema, str):
        return _text("condition_schema", schema)
    if not isinstance(schema, Mapping):
        raise BadRequest(f"condition_schema is a JSON Schema, got {schema!r:.100}.")
    try:
        return json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"condition_schema is not JSON: {error}.") from error


def _image(reference: Any) -> CompressedImage:
    """Return a file's content, of JPEG or PNG as it is."""
    if isinstance(reference, CompressedImage):
        return reference
    goal = build_goal("", images=[reference])
    if goal.compressed_images:
        return goal.compressed_images[0]
    import cv2

    from qwen3vl_ros.vision.compressed import pixels_of

    try:
        pixels = pixels_of(goal.images[0])
    except Exception as error:
        raise BadImage(f"the reference cannot be read: {error}.") from error
    return CompressedImage(
        format="png", data=byte_field(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
    )
