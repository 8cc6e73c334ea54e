"""The parameters of the node ``camera``."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl_ros.ros.parameters import flag, number, text

OF_SOURCES = ("loop", "period", "calibration", "frame_id")
"""Parameters that have no effect on the simulated camera."""

OF_SIMULATION = ("world", "sensor", "publish_clock", "motion")
"""Parameters that have no effect on another source."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where images come from, and how often; for the simulated camera what it looks at, and what moves."""

    source: str = text(
        "",
        "Where images come from: the number or path of a video device, a video file, the address of a stream such as "
        "rtsp://HOST/PATH, or a folder of images. Empty: from the simulated camera.",
    )
    rate: float = number(
        0.0,
        0.0,
        120.0,
        "Images a second; of a source: at most. 0: as many as the source has; simulated: the sensor's <update_rate> in "
        "the world file.",
    )
    loop: bool = flag(False, "Whether a video file starts again at its end. False: the node ends there.")
    period: float = number(1.0, 0.01, 86400.0, "Seconds from one image of a folder to the next.")
    calibration: str = text(
        "",
        "Path of the source's calibration, a YAML file as camera_calibration writes it, for camera_info. Empty: no "
        "camera_info is published.",
    )
    frame_id: str = text("camera_optical_frame", "Frame of a source's images, whose z points forward.")
    world: str = text("", "Path of the SDF world file. Empty: the package's worlds/tabletop.sdf.")
    sensor: str = text("", "Name of the world's colour camera to be. Empty: the first one.")
    publish_clock: bool = flag(
        False,
        "Publish simulated time on /clock, starting at 0, and stamp images with it; other nodes then need "
        "use_sim_time. False: stamps are this node's time.",
    )
    motion: str = text(
        "",
        "Paths of objects, such as 'red_box circle radius=0.2 period=8; blue_ball line dy=0.3 period=4'. Kinds: "
        "circle, line, spin. Empty: all stand still.",
        live=True,
    )
