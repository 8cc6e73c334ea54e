"""Collects the images of a question from cameras or goal; rotates, splits and fits them for the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadImage, BadRequest, Cancel, Clip, Description, Image, ImageInput, Stage
from qwen3vl_ros.prompts.request import AskRequest, images_in
from qwen3vl_ros.prompts.sandbox import Killed, Sandbox
from qwen3vl_ros.vision.compressed import decode_apart, is_heavy, loss_of, pixels_of
from qwen3vl_ros.vision.fit import Fit, Rotation, fit_image, plan_fit
from qwen3vl_ros.vision.frames import TargetFrame
from qwen3vl_ros.vision.polygon import bounds, only_inside, turned
from qwen3vl_ros.vision.region import Point
from qwen3vl_ros.vision.tiles import tiles
from qwen3vl_ros.vlm.camera_clip import camera_clip
from qwen3vl_ros.vlm.cameras import Camera, Depth, chosen
from qwen3vl_ros.vlm.clips import choose_images, clip_of, seconds_from_first, shrunk
from qwen3vl_ros.vlm.frame_source import Frame
from qwen3vl_ros.vlm.history_recorder import HistoryRecorder
from qwen3vl_ros.vlm.image_budget import ImageBudget, choose_budget, text_tokens
from qwen3vl_ros.vlm.image_cost import ImageCost, ImageLoad
from qwen3vl_ros.vlm.job import Job, Progress
from qwen3vl_ros.vlm.still_camera import ChosenPixels, FittedFrame

DECODE_TIME = 5.0
"""Seconds that an image gets to be decoded."""

_WHOLE_FRAMES = 16
"""The last frames of a clip whose pixels are kept as they are, to be drawn; hundreds of them would fill the memory."""


@dataclass(slots=True)
class InputImage:
    """An image that a question is about: its pixels (uint8 [height, width, 3] RGB), and how the original was fitted.

    ``fits``: one, or those of its parts if the camera has ``tiles``. ``camera``, ``frame`` and ``chosen`` are None for
    an image in the goal. ``depth`` is the frame's, even where the model reads an earlier frame's pixels: nothing has
    moved in the image since, and a position belongs to the stamp of ``header``, at which tf places the camera.
    ``target``: the frame that positions are wanted in, None = the camera's optical frame.
    """

    header: Header
    pixels: Image
    fits: tuple[Fit, ...]
    camera: Camera | None = None
    frame: Frame | None = None
    chosen: ChosenPixels | None = None
    depth: Depth = field(default_factory=Depth)
    target: TargetFrame | None = None

    @property
    def pixel_stamp(self) -> Time:
        """Stamp of the frame whose pixels the model reads."""
        return self.header.stamp if self.chosen is None else self.chosen.pixels.stamp

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as published."""
        return self.fits[0].original_size

    @property
    def published(self) -> Image:
        """The pixels at that size: a frame out of a history, or of a long clip, has been reduced."""
        if self.size == (self.pixels.shape[1], self.pixels.shape[0]):
            return self.pixels
        enlarged: Image = np.asarray(cv2.resize(self.pixels, self.size, interpolation=cv2.INTER_LINEAR), np.uint8)
        return enlarged

    def fetch_depth(self, tolerance: float, cancel: Cancel) -> None:
        """Take the depth image of the frame's time, once; see :meth:`Camera.depth_of`."""
        if self.camera is not None and self.frame is not None and self.depth == Depth():
            self.depth = self.camera.depth_of(self.frame, tolerance, cancel)


