"""Reads the calibration of a camera from the YAML file that ROS's camera_calibration writes.

The keys are those of camera_calibration_parsers (parse_yml.cpp), which camera_info_manager reads such files with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from sensor_msgs.msg import CameraInfo

from qwen3vl_ros.vision.camera_model import CalibrationError, lens_of

_MATRICES = {"k": "camera_matrix", "r": "rectification_matrix", "p": "projection_matrix"}


def read_calibration(path: str, frame_id: str) -> CameraInfo:
    """Return the calibration in a file, without a stamp.

    Args:
        path: Of the YAML file.
        frame_id: For the header.

    Raises:
        CalibrationError: There is no such file, or it is no calibration.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CalibrationError(f"The calibration {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationError(f"The calibration {path} is not YAML: {error}") from error
    try:
        info = CameraInfo(
            width=int(content["image_width"]),
            height=int(content["image_height"]),
            distortion_model=str(content["distortion_model"]),
            d=_numbers(content["distortion_coefficients"]),
        )
        for field, key in _MATRICES.items():
            setattr(info, field, _numbers(content[key]))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has something wrong in it: {error}"
        raise CalibrationError(
            f"The file {path} is no calibration as camera_calibration writes it: it {what}."
        ) from error
    info.header.frame_id = frame_id
    try:
        lens_of(info, "colour")
    except CalibrationError as error:
        raise CalibrationError(f"The calibration {path} cannot be used: {error}") from error
    return info


def _numbers(matrix: Any) -> list[float]:
    return [float(number) for number in matrix["data"]]
