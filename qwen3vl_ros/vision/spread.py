"""Computes how far off a region may be: from the variances of its coordinates to pixels, and from pixels to metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen3vl_ros.vision.camera_model import Lens
from qwen3vl_ros.vision.coordinates import Scale
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.region import Matrix, Region


def spread_of(row: Sequence[float], variances: Sequence[float], fit: Fit, scale: Scale) -> tuple[float, ...]:
    """Return the standard deviations of a box's sides (left, top, right, bottom), or of a point (x, y), in pixels.

    Args:
        row: The numbers of the box or the point, as the answer has them.
        variances: Those of the numbers.
        fit: How the region's image was fitted.
        scale: Unit of the numbers.
    """
    units = _unit_sizes(fit, scale)
    origin = np.array(fit.to_original(0.0, 0.0))
    axes = np.array([fit.to_original(1.0, 0.0), fit.to_original(0.0, 1.0)]) - origin  # at right angles to each other
    corners = np.reshape(row, (-1, 2)) * units @ axes
    deviations = np.sqrt(np.reshape(variances, (-1, 2))) * units @ np.abs(axes)
    # An answer may have corners in any order, and a turned image has others: the left and the upper side first.
    ordered = np.take_along_axis(deviations, corners.argsort(axis=0), axis=0)
    return tuple(float(deviation) for deviation in ordered.ravel())


def position_covariance(region: Region, lens: Lens) -> Matrix | None:
    """Return the covariance of a position that was measured by depth, in square metres; None if it is unknown.

    With s_x, s_y the standard deviations of the box's middle in pixels (s_x^2 = (left^2 + right^2) / 4) or those of
    the point, r the ray (x/z, y/z, 1) through it and u, v its change per pixel: z^2 (s_x^2 u u' + s_y^2 v v') across
    the line of sight. Along it, the position follows from the thing's width (:mod:`qwen3vl_ros.vision.depth`) or from
    the slope of the surface: the mean of the two variances across is taken. The depth camera's own noise is not in it.

    Args:
        region: With ``position``, in the camera's optical frame, and ``spread``.
        lens: That of the colour camera at the image's size.
    """
    if region.position is None or not region.spread or not region.position[2] > 0:
        return None
    sides = np.reshape(region.spread, (-1, 2))
    s_x, s_y = np.sqrt((sides**2).sum(axis=0)) / len(sides)
    position = np.array(region.position)
    pixel = lens.project(position[None, :2] / position[2])[0]
    steps = np.array([(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
    rays = lens.rays(pixel + steps)
    if not np.isfinite(rays).all():
        return None
    across = position[2] * np.array([s_x * (rays[0] - rays[1]), s_y * (rays[2] - rays[3])])  # [2, 2], metres
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = across.T @ across
    ahead = position / np.linalg.norm(position)
    covariance += (across**2).sum() / 2 * np.outer(ahead, ahead)
    return tuple(float(number) for number in covariance.ravel())


def _unit_sizes(fit: Fit, scale: Scale) -> tuple[float, float]:
    """Return the width and height of a coordinate's unit, in pixels of the fitted image."""
    return (fit.fitted_size[0] / 1000, fit.fitted_size[1] / 1000) if scale == "relative_1000" else (1.0, 1.0)