@dataclass(frozen=True, slots=True)
class InputImages:
    """The images of a question. ``content``: every image or part of one, fitted, after its announcement, or the clip.

    ``subject``: index of the first image that it is about; those before belong to earlier turns. ``notes``: what the
    images lost on their way. ``budget``: the tokens that each may have; ``load``: which are new to the engine.
    ``clip_times``: where the images that it is about are the frames of a clip, the time of each in seconds since the
    first one; () elsewhere.
    """

    images: tuple[InputImage, ...] = ()
    content: tuple[str | Image | Clip, ...] = ()
    subject: int = 0
    notes: tuple[str, ...] = ()
    budget: ImageBudget = field(default_factory=ImageBudget)
    load: ImageLoad = field(default_factory=ImageLoad)
    clip_times: tuple[float, ...] = ()

    @property
    def own(self) -> tuple[InputImage, ...]:
        """The images that the question is about."""
        return self.images[self.subject :]

    @property
    def parts(self) -> int:
        """Number of those images, or of their parts, that the model sees and may be asked to tell apart."""
        return 1 if self.clip_times else sum(len(image.fits) for image in self.own)

    @property
    def change(self) -> float | None:
        """Greatest change of a camera against the frame that was read last, grey levels; None = unknown."""
        changes = (image.chosen.change for image in self.images if image.chosen is not None)
        return max((change for change in changes if change is not None), default=None)

    def were_read(self, engine: Description) -> None:
        """Note that the engine has read the frames."""
        for image in self.images:
            if image.camera is not None and image.chosen is not None:
                image.camera.still.remember(image.chosen.pixels, engine)


@dataclass(frozen=True, slots=True)
class _Source:
    """The origin of an image, and the grid (columns, rows) of parts in which the model sees it.

    ``size``: (width, height) as it was published, where ``message`` has been reduced; None = as it is.
    """

    message: Any
    camera: Camera | None = None
    frame: Frame | None = None
    grid: tuple[int, int] = (1, 1)
    size: tuple[int, int] | None = None

    @property
    def parts(self) -> int:
        return self.grid[0] * self.grid[1]


