"""Reads the fields of a goal that ask for a clip."""

from __future__ import annotations

from typing import Any, cast, get_args

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.prompts.clip import ClipPick, ClipRequest


def clip_request(goal: Any, own_images: int, default_frames: int) -> ClipRequest | None:
    """Return the clip that an AskImage goal or an Ask request asks for, None for none.

    Args:
        goal: The message.
        own_images: Images of the goal that belong to the question, not to earlier turns.
        default_frames: The parameter ``clip_frames``.

    Raises:
        BadRequest: The fields make no sense together; the sentence names one of them.
    """
    duration = goal.clip_duration.sec + goal.clip_duration.nanosec / 1e9
    end = goal.clip_end.sec * 1_000_000_000 + goal.clip_end.nanosec
    if duration < 0:
        raise BadRequest(f"clip_duration: {duration:g} s is negative; 0 means a single frame")
    if end < 0:
        raise BadRequest("clip_end: it is before the beginning of time; 0 means now")
    not_before = getattr(goal, "not_before", None)
    if end and not_before is not None and end < not_before.sec * 1_000_000_000 + not_before.nanosec:
        raise BadRequest("clip_end: it is before not_before, so that no frame counts")
    if not duration:
        if end:
            raise BadRequest("clip_end: it is the end of a camera's clip; set clip_duration, too")
        if not goal.images_are_clip:
            for name in ("clip_frames", "clip_pick"):
                if getattr(goal, name):
                    raise BadRequest(f"{name}: the goal asks for no clip; set clip_duration, or images_are_clip")
            return None
    if goal.clip_pick not in ("", *get_args(ClipPick)):
        raise BadRequest(f"clip_pick: {goal.clip_pick!r} is neither 'even' nor 'change'")
    _check_images(goal, own_images, is_of_camera=duration > 0)
    pick = cast("ClipPick", goal.clip_pick or "even")
    return ClipRequest(goal.clip_frames or default_frames, duration, end, pick)


def _check_images(goal: Any, own_images: int, *, is_of_camera: bool) -> None:
    """Raise BadRequest unless the goal has images where they are the clip, and none where a camera's history is."""
    if not is_of_camera and not own_images:
        raise BadRequest("images_are_clip: the goal brings no image for the question; put the frames into images")
    if not is_of_camera:
        return
    if goal.images_are_clip:
        raise BadRequest("images_are_clip: the goal asks for a clip of the camera, too; leave clip_duration unset")
    if goal.text_only:
        raise BadRequest("clip_duration: text_only asks to answer without images; choose one")
    if own_images:
        raise BadRequest(
            "clip_duration: it is of a camera's history, and the goal brings images; for a clip of "
            "those, set images_are_clip in its place"
        )
    if len(set(goal.cameras)) > 1:
        raise BadRequest("clip_duration: a clip is of one camera, and the goal names several; ask about each")
