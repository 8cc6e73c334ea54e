"""Moves objects along simple paths: `red_box circle radius=0.2 period=8`.

A script is any number of such lines, separated by `;` or by line breaks. Every path is relative
to the object's pose in the world file ("home") and repeats after `period` seconds:

    circle radius=R period=T    around home at distance R, anticlockwise seen from above
    line dx=X dy=Y dz=Z period=T    to home plus (X, Y, Z) and back; missing ones are 0
    spin period=T               on the spot about the vertical axis, anticlockwise from above

Lengths are in metres in the world frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwen3vl_ros.vision.poses import Pose, from_xyz_rpy

_PARAMETERS: dict[str, dict[str, float | None]] = {
    "circle": {"radius": None, "period": None},
    "line": {"dx": 0.0, "dy": 0.0, "dz": 0.0, "period": None},
    "spin": {"period": None},
}
"""Parameters of each kind of path with their defaults, None for a required one."""


class MotionError(ValueError):
    """A motion script cannot be parsed. The message quotes the wrong part and shows a correct one."""


@dataclass(frozen=True)
class Motion:
    """One object's path. `numbers` has a value for each parameter of its kind."""

    name: str
    kind: str
    numbers: dict[str, float]

    def pose(self, home: Pose, time: float) -> Pose:
        """Return the object's pose at `time` seconds, given its `home` pose; both [4, 4] in the world frame."""
        angle = 2 * math.pi * time / self.numbers["period"]
        if self.kind == "spin":
            turned: Pose = from_xyz_rpy((0, 0, 0), (0, 0, angle)) @ home
            turned[:3, 3] = home[:3, 3]
            return turned
        moved: Pose = home.copy()
        if self.kind == "circle":
            radius = self.numbers["radius"]
            moved[:3, 3] += (radius * math.cos(angle), radius * math.sin(angle), 0.0)
        else:
            share = (1 - math.cos(angle)) / 2  # 0 at home, 1 at the far end
            moved[:3, 3] += [share * self.numbers[axis] for axis in ("dx", "dy", "dz")]
        return moved


def read_motions(script: str) -> tuple[Motion, ...]:
    """Parse a script; an empty one has no motions.

    Raises:
        MotionError: A line cannot be parsed, a parameter is missing, unknown or not a number, a
            period is not positive, or an object has two paths.
    """
    motions: dict[str, Motion] = {}
    for line in script.replace("\n", ";").split(";"):
        if line.strip():
            motion = _read_line(line.strip())
            if motion.name in motions:
                raise MotionError(f"The motion script moves '{motion.name}' twice; keep one line.")
            motions[motion.name] = motion
    return tuple(motions.values())


def _read_line(line: str) -> Motion:
    name, kind, *words = [*line.split(), ""]
    if kind not in _PARAMETERS:
        raise MotionError(
            f"The motion '{line}' is not understood. Write 'object kind name=number ...' with "
            f"one of {', '.join(_PARAMETERS)}, such as 'red_box circle radius=0.2 period=8'."
        )
    given: dict[str, float] = {}
    for word in filter(None, words):
        key, _, text = word.partition("=")
        if key not in _PARAMETERS[kind]:
            raise MotionError(
                f"The motion '{line}' has '{word}'; '{kind}' takes {', '.join(_PARAMETERS[kind])}, each as name=number."
            )
        try:
            given[key] = float(text)
        except ValueError:
            given[key] = math.nan
        if not math.isfinite(given[key]):
            raise MotionError(f"The motion '{line}' has '{word}', whose value is not a number.")
    numbers: dict[str, float] = {}
    for key, default in _PARAMETERS[kind].items():
        number = given.get(key, default)
        if number is None:
            raise MotionError(f"The motion '{line}' lacks {key}=number.")
        numbers[key] = number
    if numbers["period"] <= 0:
        raise MotionError(f"The motion '{line}' needs a period above 0 seconds.")
    return Motion(name, kind, numbers)
