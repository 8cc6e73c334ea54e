"""Takes a clip out of a camera's history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import cv2
import numpy as np

from qwen3vl_ros.engines.base import Cancel, Image
from qwen3vl_ros.prompts.clip import ClipRequest
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.compressed import decode
from qwen3vl_ros.vision.frame_choice import evenly, most_changed
from qwen3vl_ros.vlm.cameras import Camera
from qwen3vl_ros.vlm.clips import changes, shrunk
from qwen3vl_ros.vlm.frame_source import Frame, NoFrame
from qwen3vl_ros.vlm.history import SAME, HistorySpan, KeptFrame
from qwen3vl_ros.vlm.history_recorder import HistoryRecorder
from qwen3vl_ros.vlm.job import Job

_SECOND = 1_000_000_000

_CHECK_PERIOD = 0.05
"""Seconds between two checks of a waiting thread whether its question has ended."""


@dataclass(frozen=True, slots=True)
class CameraClip:
    """The frames of a clip, the oldest first. ``newest``: the frame that the last one was made of, None = unknown.

    ``notes``: what it does not cover, a sentence each.
    """

    frames: tuple[KeptFrame, ...]
    newest: Frame | None = None
    notes: tuple[str, ...] = ()


def camera_clip(
    camera: Camera, clip: ClipRequest, request: AskRequest, recorder: HistoryRecorder, deadline: float, job: Job
) -> CameraClip | None:
    """Choose the frames of a clip among those that are kept, and of a clip that ends now, the camera's newest one.

    A history that does not reach back far enough yet, because nobody needed it before, is waited for until
    ``deadline``; then the clip is as long as it can be, and a note says so. So is one that does not reach back from
    ``not_before`` on.

    Args:
        camera: Has the history.
        clip: With its duration.
        request: Its ``not_before`` is the earliest frame, and its ``max_frame_age`` the greatest age of the last one
            at the end of the clip.
        recorder: Keeps frames from now on.
        deadline: When to stop waiting, time.monotonic() seconds.
        job: The goal; told what is waited for.

    Returns:
        None when the goal ended before.

    Raises:
        NoFrame: The camera has no fresh frame, or the clip's end is outside of the history, or it has too few frames.
        BadImage: The newest frame cannot be decoded.
    """
    cancel, topic = job.cancellation, camera.frames.topic
    job.doing = f"it was waiting for a frame on {topic}"
    reduced: dict[int, Image] = {}
    with recorder.held(camera.name):
        if clip.end and clip.end <= camera.history.span.newest:
            return _chosen(camera, clip, request, recorder, clip.end, reduced)
        if clip.end:
            job.doing = f"it was waiting for the clip's end, {_clock(clip.end)}, on {topic}"
            newest = _frame_after(camera, clip.end, request.max_frame_age, deadline, cancel)
        else:
            newest = camera.wait(request.not_before, request.max_frame_age, deadline, cancel)
            if newest is None:
                return None
            job.doing = f"it was waiting until the history of {topic} reaches back {clip.duration:g} s"
            if not _wait_reaching_back(
                camera, _least_span(clip, recorder), _not_before(camera, request), deadline, cancel
            ):
                return None
            if time.monotonic() >= job.deadline:
                job.expire()
                return None
            reduced = _reduced_frames(camera, clip)
            job.doing = f"it was waiting for a frame on {topic}"
            newest = camera.wait(request.not_before, request.max_frame_age, deadline, cancel)
        if newest is None:
            return None
        kept = recorder.keep(camera, newest)
        found = _chosen(camera, clip, request, recorder, clip.end or kept.stamp, reduced)
        return replace(found, newest=newest) if kept.stamp - found.frames[-1].stamp < SAME else found


def _least_span(clip: ClipRequest, recorder: HistoryRecorder) -> float:
    """Return the seconds that a history has to span before a clip of it is taken, with the newest frame after that.

    Two frames, where the clip is long enough for them, and no more than a history of ``history.seconds`` always does.
    """
    if clip.duration < recorder.period:
        return 0.0
    most = recorder.settings.seconds - recorder.period
    return max(min(clip.duration, most) - recorder.period, recorder.period / 2)


def _reduced_frames(camera: Camera, clip: ClipRequest) -> dict[int, Image]:
    """Return the frames so far by their stamps, as small as changes are measured; {} where no changes are.

    The last frame is taken after that: decoding a minute of 1080p takes a second or two, and the depth image of that
    frame is kept for less.
    """
    newest = camera.history.span.newest
    frames = camera.history.between(newest - round(clip.duration * _SECOND), newest)
    if clip.pick == "even" or len(frames) < clip.frames:
        return {}
    return {frame.stamp: _small(frame) for frame in frames}


def _chosen(
    camera: Camera,
    clip: ClipRequest,
    request: AskRequest,
    recorder: HistoryRecorder,
    end: int,
    reduced: Mapping[int, Image],
) -> CameraClip:
    begin = end - round(clip.duration * _SECOND)
    start = max(_not_before(camera, request), begin)
    span = camera.history.span
    frames = camera.history.between(start, end)
    if not frames and span.oldest <= end <= span.newest:
        raise NoFrame(f"no frame is kept from {_clock(start)} to {_clock(end)}; {_span_text(camera, span)}")
    if not frames:
        raise NoFrame(_outside(camera, end, recorder.problem(camera.name)))
    late = (end - frames[-1].stamp) / _SECOND
    if late > max(request.max_frame_age, 2 * recorder.period):
        raise NoFrame(
            f"the clip's last frame, at {_clock(frames[-1].stamp)}, is {late:.1f} s before its end, at {_clock(end)}: "
            "the camera sent none meanwhile"
        )
    if len(frames) < 2:
        raise NoFrame(
            f"the clip of {clip.duration:g} s until {_clock(end)} has a single frame, and {_span_text(camera, span)}: "
            "ask for a longer clip, or raise history.rate"
        )
    notes = []
    tolerance = round(1.5 * recorder.period * _SECOND)
    if frames[0].stamp - begin > tolerance:
        covered = (end - frames[0].stamp) / _SECOND
        why = "the others are from before not_before"
        if frames[0].stamp - start > tolerance:
            why = recorder.problem(camera.name) or _why_short(clip, recorder, camera)
        notes.append(f"the clip has {covered:.1f} s of the {clip.duration:g} s: {why}")
    if clip.pick == "even":
        indices = evenly([frame.stamp for frame in frames], frames[0].stamp, end, clip.frames)
    elif len(frames) <= clip.frames:
        indices = list(range(len(frames)))
    else:
        small = [reduced[frame.stamp] if frame.stamp in reduced else _small(frame) for frame in frames]
        indices = most_changed(changes(small), clip.frames)
    chosen = tuple(frames[index] for index in indices)
    return CameraClip(chosen, notes=tuple(notes))


def _frame_after(camera: Camera, end: int, max_age: float, deadline: float, cancel: Cancel) -> Frame | None:
    """Return a frame stamped at the end of a clip or later, waited for if need be; None once ``cancel`` is set.

    Raises:
        NoFrame: There is none by ``deadline``, or cannot be.
    """
    frame = camera.frames.newest()
    if frame is not None:
        if camera.stamp_of(frame) >= end:
            return frame
        now = camera.stamp_of(frame) + max(0.0, camera.frames.age(frame)) * _SECOND
        if end > now + max(0.0, deadline - time.monotonic()) * _SECOND:
            raise NoFrame(_outside(camera, end, "it is in the future"))
    not_before = 0
    try:
        while True:
            frame = camera.wait(not_before, max_age, deadline, cancel)
            if frame is None or camera.stamp_of(frame) >= end:
                return frame
            not_before = camera.frames.moment(frame) + SAME  # the next one; by the node's clock, unlike the end
    except NoFrame as error:
        raise NoFrame(_outside(camera, end, str(error))) from error


def _not_before(camera: Camera, request: AskRequest) -> int:
    """Return the goal's ``not_before`` by the clock of the camera's stamps, which may be another than the node's."""
    frame = camera.frames.newest()
    if not request.not_before or frame is None:
        return request.not_before
    return request.not_before + camera.stamp_of(frame) - camera.frames.moment(frame)


