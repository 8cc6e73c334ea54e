"""What :meth:`VlmClient.find` returns: where a thing is, or the reason why that is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Time

from qwen3vl_ros.client.answer import Answer, Position, Region
from qwen3vl_ros.client.exceptions import BadRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.goal import Arguments

_TASK = "locate"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a thing is. ``found``, and its truth value: whether it has a position in the frame that was asked for.

    ``seen``: whether it is in the image, with a score that is not below the threshold, with or without a position.
    ``position``: metres, in ``frame_id`` at ``stamp``; None without one. ``reason``: why there is none, a sentence; ""
    with one. ``region``: the one that was chosen, of several the one with the highest score, also where it has no
    position or too low a score; None where nothing was seen. ``score``: the region's, None = unknown. ``stamp`` and
    ``frame_id`` are the image's where there is no position. ``answer``: everything else, such as ``notes``, which say
    so when the model calls the thing by another name.
    """

    name: str
    found: bool
    seen: bool = False
    reason: str = ""
    position: Position | None = None
    region: Region | None = None
    score: float | None = None
    frame_id: str = ""
    stamp: Time | None = None
    answer: Answer | None = None

    def __bool__(self) -> bool:
        return self.found


def find_question(name: str, *, frame: str = "", **arguments: Unpack[Arguments]) -> tuple[str, Arguments]:
    """Return the prompt and the arguments of :meth:`VlmClient.send` that ask where ``name`` is.

    Args:
        name: What to look for, in words.
        frame: tf frame of the position; "" = the node's own choice.
        **arguments: As of :meth:`VlmClient.find`.

    Raises:
        BadRequest: ``name`` is empty, ``score_threshold`` is none, or ``target_frame`` is given.
    """
    given: dict[str, Any] = dict(arguments)
    if not isinstance(name, str) or not name.strip():
        raise BadRequest('name is what to look for, in words, such as "red ball"; it must not be empty.')
    if "target_frame" in given:
        raise BadRequest("target_frame is called frame here: write frame='map'.")
    threshold = given.get("score_threshold")
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise BadRequest(f"score_threshold is a number from 0 to 1, got {threshold}; None = the task's.")
        # The node leaves nothing out, so that "seen, but with too low a score" can be told from "not seen".
        given["score_threshold"] = 0.0
    asked: Any = {"task": _TASK, **given, "target_frame": frame}
    return name, asked


def found_in_answer(answer: Answer, name: str, frame: str = "", score_threshold: float | None = None) -> Found:
    """Return what an answer to :func:`find_question`, asked with the same values, says about where ``name`` is."""

    def nothing(reason: str, region: Region | None = None, *, seen: bool = False) -> Found:
        index = region.image_index if region else 0
        header = answer.image_headers[index] if index < len(answer.image_headers) else None
        return Found(
            name=name,
            found=False,
            seen=seen,
            reason=reason,
            region=region,
            score=region.score if region else None,
            frame_id=header.frame_id if header else "",
            stamp=header.stamp if header else None,
            answer=answer,
        )

    if not answer.regions:
        said = "".join(f" Note: {note}." for note in answer.notes)
        return nothing(f"'{name}' is not seen in the image.{said}")
    region = max(answer.regions, key=_order)
    if score_threshold is not None and score_threshold > 0:
        if region.score is None:
            return nothing(
                f"'{name}' is seen, but the engine '{answer.engine}' tells no score to hold against the threshold "
                f"{score_threshold:g}: ask without one, or use the engine llama.",
                region,
            )
        if region.score < as_in_a_message(score_threshold):
            return nothing(
                f"'{name}' is seen with a score of {region.score:.2f} only, below the threshold {score_threshold:g}.",
                region,
            )
    position = region.position
    if position is None:
        error = region.position_error or "the node tells no reason; does the camera have depth?"
        return nothing(f"'{name}' is seen, but its position is not known: {error}", region, seen=True)
    if frame and _plain(position.frame_id) != _plain(frame):
        return nothing(
            f"'{name}' is seen, but its position came in the frame '{position.frame_id}', not in '{frame}': the node "
            "did not transform it. Its notes or its log may say why.",
            region,
            seen=True,
        )
    return Found(
        name=name,
        found=True,
        seen=True,
        position=position,
        region=region,
        score=region.score,
        frame_id=position.frame_id,
        stamp=position.stamp,
        answer=answer,
    )


def as_in_a_message(number: float) -> float:
    """Return the number that a float32 field has for ``number``: 0.7 is a little less there."""
    return float(np.float32(number))


def _order(region: Region) -> tuple[float, bool]:
    return (-1.0 if region.score is None else region.score, region.position is not None)


def _plain(frame: str) -> str:
    """Return a frame's name without the leading slash that tf had."""
    return frame.lstrip("/")