def collect_images(
    job: Job,
    request: AskRequest,
    cameras: Mapping[str, Camera],
    frame_timeout: float,
    description: Description,
    sandbox: Sandbox,
    cost: ImageCost,
    recorder: HistoryRecorder,
) -> InputImages | None:
    """Collect the images of the goal and its cameras, and fit them for the engine.

    Args:
        job: Its goal was checked.
        request: The goal, which may continue a conversation.
        cameras: By name.
        frame_timeout: Seconds to wait for a fresh frame, 0 = as long as the job has time.
        description: Of the engine.
        sandbox: Decodes images that may take long.
        cost: Of that engine.
        recorder: Keeps the histories of the cameras.

    Returns:
        None when the job ended before.

    Raises:
        BadRequest: A camera is unknown, or the images are too many or too few.
        BadImage: An image cannot be decoded.
        NoFrame: No fresh frame arrived in time.
    """

    def decode(message: Any) -> Image | None:
        return _pixels(message, job, sandbox)

    losses: list[str] = []
    sources = [_Source(message) for message in request.images]
    if request.needs_cameras:
        job.reply.progress(Progress(Stage.WAITING_FRAME))
        deadline = min(job.deadline, time.monotonic() + frame_timeout) if frame_timeout else job.deadline
        for camera in chosen(cameras, request.cameras):
            if request.clip is not None:
                clip = camera_clip(camera, request.clip, request, recorder, deadline, job.cancellation)
                if clip is None:
                    return None
                losses += clip.notes
                sources += (_Source(kept.message(), camera, size=kept.size) for kept in clip.frames)
                sources[-1] = replace(sources[-1], frame=clip.newest)
                continue
            frame = job.frames.get(camera.name) or camera.wait(
                request.not_before, request.max_frame_age, deadline, job.cancellation
            )
            if frame is None:
                return None
            # Not split for 3D: a part has another field of view than the camera, which the model needs for metres.
            grid = (1, 1) if request.parser == "regions_3d" or request.region else camera.grid
            sources.append(_Source(frame.message(), camera, frame, grid))
    subject = request.subject(len(sources))
    if request.clip is not None and not request.clip.duration:
        frames = choose_images([source.message for source in sources[subject:]], request.clip, decode)
        if frames is None:
            return None
        if len(frames) < len(sources) - subject:
            losses.append(f"the model saw {len(frames)} of the clip's {len(sources) - subject} images: see clip_frames")
        sources[subject:] = map(_Source, frames)
    _check_counts(request, sources, subject, description)
    seconds = job.deadline - time.monotonic()
    budget = choose_budget(request, description, _n_parts(request, sources, subject), seconds, cost)
    wanted = budget.applied_to(description.image_input)
    wanted_earlier = wanted
    if request.clip is not None and subject:  # an image of an earlier turn is to stay as the model knows it
        wanted_earlier = choose_budget(replace(request, clip=None), description, subject, seconds, cost).applied_to(
            description.image_input
        )
    images: list[InputImage] = []
    content: list[str | Image | Clip] = []
    number, several = 0, request.clip is None and sum(source.parts for source in sources[subject:]) > 1
    for index, source in enumerate(sources):
        pixels = decode(source.message)
        if pixels is None:
            return None
        fitted: Sequence[Image]
        wanted_now = wanted if index >= subject else wanted_earlier
        fitted, fits = zip(*_fitted(pixels, source, wanted_now, request.region), strict=True)
        if request.clip is not None and subject <= index < len(sources) - _WHOLE_FRAMES:
            pixels = shrunk(pixels)
        images.append(InputImage(source.message.header, pixels, fits, source.camera, source.frame))
        if source.camera is not None and source.frame is None:
            images[-1].depth = Depth(missing="depth images are kept of no earlier frame")
        if source.camera is not None and source.frame is not None and request.clip is None:
            moment = source.camera.frames.moment(source.frame)
            new = FittedFrame(fitted, fits, moment, source.frame.arrived, source.message.header.stamp)
            images[-1].chosen = choice = source.camera.still.choose(
                new, description, request.not_before, new_pixels=request.new_pixels
            )
            fitted = choice.pixels.parts
        for part, image in enumerate(fitted):
            number += index >= subject
            # Announce a goal's images so that the answer can refer to them; those of earlier turns have their places.
            if several and (source.camera or (request.parser == "regions" and index >= images_in(request.history))):
                content.append(_announcement(number, source, part))
            content.append(image)
    clip_times: tuple[float, ...] = ()
    if request.clip is not None:
        clip_times = seconds_from_first([image.header.stamp for image in images[subject:]])
        clip_frames = [cast("Image", frame) for frame in content[subject:]]
        content[subject:] = [clip_of(clip_frames, clip_times, request.clip.goal_field)]
    losses += [
        f"camera {source.camera.name!r}: {loss}" if source.camera else loss
        for source in sources
        if (loss := loss_of(source.message))
    ]
    losses += [budget.note] if budget.note else []
    load = cost.load_of(list(_encoded(content)), wanted.multiple)
    if images:
        budget = replace(budget, expected=cost.first_token_time(load.new, text_tokens(request)))
    notes = tuple(dict.fromkeys(losses))
    return InputImages(tuple(images), tuple(content), subject, notes, budget, load, clip_times)


def _n_parts(request: AskRequest, sources: Sequence[_Source], subject: int) -> int:
    """Return how many images, or parts of images, the engine encodes: two frames of a clip are one."""
    if request.clip is None:
        return sum(source.parts for source in sources)
    return subject + (len(sources) - subject + 1) // 2


def _encoded(content: Sequence[str | Image | Clip]) -> Iterator[Image]:
    """Yield what the engine encodes; of the two frames of a pair the first one, as a pair costs one image."""
    for part in content:
        if isinstance(part, Clip):
            yield from part.frames[::2]
        elif not isinstance(part, str):
            yield part


def _pixels(message: Any, job: Job, sandbox: Sandbox) -> Image | None:
    """Decode an image, in the sandbox if that may take long; None if the job ended before. Raises BadImage."""
    try:
        return decoded(message, min(DECODE_TIME, job.deadline - time.monotonic()), sandbox, job.cancellation)
    except BadImage:
        if job.error is not None or time.monotonic() >= job.deadline:
            return None
        raise


