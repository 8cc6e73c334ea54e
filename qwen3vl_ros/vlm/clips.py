"""Chooses the frames of a clip out of the images of a goal, and gives the engine its clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time

from qwen3vl_ros.engines.base import BadRequest, Clip, Image
from qwen3vl_ros.prompts.clip import ClipRequest
from qwen3vl_ros.vision.change import image_change
from qwen3vl_ros.vision.frame_choice import evenly, most_changed

_COMPARED_SIDE = 320
"""Pixels of the longer side of the images whose change is measured."""


def nanoseconds(stamp: Time) -> int:
    """Return a stamp as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def seconds_from_first(stamps: Sequence[Time]) -> tuple[float, ...]:
    """Return the time of each frame in seconds, from the first one on."""
    return tuple((nanoseconds(stamp) - nanoseconds(stamps[0])) / 1e9 for stamp in stamps)


def choose_images(
    messages: Sequence[Any], clip: ClipRequest, decode: Callable[[Any], Image | None]
) -> list[Any] | None:
    """Choose the frames of a clip among the images of a goal.

    Args:
        messages: sensor_msgs Image and CompressedImage, the oldest first.
        clip: With its number of frames, and how they are chosen.
        decode: Returns the pixels of one, None when the goal ended meanwhile.

    Returns:
        The chosen ones; None when the goal ended meanwhile.

    Raises:
        BadRequest: Their stamps are no times of a clip.
    """
    times = [nanoseconds(message.header.stamp) for message in messages]
    for number, (before, after) in enumerate(itertools.pairwise(times), 2):
        if after <= before:
            raise BadRequest(
                f"images_are_clip: image {number} is not stamped after image {number - 1}; the stamps (header.stamp) "
                "are the times of the clip, the oldest frame first, those in images before those in compressed_images"
            )
    if len(messages) <= clip.frames or clip.pick == "even":
        return [messages[index] for index in evenly(times, times[0], times[-1], clip.frames)]
    small: list[Image] = []
    for message in messages:
        pixels = decode(message)
        if pixels is None:
            return None
        small.append(shrunk(pixels))
    return [messages[index] for index in most_changed(changes(small), clip.frames)]


def changes(images: Sequence[Image]) -> list[float]:
    """Return the change of each image but the first against the one before, in grey levels; inf where sizes differ."""
    return [
        image_change(image, before) if image.shape == before.shape else float("inf")
        for before, image in itertools.pairwise(images)
    ]


def shrunk(pixels: Image) -> Image:
    """Return an image at the size at which changes are measured."""
    height, width, _ = pixels.shape
    scale = _COMPARED_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Image = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small


def clip_of(frames: Sequence[Image], times: Sequence[float], goal_field: str) -> Clip:
    """Return the engine's clip of fitted frames. Raises BadRequest, about that field, where sizes differ."""
    for number, frame in enumerate(frames, 1):
        if frame.shape != frames[0].shape:
            raise BadRequest(
                f"{goal_field}: frame {number} has another shape than the first one; all frames of a clip have one "
                "width and height"
            )
    return Clip(tuple(frames), tuple(times))
