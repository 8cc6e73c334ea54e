"""Starts the built-in camera and the node `vlm` with the CPU engine: no robot, no Gazebo.

    ros2 launch qwen3vl_ros sim.launch.py motion:="red_box circle radius=0.1 period=8"

Takes the arguments of vlm.launch.py too, such as web:=true. The camera needs Drake: docs/simulation.md.
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from qwen3vl_ros.ros.launch_arguments import check_vlm, file, no_source, number, require_packages

HERE = Path(__file__).resolve().parent
SHARE = HERE.parent

ARGUMENTS = {
    "namespace": ("", "Namespace of the nodes and their topics."),
    "world": (str(SHARE / "worlds" / "tabletop.sdf"), "SDF world file that the camera looks at."),
    "rate": ("0.0", "Images a second; 0.0: what the world file says."),
    "motion": ("", "Paths of objects, such as 'red_box circle radius=0.1 period=8'."),
    "engine": ("llama", "Engine that runs the model; llama is the CPU's."),
    "use_sim_time": ("false", "Whether the camera publishes /clock and both nodes keep it: true or false."),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            # Before the nodes, which would be left running.
            OpaqueFunction(function=_check),
            # Its default topics are the camera's. First, because it also sets Fast DDS up.
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "vlm.launch.py"))),
            Node(
                package="qwen3vl_ros",
                executable="camera",
                name="camera",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    {
                        "world": ParameterValue(LaunchConfiguration("world"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                        "motion": ParameterValue(LaunchConfiguration("motion"), value_type=str),
                        "publish_clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    }
                ],
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "camera_tf.launch.py")),
                launch_arguments={"world": LaunchConfiguration("world")}.items(),
            ),
        ]
    )


def _check(context: LaunchContext) -> None:
    given = context.launch_configurations
    check_vlm(given)
    no_source(given)
    file(given, "world")
    number(given, "rate", 0.0, 120.0)
    require_packages(["tf2_ros"], "the camera's place in the world")
