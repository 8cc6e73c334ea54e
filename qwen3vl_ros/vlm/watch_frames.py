"""The frames that watches look at: one of each camera for all that are due together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import cv2

from qwen3vl_ros.engines.base import BadImage, Cancel, Image
from qwen3vl_ros.vision.change import image_change
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vision.polygon import bounds, only_inside
from qwen3vl_ros.vision.region import Point
from qwen3vl_ros.vlm.cameras import Camera
from qwen3vl_ros.vlm.frame_source import Frame, NoFrame
from qwen3vl_ros.vlm.scheduler import Scheduler

LONGEST_SIDE = 640
"""Pixels of the longer side of what is compared: a larger part of an image is made smaller. It costs a millisecond, and
what fills a block of 8x8 pixels there is 24 pixels wide in an image of 1920."""

_PATIENCE = 0.5
"""Seconds to wait for the frame of a camera that had one before."""


class Look:
    """A frame of a camera, and what watches make of it, each thing once. ``taken``: when, time.monotonic() seconds."""

    def __init__(self, camera: Camera, frame: Frame, scheduler: Scheduler, cancel: Cancel) -> None:
        self.camera = camera
        self.frame = frame
        self.taken = time.monotonic()
        self.message: Any = frame.message()
        self._scheduler = scheduler
        self._cancel = cancel
        self._pixels: Image | None = None
        self._views: dict[tuple[Point, ...], Image] = {}
        self._jpeg = b""
        self._kept = False

    @property
    def pixels(self) -> Image:
        """The whole image, uint8 [height, width, 3] RGB; raises :class:`BadImage`."""
        if self._pixels is None:
            self._pixels = self._scheduler.decode(self.message, self._cancel)
        return self._pixels

    def view(self, polygon: tuple[Point, ...]) -> Image:
        """Return what is compared of it: the part in ``polygon``, () = all; raises BadImage, BadRequest."""
        if polygon not in self._views:
            self._views[polygon] = view_of(self.pixels, polygon)
        return self._views[polygon]

    def jpeg(self) -> bytes:
        """Return the whole image as the content of a JPEG file."""
        if not self._jpeg:
            self._jpeg = jpeg_of(self.pixels)
        return self._jpeg

    def keep(self) -> None:
        """Have it in the history of its camera, unless it is of a kind that is not kept."""
        if not self._kept:
            self._kept = True
            with contextlib.suppress(BadImage):
                self._scheduler.recorder.keep(self.camera, self.frame)


class Looks:
    """The frames of one round, taken when the first watch wants one."""

    def __init__(self, scheduler: Scheduler, max_age: float, cancel: Cancel, blind: set[str]) -> None:
        """Begin a round.

        Args:
            scheduler: Has the cameras.
            max_age: Greatest age of a frame, seconds.
            cancel: Ends a wait for a frame.
            blind: Names of cameras without frames, which are not waited for; kept from round to round.
        """
        self._scheduler = scheduler
        self._max_age = max_age
        self._cancel = cancel
        self._blind = blind
        self._looks: dict[str, Look | NoFrame] = {}

    def of(self, name: str) -> Look:
        """Return the look of this round through a camera, "" = the first; raises NoFrame, BadRequest."""
        camera = self._scheduler.camera(name)
        if camera.name not in self._looks:
            self._looks[camera.name] = self._take(camera)
        look = self._looks[camera.name]
        if isinstance(look, NoFrame):
            raise look
        return look

    def _take(self, camera: Camera) -> Look | NoFrame:
        patience = 0.0 if camera.name in self._blind else _PATIENCE
        try:
            frame = camera.wait(0, self._max_age, time.monotonic() + patience, self._cancel)
        except NoFrame as error:
            self._blind.add(camera.name)
            return error
        self._blind.discard(camera.name)
        if frame is None:
            return NoFrame("the camera was closed")
        return Look(camera, frame, self._scheduler, self._cancel)


def view_of(image: Image, polygon: tuple[Point, ...]) -> Image:
    """Return the part of ``image`` in ``polygon``, () = all of it, at most :data:`LONGEST_SIDE` pixels long."""
    if polygon:
        left, top, right, bottom = bounds(polygon, image.shape[1], image.shape[0])
        moved = [(x - left, y - top) for x, y in polygon]
        image = only_inside(image[top:bottom, left:right], moved)
    height, width, _ = image.shape
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return image


def change_between(views: Sequence[Image], earlier: Sequence[Image]) -> float | None:
    """Return the greatest change of any view, grey levels; None where they cannot be compared."""
    if [view.shape for view in views] != [view.shape for view in earlier]:
        return None
    return max(image_change(view, before) for view, before in zip(views, earlier, strict=True))
