"""Converts Python arguments to an AskImage goal, and refuses wrong ones before anything is sent."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np
from builtin_interfaces.msg import Duration, Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.client.exceptions import BadImage, BadRequest
from qwen3vl_ros.engines.plain_text import NulError, input_json, input_text
from qwen3vl_ros.msg import ChatMessage
from qwen3vl_ros.vision.image_message import byte_field, image_message

if TYPE_CHECKING:
    import PIL.Image
    from rclpy.time import Time as RclpyTime

ImageLike: TypeAlias = (
    "NDArray[np.uint8] | PIL.Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | Image | "
    "CompressedImage"
)
"""An image: uint8 array [height, width, 3] RGB or [height, width] grey, a PIL image, a path or the bytes of a file, or
a sensor_msgs message."""

DEFAULT_TIMEOUT = 60.0
"""Default seconds that a question may take, from its acceptance."""

_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}


class Arguments(TypedDict, total=False):
    """Arguments of :meth:`VlmClient.ask`, :meth:`~VlmClient.stream` and :meth:`~VlmClient.send` beside the prompt."""

    images: Sequence[ImageLike] | ImageLike | None
    cameras: Sequence[str]
    text_only: bool
    system_prompt: str
    task: str
    slots: Mapping[str, Any] | None
    response_schema: str | Mapping[str, Any] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    thinking: bool | None
    max_reasoning_tokens: int
    max_image_tokens: int | Literal["auto"]
    score_threshold: float | None
    target_frame: str
    seed: int | None
    max_tokens: int | None
    stop: Sequence[str]
    priority: int
    timeout: float
    not_before: Time | RclpyTime | float | None
    max_frame_age: float | None
    new_pixels: bool
    session: str
    history: Sequence[ChatMessage]
    clip_duration: float | None
    clip_frames: int
    clip_end: Time | RclpyTime | float | None
    clip_pick: Literal["", "even", "change"]
    images_are_clip: bool


def build_goal(
    prompt: str,
    *,
    images: Sequence[ImageLike] | ImageLike | None = None,
    cameras: Sequence[str] = (),
    text_only: bool = False,
    system_prompt: str = "",
    task: str = "",
    slots: Mapping[str, Any] | None = None,
    response_schema: str | Mapping[str, Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    thinking: bool | None = None,
    max_reasoning_tokens: int = 0,
    max_image_tokens: int | Literal["auto"] = 0,
    score_threshold: float | None = None,
    target_frame: str = "",
    seed: int | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    priority: int = 0,
    timeout: float = DEFAULT_TIMEOUT,
    not_before: Time | RclpyTime | float | None = None,
    max_frame_age: float | None = None,
    new_pixels: bool = False,
    session: str = "",
    history: Sequence[ChatMessage] = (),
    clip_duration: float | None = None,
    clip_frames: int = 0,
    clip_end: Time | RclpyTime | float | None = None,
    clip_pick: Literal["", "even", "change"] = "",
    images_are_clip: bool = False,
) -> AskImage.Goal:
    """Build an AskImage goal; see :meth:`qwen3vl_ros.client.VlmClient.ask` for the arguments. Raises BadRequest."""
    goal = AskImage.Goal(prompt=_text("prompt", prompt), task=_text("task", task))
    if slots:
        goal.slots = _slots(slots)
    goal.system_prompt = _text("system_prompt", system_prompt)
    goal.session = _text("session", session)
    goal.target_frame = _text("target_frame", target_frame)
    goal.history = [_turn(number, turn) for number, turn in enumerate(history)]
    goal.cameras = _texts("cameras", cameras)
    goal.text_only = bool(text_only)
    goal.new_pixels = bool(new_pixels)
    goal.priority = _integer("priority", priority, 2**8)
    goal.max_image_tokens = _image_tokens(max_image_tokens)
    if score_threshold is not None:
        if not 0 <= score_threshold <= 1:
            raise BadRequest(f"score_threshold is a number from 0 to 1, got {score_threshold}; None = the task's.")
        goal.score_threshold = float(score_threshold)
    if thinking is not None:
        goal.thinking = AskImage.Goal.THINKING_ON if thinking else AskImage.Goal.THINKING_OFF
    goal.max_reasoning_tokens = _integer("max_reasoning_tokens", max_reasoning_tokens, 2**32)
    goal.images_are_clip = bool(images_are_clip)
    goal.clip_frames = _integer("clip_frames", clip_frames, 2**16)
    goal.timeout = _duration("timeout", timeout)
    if not_before is not None:
        goal.not_before = _time(not_before)
    if max_frame_age is not None:
        goal.max_frame_age = _duration("max_frame_age", max_frame_age)
    if clip_duration is not None:
        goal.clip_duration = _duration("clip_duration", clip_duration)
    if clip_end is not None:
        goal.clip_end = _time(clip_end)
    goal.clip_pick = _text("clip_pick", clip_pick)
    if response_schema is not None:
        schema = response_schema if isinstance(response_schema, str) else json.dumps(response_schema)
        goal.response_schema = _text("response_schema", schema)
    numbers = {
        "temperature": temperature, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty,
    }  # fmt: skip
    for name, number in numbers.items():
        if number is not None:
            if not number >= 0:
                raise BadRequest(f"{name} must not be negative, got {number}; leave it out for the node's own value.")
            setattr(goal.options, name, float(number))
    for name, integer, limit in (("top_k", top_k, 2**31), ("max_tokens", max_tokens, 2**31), ("seed", seed, 2**63)):
        if integer is not None:
            setattr(goal.options, name, _integer(name, integer, limit))
    goal.options.stop = _texts("stop", stop)
    if images is not None:
        _put_images(goal, images)
    return goal


# Some ROS distributions do not type-check message fields: a wrong type then crashes the process when it is sent.
def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} is a string, got {type(value).__name__}.")
    try:
        return input_text(name, value)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _texts(name: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise BadRequest(f"{name} is a list of strings, got {values!r:.200}: write {name}=['...'].")
    return [_text(name, value) for value in values]


def _slots(slots: Mapping[str, Any]) -> str:
    try:
        return json.dumps(input_json("slots", dict(slots)), ensure_ascii=False)
    except NulError as error:
        raise BadRequest(str(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"slots is not JSON: {error}.") from error


def _turn(number: int, turn: ChatMessage) -> ChatMessage:
    if not isinstance(turn, ChatMessage):
        raise BadRequest(f"history[{number}] is a qwen3vl_ros.msg.ChatMessage, got {type(turn).__name__}.")
    role = _text(f"history[{number}].role", turn.role)
    return ChatMessage(role=role, content=_texts(f"history[{number}].content", turn.content))


def _integer(name: str, value: int, limit: int) -> int:
    if int(value) != value or not 0 <= value < limit:
        raise BadRequest(f"{name} is a whole number from 0 to {limit - 1}, got {value}.")
    return int(value)


def _image_tokens(number: int | str) -> int:
    auto: int = AskImage.Goal.MAX_IMAGE_TOKENS_AUTO
    if number == "auto":
        return auto
    if isinstance(number, str):
        raise BadRequest(f'max_image_tokens is a whole number or "auto", got {number!r:.50}.')
    return _integer("max_image_tokens", number, auto)


def _duration(name: str, seconds: float) -> Duration:
    if not (math.isfinite(seconds) and 0 < seconds < 2**31):
        raise BadRequest(f"{name} is a number of seconds greater than zero, got {seconds}.")
    whole = int(seconds)
    return Duration(sec=whole, nanosec=min(int((seconds - whole) * 1e9), 999_999_999))


def _time(time: Time | RclpyTime | float) -> Time:
    if isinstance(time, Time):
        return time
    nanoseconds = int(time * 1e9) if isinstance(time, (int, float)) else time.nanoseconds
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _put_images(goal: AskImage.Goal, images: Sequence[ImageLike] | ImageLike) -> None:
    """Place the images in the goal so that the model sees them in the caller's order."""
    one = isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray))
    given: list[Any] = [images] if one or not isinstance(images, Iterable) else list(images)
    if not given:
        raise BadRequest(
            "images is an empty list: give at least one image, leave images out (None) to ask the camera, or give "
            "text_only=True alone to ask without an image."
        )
    given = [bytes(image) if isinstance(image, (bytearray, memoryview)) else image for image in given]
    messages = [_message(image) for image in given]
    # The goal's fields put all raw images before all compressed ones: if that would change the order, send all raw.
    raw = [isinstance(message, Image) for message in messages]
    if raw != sorted(raw, reverse=True):
        messages = [
            message if isinstance(message, Image) else _raw(message, image)
            for message, image in zip(messages, given, strict=True)
        ]
    goal.images = [message for message in messages if isinstance(message, Image)]
    goal.compressed_images = [message for message in messages if isinstance(message, CompressedImage)]