def decoded(message: Any, timeout: float, sandbox: Sandbox, cancel: Cancel) -> Image:
    """Decode an Image or a CompressedImage, in the sandbox if that may take long.

    Args:
        message: The image.
        timeout: Seconds that the sandbox gets.
        sandbox: Decodes it.
        cancel: Ends that early.

    Raises:
        BadImage: It cannot be decoded, or was not in time.
    """
    if not (isinstance(message, CompressedImage) and is_heavy(message)):
        return pixels_of(message)
    what = f"the compressed image of {len(message.data)} bytes"
    try:
        return sandbox.run(decode_apart, bytes(message.data), message.format, timeout=max(0.0, timeout), cancel=cancel)
    except ValueError as error:
        raise BadImage(str(error)) from error
    except RuntimeError as error:
        raise BadImage(f"{what} cannot be decoded ({error}): send a smaller one") from error
    except Killed as error:
        raise BadImage(f"{what} was not decoded, {error}: send a smaller one") from error


def _check_counts(request: AskRequest, sources: Sequence[_Source], subject: int, description: Description) -> None:
    own = len(sources) - subject
    parts = sum(source.parts for source in sources) if request.clip is None else subject + 1
    if description.max_images is not None and parts > description.max_images:
        counted = "images in the goal" if parts == len(sources) else "images, the parts of `tiles` counted,"
        raise BadRequest(f"{parts} {counted}; engine {description.engine!r} takes {description.max_images}")
    if own < request.min_images and (sources or request.parser in ("regions", "regions_3d")):
        raise BadRequest(f"task {request.task} is about {request.min_images} images; the goal has {own}")
    if own > 1 and request.parser == "regions_3d":
        raise BadRequest(f"task {request.task} looks at one image; the goal has {own}: ask about each")


def _fitted(pixels: Image, source: _Source, wanted: ImageInput, region: Sequence[Point]) -> Iterator[tuple[Image, Fit]]:
    """Yield each part fitted for the engine, with its mapping to the original."""
    if source.camera is None:
        yield fit_image(pixels, wanted)
        return
    if source.camera.fit is not None:
        wanted = replace(wanted, fit=source.camera.fit)
    rotation = source.camera.rotation
    if source.size is not None:
        yield _fitted_reduced(pixels, source.size, wanted, rotation)
        return
    height, width, _ = pixels.shape
    if region:
        part = turned(bounds(region, width, height), width, height, rotation)
        yield fit_image(only_inside(pixels, region), wanted, rotation, part)
        return
    across, down = (width, height) if rotation % 180 == 0 else (height, width)
    for part in tiles(across, down, *source.grid):
        yield fit_image(pixels, wanted, rotation, None if source.grid == (1, 1) else part)


def _fitted_reduced(
    pixels: Image, published: tuple[int, int], wanted: ImageInput, rotation: Rotation
) -> tuple[Image, Fit]:
    """Fit an image that has been reduced as the published one would be, with the mapping to that."""
    if wanted.size is None:
        wanted = replace(wanted, size=plan_fit(*published, wanted, rotation).fitted_size, fit="fill")
    fitted, fit = fit_image(pixels, wanted, rotation)
    across, down = published[0] / pixels.shape[1], published[1] / pixels.shape[0]
    left, top, right, bottom = fit.shown
    shown = (left * across, top * down, right * across, bottom * down)
    return fitted, replace(fit, original_size=published, shown=shown)


def _announcement(number: int, source: _Source, part: int) -> str:
    """Return the text before an image: its number, which an answer refers to, its camera and its part."""
    words = [f"Picture {number}"]
    if source.camera is not None and source.camera.name:
        words.append(f"camera {source.camera.name}")
    (columns, rows), (row, column) = source.grid, divmod(part, source.grid[0])
    words += [f"row {row + 1} of {rows}"] if rows > 1 else []
    words += [f"column {column + 1} of {columns}"] if columns > 1 else []
    return ", ".join(words) + ": "
