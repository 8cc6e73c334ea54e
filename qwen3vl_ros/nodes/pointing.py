"""From an answer's text to the things it points at: in pixels of the original pictures, and in metres."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from std_msgs.msg import Header

from qwen3vl_ros.dialogue.camera_view import CameraView
from qwen3vl_ros.dialogue.question import Question, schema_prompt
from qwen3vl_ros.engines.base import Image
from qwen3vl_ros.nodes.cameras import Camera, Depth
from qwen3vl_ros.nodes.frame_source import Frame
from qwen3vl_ros.vision.depth import NO_DEPTH, locate
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.grounding import Scale, parse_regions
from qwen3vl_ros.vision.region import Region

_POINTS = re.compile(r"bbox_?[23]d|point_?2d|polygon|<box>|<quad>|<\|box_start\||<points?\b", re.IGNORECASE)
"""What an answer has that points at something, although nobody asked with a task."""


@dataclass(slots=True)
class Picture:
    """A picture that a question is about: as it came (uint8 [height, width, 3] RGB), and how it was fitted.

    ``camera`` and ``frame`` are None for one that came with the goal. ``depth`` is what belongs to the frame.
    """

    header: Header
    pixels: Image
    fit: Fit
    camera: Camera | None = None
    frame: Frame | None = None
    depth: Depth = field(default_factory=Depth)

    def fetch_depth(self, tolerance: float, give_up: float, ended: Callable[[], bool]) -> None:
        """Take the depth picture of the frame's moment, once; waits for it until ``give_up`` or ``ended()``."""
        if self.camera is not None and self.frame is not None and self.depth == Depth():
            self.depth = self.camera.depth_of(self.frame, tolerance, give_up, ended)


def prompt_of(question: Question, pictures: Sequence[Picture], *, constrained: bool) -> str:
    """The text that goes to the model: with the camera told, and the schema asked for where nothing enforces it.

    A task says in its own words what its answer looks like.
    """
    prompt = question.prompt
    if question.prompt_through is not None and pictures and (view := _view(pictures[0])) is not None:
        prompt = question.prompt_through(view)
    if not constrained and question.response_schema is not None and not question.task:
        prompt = f"{prompt}\n\n{schema_prompt(question.response_schema)}"
    return prompt


def _view(picture: Picture) -> CameraView | None:
    """The camera of the picture as the model sees it; None while its calibration is not known."""
    info = None if picture.camera is None else picture.camera.calibration()
    if info is None or info.k[0] <= 0:
        return None
    left, top = picture.fit.to_fitted(0, 0)
    right, bottom = picture.fit.to_fitted(info.width, info.height)
    across, down = (right - left) / info.width, (bottom - top) / info.height
    cx, cy = picture.fit.to_fitted(info.k[2], info.k[5])
    return CameraView(*picture.fit.fitted_size, fx=info.k[0] * across, fy=info.k[4] * down, cx=cx, cy=cy)


def points_at_something(text: str) -> bool:
    """Whether an answer to a question without a task is to be read as one that points."""
    return _POINTS.search(text) is not None


def regions_of(
    text: str, pictures: Sequence[Picture], scale: Scale, report: Callable[[str], None]
) -> tuple[Region, ...]:
    """What ``text`` points at, with positions where the picture has depth; ``report`` is told what is left out and why.

    Raises :class:`qwen3vl_ros.vision.grounding.GroundingError` when it points at nothing that can be used.
    """
    grounding = parse_regions(text, [picture.fit for picture in pictures], scale)
    for sentence in grounding.skipped:
        report(f"a region of the answer is left out: {sentence}")
    return tuple(_measured(region, pictures[region.image_index]) for region in grounding.regions)


def _measured(region: Region, picture: Picture) -> Region:
    if region.position is not None or picture.camera is None:
        return region  # the model itself said where; or nobody can know
    depth = picture.depth
    if depth.image is None or depth.depth_info is None or depth.colour_info is None:
        return replace(region, position_error=f"{NO_DEPTH}{depth.missing}")
    if picture.header.frame_id != depth.image.header.frame_id:
        return replace(
            region,
            position_error=f"{NO_DEPTH}the depth picture is in frame {depth.image.header.frame_id!r}, the colour "
            f"picture in {picture.header.frame_id!r}: register depth to colour, as most drivers can",
        )
    return locate([region], depth.image, depth.depth_info, depth.colour_info)[0]
