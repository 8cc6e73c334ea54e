"""Parses the regions of an answer to pixels of the original images, and measures them in metres."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sensor_msgs.msg import CameraInfo

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.engines.token_probabilities import Token
from qwen3vl_ros.prompts.camera_view import CameraView
from qwen3vl_ros.vision.camera_model import lens_of
from qwen3vl_ros.vision.confidence import Confidence
from qwen3vl_ros.vision.coordinates import Scale
from qwen3vl_ros.vision.depth import NO_DEPTH, locate
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.frames import NO_TRANSFORM, in_frame
from qwen3vl_ros.vision.grounding import parse_regions
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vision.spread import position_covariance, spread_of
from qwen3vl_ros.vision.tiles import merged
from qwen3vl_ros.vlm.images import InputImage, InputImages

_REACH = 0.1
"""Greatest difference of a coordinate that is a doubt about the same thing, as a share of the image's side."""

_REGION_MARKS = re.compile(r"bbox_?[23]d|point_?2d|polygon|<box>|<quad>|<\|box_start\||<points?\b", re.IGNORECASE)
"""Marks a region in an answer to a question without a task."""


def camera_view(image: InputImage, cancel: Cancel) -> CameraView | None:
    """Return the camera parameters of the image as the model sees it.

    Args:
        image: Of a camera or of the goal.
        cancel: Set when the goal ends, which ends the wait for a calibration.

    Returns:
        None while the calibration is unknown, and for an image in parts.

    Raises:
        CalibrationError: The camera_info is unusable.
    """
    info = None if image.camera is None else image.camera.calibration(cancel)
    if info is None or len(image.fits) > 1:
        return None
    lens, (fit,) = lens_of(info, "colour").scaled_to(*image.size, "colour"), image.fits
    cx, cy = fit.to_fitted(lens.cx, lens.cy)
    # Map the points one focal length to the right of the principal point and below it: a rotated image swaps them.
    (right, down), (across, below) = (
        fit.to_fitted(lens.cx + lens.fx, lens.cy),
        fit.to_fitted(lens.cx, lens.cy + lens.fy),
    )
    fx, fy = abs(right - cx) + abs(across - cx), abs(down - cy) + abs(below - cy)
    return CameraView(*fit.fitted_size, fx=fx, fy=fy, cx=cx, cy=cy)


def mentions_regions(text: str) -> bool:
    """Return whether to parse an answer to a question without a task for regions."""
    return _REGION_MARKS.search(text) is not None


def regions_of(
    text: str,
    tokens: Sequence[Token],
    inputs: InputImages,
    scale: Scale,
    report: Callable[[str], None],
    cancel: Cancel,
) -> tuple[Region, ...]:
    """Parse the regions of ``text``, and measure the position of each whose image has depth.

    Measuring takes milliseconds per region, and a model that repeats itself writes hundreds: none is measured once
    ``cancel`` is set.

    Args:
        text: The answer.
        tokens: Those of the answer, for scores; () if they are unknown.
        inputs: The images that it is about; of a clip, places without a time are those in its last frame.
        scale: Unit of its coordinates.
        report: Takes a sentence for each region that is left out.
        cancel: Set when the goal ends.

    Raises:
        GroundingError: It has no usable region.
    """
    fits = [fit for image in inputs.own for fit in image.fits]
    grounding = parse_regions(text, fits, scale, inputs.clip_times)
    for sentence in grounding.skipped:
        report(f"a region of the answer is left out: {sentence}")
    confidence = Confidence(text, tokens)
    scored = [_scored(region, confidence, fits[region.image_index], scale) for region in grounding.regions]
    regions: list[Region] = []
    first = 0
    for index, image in enumerate(inputs.own, inputs.subject):
        parts = range(first, first + len(image.fits))
        first = parts.stop
        own = [replace(r, image_index=r.image_index - parts[0]) for r in scored if r.image_index in parts]
        regions += _measured([replace(r, image_index=index) for r in _whole(own, image)], image, cancel)
        if image.depth.doubt and any(region.position for region in regions):
            report(image.depth.doubt)
        lost = any(r.image_index == index and r.position_error.startswith(NO_TRANSFORM) for r in regions)
        if lost and image.target is not None:
            report(f"there are no positions in the frame {image.target.frame_id!r}: {image.target.missing}")
    return tuple(regions)


def sure_enough(regions: Sequence[Region], threshold: float, report: Callable[[str], None]) -> tuple[Region, ...]:
    """Return the regions whose score is at least ``threshold`` or unknown; ``report`` is told of the others."""
    kept = tuple(region for region in regions if region.score is None or region.score >= threshold)
    if len(kept) < len(regions):
        report(f"{len(regions) - len(kept)} of {len(regions)} regions are left out: score below {threshold:g}")
    return kept


def _scored(region: Region, confidence: Confidence, fit: Fit, scale: Scale) -> Region:
    region = replace(region, score=confidence.score(region.at))
    row, variances = confidence.numbers(
        region.at, _REACH * (1000 if scale == "relative_1000" else max(fit.fitted_size))
    )
    shapes = {4: region.box, 2: region.point}
    if shapes.get(len(row)) is None or region.polygon:
        return region
    return replace(region, spread=spread_of(row, variances, fit, scale))


def _whole(regions: Sequence[Region], image: InputImage) -> Sequence[Region]:
    return regions if len(image.fits) == 1 else merged(regions, image.fits)


def _measured(regions: Sequence[Region], image: InputImage, cancel: Cancel) -> Iterator[Region]:
    located = _by_depth(regions, image, cancel)
    return located if image.target is None else (in_frame(region, image.target) for region in located)


def _by_depth(regions: Sequence[Region], image: InputImage, cancel: Cancel) -> Iterator[Region]:
    """Yield the regions of an image with their positions in the camera's optical frame."""
    if image.camera is None:
        yield from regions
        return
    depth, pose = image.depth, None if image.target is None else image.target.from_camera
    located: Iterator[Region] | None = None
    if depth.image is not None and depth.depth_info is not None and depth.colour_info is not None:
        located = locate(
            (region for region in regions if region.position is None),
            depth.image,
            depth.depth_info,
            depth.colour_info,
            image.size,
            depth.colour_from_depth,
            axes=None if pose is None else pose[:3, :3],
        )
    for region in regions:
        if region.position is not None:
            yield region  # the model gave it
        elif located is None:
            yield replace(region, position_error=f"{NO_DEPTH}{depth.missing}")
        elif cancel.is_set():
            yield replace(region, position_error=f"{NO_DEPTH}the goal ended before it was measured")
        else:
            yield _with_covariance(next(located), depth.colour_info, image.size)


def _with_covariance(region: Region, colour_info: CameraInfo | None, size: tuple[int, int]) -> Region:
    if region.position is None or colour_info is None:
        return region
    lens = lens_of(colour_info, "colour").scaled_to(*size, "colour")
    return replace(region, position_covariance=position_covariance(region, lens))
