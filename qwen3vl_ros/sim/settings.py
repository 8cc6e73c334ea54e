"""The parameters of the node ``camera``."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl_ros.ros.parameters import flag, number, text


@dataclass(frozen=True, slots=True)
class Settings:
    """What the built-in camera looks at, how often, and what moves."""

    world: str = text("", "Path of the SDF world file. Empty: the package's worlds/tabletop.sdf.")
    sensor: str = text("", "Name of the world's colour camera to be. Empty: the first one.")
    rate: float = number(0.0, 0.0, 120.0, "Images a second. 0: the sensor's <update_rate> in the world file.")
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
