"""The pan-tilt mount of the built-in camera: where the camera looks for given angles. No ROS, no Drake."""

from __future__ import annotations

import math

import numpy as np

from qwen3vl_ros.vision.poses import OPTICAL_FROM_BODY_RPY, Pose, from_xyz_rpy

PAN_LIMIT = math.pi
"""Greatest pan to either side, radians."""

TILT_LIMIT = math.pi / 2
"""Greatest tilt up or down, radians."""

_BODY_FROM_OPTICAL = from_xyz_rpy((0, 0, 0), OPTICAL_FROM_BODY_RPY)


def check_angles(pan: float, tilt: float) -> None:
    """Raise ValueError, with a sentence, for angles that the mount does not have."""
    for name, angle, limit in (("pan", pan, PAN_LIMIT), ("tilt", tilt, TILT_LIMIT)):
        if not abs(angle) <= limit:
            raise ValueError(
                f"The {name} is an angle from {-limit:.4f} to {limit:.4f} rad, got {angle:g}. "
                "Both angles are counted from where the world file has the camera."
            )


def turned(world_from_optical: Pose, pan: float, tilt: float) -> Pose:
    """Return the pose [4, 4] of the optical frame in the world after a turn about the camera's own place.

    Args:
        world_from_optical: Its pose [4, 4] in the world file.
        pan: Radians about the world's z axis; positive turns to the left.
        tilt: Radians about the camera's y axis (x forward, y left, z up) after the pan; positive looks down.

    Raises:
        ValueError: An angle is not finite, or beyond PAN_LIMIT or TILT_LIMIT.
    """
    check_angles(pan, tilt)
    pose: Pose = (
        from_xyz_rpy((0, 0, 0), (0, 0, pan))
        @ world_from_optical
        @ np.linalg.inv(_BODY_FROM_OPTICAL)
        @ from_xyz_rpy((0, 0, 0), (0, tilt, 0))
        @ _BODY_FROM_OPTICAL
    )
    pose[:3, 3] = world_from_optical[:3, 3]
    return pose
