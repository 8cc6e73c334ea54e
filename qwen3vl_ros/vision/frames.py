"""Expresses what was measured in a camera's optical frame in another frame, such as the robot's base."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from qwen3vl_ros.vision.poses import OPTICAL_FROM_BODY_RPY, Pose, from_xyz_rpy
from qwen3vl_ros.vision.region import Region, Vector

NO_TRANSFORM: Final = "NO_TRANSFORM: "
"""Prefix of the ``position_error`` of a region whose position cannot be expressed in the wanted frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Mount:
    """Where a camera is mounted: ``pose`` is ``frame`` from the camera's optical frame."""

    frame: str
    pose: Pose


@dataclass(frozen=True, slots=True, eq=False)
class TargetFrame:
    """The frame of an image's positions. ``from_camera``: it from the optical frame; None, and ``missing`` says why."""

    frame_id: str
    from_camera: Pose | None = None
    missing: str = ""


def parse_mount(text: str) -> Pose:
    """Read "x y z roll pitch yaw" of a camera whose x axis looks ahead, y to the left and z up (REP 103).

    Metres, and radians about the fixed axes, as in URDF, SDF and for tf2's static_transform_publisher.

    Returns:
        The pose of the camera's optical frame (x right, y down, z ahead).

    Raises:
        ValueError: These are not six finite numbers; the text says so.
    """
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{text!r} is not x y z roll pitch yaw: six numbers, metres and radians")
    body = from_xyz_rpy(numbers[:3], numbers[3:])
    return body @ from_xyz_rpy((0.0, 0.0, 0.0), OPTICAL_FROM_BODY_RPY)


def in_frame(region: Region, target: TargetFrame) -> Region:
    """Return ``region`` with its position and covariance, in the optical frame until now, in ``target``.

    An extent is that along the axes of the target already where depth measured it
    (``axes`` of :func:`qwen3vl_ros.vision.depth.locate`), and along the object's own where the model gave it: it stays.
    Without a position the region is returned as it is; without a transform it loses its position and says why.
    """
    if region.position is None:
        return region
    if target.from_camera is None:
        return replace(
            region,
            position=None,
            extent=None,
            position_covariance=None,
            position_error=f"{NO_TRANSFORM}{target.missing}",
        )
    rotation, origin = target.from_camera[:3, :3], target.from_camera[:3, 3]
    covariance = region.position_covariance
    if covariance is not None:
        turned = rotation @ np.reshape(covariance, (3, 3)) @ rotation.T
        covariance = tuple(float(number) for number in turned.ravel())
    return replace(
        region,
        position=_vector(rotation @ np.array(region.position) + origin),
        position_covariance=covariance,
        frame_id=target.frame_id,
        seen_from=_vector(origin),
    )


def _vector(array: Pose) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])
