"""Starts the node `vlm`, which answers questions about what a camera sees.

    ros2 launch qwen3vl_ros vlm.launch.py image:=/camera/color/image_raw

An argument left empty leaves the value of the parameter file alone. The node configures and activates
itself (its parameter `autostart`).
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

HERE = Path(__file__).resolve().parent
SHARE = HERE.parent

ARGUMENTS = {
    "namespace": ("", "Namespace of the node."),
    "params_file": (str(SHARE / "config" / "vlm.yaml"), "Parameter file of the node."),
    "engine": ("", "Engine that runs the model: llama, openai, maix_http, auto, ..."),
    "model": ("", "The engine's model: a file for llama, a name for a server."),
    "mmproj": ("", "The vision half of the model (llama): a GGUF file."),
    "image": ("camera/image_raw", "Topic of the camera's pictures; with transport compressed, without /compressed."),
    "camera_info": ("camera/camera_info", "Topic of the camera's calibration."),
    "depth": ("camera/depth/image_raw", "Topic of depth pictures registered to the camera's."),
    "transport": ("", "How pictures come: raw or compressed."),
    "autostart": ("", "Whether the node configures and activates itself: true or false."),
    "use_sim_time": ("", "Whether the node's time is that on /clock: true or false."),
    "log_level": ("info", "Least severity that the node logs: debug, info, warn, error or fatal."),
}
# The arguments that are parameters of the node, and their types.
PARAMETERS = {
    "engine": str,
    "model": str,
    "mmproj": str,
    "transport": str,
    "autostart": bool,
    "use_sim_time": bool,
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "fast_dds.launch.py"))),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    # Only when everything is known can an empty argument be told from one that was given.
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    parameters = {
        name: ParameterValue(LaunchConfiguration(name), value_type=value_type)
        for name, value_type in PARAMETERS.items()
        if given[name]
    }
    return [
        Node(
            package="qwen3vl_ros",
            executable="vlm",
            name="vlm",
            namespace=given["namespace"],
            output="screen",
            parameters=[given["params_file"], *([parameters] if parameters else [])],
            remappings=[
                ("image", given["image"]),
                # A remapping is for one whole name, so the compressed topic needs its own.
                ("image/compressed", f"{given['image']}/compressed"),
                ("camera_info", given["camera_info"]),
                ("depth", given["depth"]),
            ],
            ros_arguments=["--log-level", given["log_level"]],
        )
    ]