def _message(image: Any) -> Image | CompressedImage:
    if isinstance(image, (Image, CompressedImage)):
        _text("images: header.frame_id", image.header.frame_id)
        return image
    if isinstance(image, np.ndarray):
        return _image_of_array(image)
    if isinstance(image, (str, os.PathLike, bytes)):
        return _message_of_file(image)
    if _is_of_pillow(image):
        return image_message(_decode(image))
    raise BadImage(
        "an image is a numpy array, a PIL image, a file path, the bytes of a file, a sensor_msgs Image or "
        f"CompressedImage, not {type(image).__name__}."
    )


def _is_of_pillow(image: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # whoever has such an image has imported it; behaviours start faster without
    return pillow is not None and isinstance(image, pillow.Image)


def _image_of_array(pixels: NDArray[Any]) -> Image:
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (colour or pixels.ndim == 2) or 0 in pixels.shape:
        raise BadImage(
            f"a numpy image is uint8 [height, width, 3] RGB or [height, width] grey, got {pixels.dtype} "
            f"{list(pixels.shape)}."
        )
    return image_message(pixels)


def _message_of_file(file: str | os.PathLike[str] | bytes) -> Image | CompressedImage:
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
    except OSError as error:
        raise BadImage(f"the image {file!s} cannot be read: {error.strerror or error}.") from error
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return CompressedImage(format=kind, data=byte_field(content))
    return image_message(_decode(content, _name(file)))


def _name(file: str | os.PathLike[str] | bytes) -> str:
    return f"what begins with {file[:8].hex(' ')!r}" if isinstance(file, bytes) else str(file)


def _raw(message: CompressedImage, given: Any) -> Image:
    """Return the decoded image in ``message``; raises BadImage, whose sentence is about ``given``."""
    pixels = _decode(given) if isinstance(given, CompressedImage) else _decode(bytes(message.data), _name(given))
    return image_message(pixels, message.header)


def _decode(image: CompressedImage | PIL.Image.Image | bytes, name: str = "") -> NDArray[np.uint8]:
    """Return the RGB pixels of a message, a PIL image, or the content of the file ``name``. Raises BadImage."""
    # Imported here, because a behaviour starts faster without OpenCV and Pillow, and most never need them.
    from qwen3vl_ros.engines import base
    from qwen3vl_ros.vision.compressed import decode, decode_file, rgb_of_pillow

    try:
        if isinstance(image, CompressedImage):
            return decode(image)
        return decode_file(image, name) if isinstance(image, bytes) else rgb_of_pillow(image)
    except base.BadImage as error:
        raise BadImage(str(error)) from error
