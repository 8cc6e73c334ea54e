"""Starts Gazebo (Harmonic or newer), its bridge to ROS, and the node `vlm` with the CPU engine.

    ros2 launch qwen3vl_ros gazebo.launch.py headless:=true

Takes the arguments of vlm.launch.py too. Needs the package ros_gz: docs/gazebo.md.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ament_index_python.packages import get_package_share_path
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from qwen3vl_ros.ros.launch_arguments import check_vlm, file, flag, no_source, require_packages

HERE = Path(__file__).resolve().parent
SHARE = HERE.parent

ARGUMENTS = {
    "headless": ("false", "Whether Gazebo runs without a window: true or false."),
    "world": (str(SHARE / "worlds" / "tabletop.sdf"), "SDF world file."),
    "bridge_config": (str(SHARE / "config" / "gz_bridge.yaml"), "Topics of the world that ROS gets (ros_gz_bridge)."),
    "image": ("/camera/image_raw", "Topic of the images, as the bridge names it."),
    "camera_info": ("/camera/camera_info", "Topic of the calibration, as the bridge names it."),
    "depth": ("/camera/depth/image_raw", "Topic of the depth images, as the bridge names it."),
    "engine": ("llama", "Engine that runs the model; llama is the CPU's."),
    "use_sim_time": ("true", "Whether nodes keep Gazebo's time: true or false."),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "fast_dds.launch.py"))),
            # First, because it checks everything: nodes that run by then would be left running.
            OpaqueFunction(function=_gazebo),
            Node(
                package="ros_gz_bridge",
                executable="parameter_bridge",
                name="gz_bridge",
                output="screen",
                # The bridge gets the time from Gazebo and gives it to everyone else.
                parameters=[{"config_file": LaunchConfiguration("bridge_config"), "use_sim_time": True}],
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "camera_tf.launch.py")),
                launch_arguments={"world": LaunchConfiguration("world")}.items(),
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "vlm.launch.py"))),
        ]
    )


def _gazebo(context: LaunchContext) -> list[IncludeLaunchDescription]:
    given = context.launch_configurations
    check_vlm(given)
    no_source(given)
    for name in ("world", "bridge_config"):
        file(given, name)
    headless = flag(given, "headless")
    require_packages(["ros_gz_sim", "ros_gz_bridge", "tf2_ros"], "a world in Gazebo")
    world = shlex.quote(LaunchConfiguration("world").perform(context))  # gz_sim.launch.py uses a shell
    gz_sim = get_package_share_path("ros_gz_sim") / "launch" / "gz_sim.launch.py"
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(gz_sim)),
            launch_arguments={
                "gz_args": f"-r {'-s --headless-rendering ' if headless else ''}{world}",
                "on_exit_shutdown": "true",
            }.items(),
        )
    ]