def _wait_reaching_back(camera: Camera, seconds: float, not_before: int, deadline: float, cancel: Cancel) -> bool:
    """Wait until the history reaches back ``seconds``, or for ``deadline``; False once ``cancel`` is set."""
    while not cancel.is_set():
        left = deadline - time.monotonic()
        if left <= 0 or camera.history.wait_reaching_back(seconds, not_before, min(left, _CHECK_PERIOD)):
            return True
    return False


def _why_short(clip: ClipRequest, recorder: HistoryRecorder, camera: Camera) -> str:
    if clip.duration > recorder.settings.seconds:
        return f"history.seconds is {recorder.settings.seconds:g}"
    if camera.history.full:
        return f"history.megabytes is {recorder.settings.megabytes:g}"
    return (
        "no frame before that is kept; with history.always they are kept from the start, not only from the first "
        "clip on"
    )


def _outside(camera: Camera, end: int, why: str) -> str:
    sentence = f"the clip's end, {_clock(end)}, is not in the history of the camera: {_span_text(camera)}"
    return f"{sentence} ({why})" if why else sentence


def _span_text(camera: Camera, span: HistorySpan | None = None) -> str:
    span = span or camera.history.span
    if not span.frames:
        return (
            f"no frame on {camera.frames.topic} is kept yet; frames are kept from the first clip or watch on, "
            "or from the start with history.always"
        )
    if span.frames == 1:
        return f"one frame on {camera.frames.topic} is kept, of {_clock(span.oldest)}"
    return (
        f"{span.frames} frames on {camera.frames.topic} are kept, from {_clock(span.oldest)} to {_clock(span.newest)}"
    )


def _clock(stamp: int) -> str:
    """Return a stamp in seconds, and as UTC where it is one of this century."""
    seconds = f"{stamp / _SECOND:.3f}"
    if stamp < 1_000_000_000 * _SECOND:
        return f"{seconds} s"
    return f"{seconds} ({datetime.fromtimestamp(stamp / _SECOND, timezone.utc):%Y-%m-%d %H:%M:%S} UTC)"


def _small(frame: KeptFrame) -> Image:
    """Return a kept frame at the size at which changes are measured, decoded at half its size or less."""
    if frame.format != "jpeg":  # which may say more, such as that it is a mosaic
        return shrunk(decode(frame.message()))
    bgr = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_REDUCED_COLOR_2)
    return shrunk(decode(frame.message()) if bgr is None else np.asarray(bgr, np.uint8))
