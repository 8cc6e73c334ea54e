"""Rigid poses as 4x4 matrices: float64, metres, radians, right-handed axes (REP 103)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pose = npt.NDArray[np.float64]
"""A [4, 4] homogeneous transform; `a_from_b @ b_from_c` is `a_from_c`."""

OPTICAL_FROM_BODY_RPY = (-np.pi / 2, 0.0, -np.pi / 2)
"""Roll, pitch, yaw of the optical frame (z forward, x right, y down) in the sensor's frame
(x forward, y left, z up): REP 103."""


def from_xyz_rpy(xyz: npt.ArrayLike, rpy: npt.ArrayLike) -> Pose:
    """Return the pose at `xyz` [3] metres, rotated by roll, pitch, yaw `rpy` [3] radians.

    The angles are about the fixed x, y and z axes in that order, as in SDF and URDF.
    """
    roll, pitch, yaw = np.asarray(rpy, dtype=np.float64)
    cr, sr, cp, sp, cy, sy = (
        np.cos(roll),
        np.sin(roll),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(yaw),
        np.sin(yaw),
    )
    pose = np.eye(4)
    pose[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    pose[:3, 3] = xyz
    return pose


def from_xyz_quaternion(xyz: npt.ArrayLike, xyzw: npt.ArrayLike) -> Pose:
    """Return the pose at `xyz` [3] metres, rotated by the quaternion `xyzw` [4] (ROS's order).

    The quaternion is normalised.

    Raises:
        ValueError: A number is not finite, or the quaternion is zero and thus not a rotation.
    """
    position = np.asarray(xyz, dtype=np.float64)
    quaternion = np.asarray(xyzw, dtype=np.float64)
    if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
        raise ValueError("A pose's numbers must be finite.")
    length = float(np.linalg.norm(quaternion))
    if length < 1e-6:
        raise ValueError("An orientation of all zeros is no rotation; x=y=z=0, w=1 stands upright.")
    x, y, z, w = quaternion / length
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position
    return pose


def to_rpy(pose: Pose) -> tuple[float, float, float]:
    """Return roll, pitch, yaw of `pose` in radians: the inverse of `from_xyz_rpy`."""
    rotation = pose[:3, :3]
    pitch = float(np.arcsin(np.clip(-rotation[2, 0], -1.0, 1.0)))
    if np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9:
        # Gimbal lock at a pitch of 90 degrees: roll and yaw have the same axis, so roll is set to 0.
        return 0.0, pitch, float(np.arctan2(-rotation[0, 1], rotation[1, 1]))
    roll = float(np.arctan2(rotation[2, 1], rotation[2, 2]))
    yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
    return roll, pitch, yaw
