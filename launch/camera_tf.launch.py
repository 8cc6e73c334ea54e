"""Publishes where the simulated camera is: the transform from `world` to its optical frame.

The world file says where that is, so this reads it there.
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from qwen3vl_ros.sim.sdf import read_world
from qwen3vl_ros.vision.poses import to_rpy


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("world", description="Path of the SDF world file."),
            OpaqueFunction(function=_publisher),
        ]
    )


def _publisher(context: LaunchContext) -> list[Node]:
    camera = read_world(LaunchConfiguration("world").perform(context)).colour_camera()
    numbers = (*camera.world_from_optical[:3, 3], *to_rpy(camera.world_from_optical))
    arguments = ["--frame-id", "world", "--child-frame-id", camera.frame_id]
    for name, number in zip(("x", "y", "z", "roll", "pitch", "yaw"), numbers, strict=True):
        arguments += [f"--{name}", f"{number:.9f}"]
    return [
        Node(
            package="tf2_ros",
            executable="static_transform_publisher",
            name="camera_tf",
            arguments=arguments,
        )
    ]
