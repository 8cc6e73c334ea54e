"""`qwen3vl-ros move` and `turn`: move an object of the simulated camera's world, and the camera itself."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from ament_index_python.packages import get_package_share_path
from geometry_msgs.msg import Point, Pose, Quaternion

from qwen3vl_ros.cli.parameters import NodeParameters
from qwen3vl_ros.sim.sdf import WorldError, model_pose
from qwen3vl_ros.srv import MoveObject, PointCamera

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_START = "qwen3vl-ros camera"
"""What starts the simulated camera."""


def move(connection: Connection, name: str, x: float, y: float, z: float | None, yaw: float) -> int:
    """Move an object, upright; return the exit status.

    Args:
        connection: To the simulated camera.
        name: Of the object.
        x: Metres in the world frame, like ``y`` and ``z``.
        y: To the left of the camera.
        z: None = the height that the world file gives the object, which keeps it on its table.
        yaw: Radians about the z axis.

    Raises:
        ServerUnavailable: There is no simulated camera.
    """
    if z is None:
        try:
            z = _height(connection, name)
        except WorldError as error:
            print(f"{error} Where the camera shows another world, give the height with --z.", file=sys.stderr)
            return 2
    turn = Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))
    request = MoveObject.Request(name=name, pose=Pose(position=Point(x=x, y=y, z=z), orientation=turn))
    response = connection.call(MoveObject, "move_object", request, start=_START)
    if not response.success:
        print(response.message, file=sys.stderr)
        return 2
    print(f"{name} is at {x:g}, {y:g}, {z:g}, yaw {yaw:g}")
    return 0


def turn(connection: Connection, pan: float, tilt: float) -> int:
    """Turn the camera by angles in radians, as PointCamera.srv has them; return the exit status.

    Raises:
        ServerUnavailable: There is no simulated camera.
    """
    request = PointCamera.Request(pan=pan, tilt=tilt)
    response = connection.call(PointCamera, "point_camera", request, start=_START)
    if not response.success:
        print(response.message, file=sys.stderr)
        return 2
    print(f"The camera is turned: pan {pan:g}, tilt {tilt:g}")
    return 0


def _height(connection: Connection, name: str) -> float:
    """Return the object's z in the world file of the camera."""
    world = NodeParameters(connection, start=_START).value("world")
    path = world or get_package_share_path("qwen3vl_ros") / "worlds" / "tabletop.sdf"
    return float(model_pose(path, name)[2, 3])
