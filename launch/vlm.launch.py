"""Starts the node `vlm`, which answers questions about what a camera sees.

    ros2 launch qwen3vl_ros vlm.launch.py image:=/camera/color/image_raw

With web:=true also the HTTP gateway and its page, at http://127.0.0.1:8080 (docs/gateway.md). With source:=0 also the
node `camera`, which publishes a webcam, or a video file, a stream, a folder of images (docs/cameras.md).

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
from qwen3vl_ros.ros.launch_arguments import check_vlm, flag, port
from qwen3vl_ros.sim.sources import check_source

HERE = Path(__file__).resolve().parent
SHARE = HERE.parent

ARGUMENTS = {
    "namespace": ("", "Namespace of the node."),
    "params_file": (str(SHARE / "config" / "vlm.yaml"), "Parameter file of the nodes vlm, web and camera."),
    "engine": (
        "",
        "Engine that runs the model: llama, openai, maix_http, maix, openvino, or auto: the best that works.",
    ),
    "model": ("", "Model of that engine (of llama for auto): a file or directory, or a name on a server."),
    "mmproj": ("", "The vision half of the model (llama): a GGUF file."),
    "base_url": ("", "Address of the server (engine openai, up to and with /v1; engine maix_http)."),
    "source": (
        "",
        "Where images come from without a camera's driver: a webcam's number, a video file, the address of a stream, a "
        "folder of images; empty: a driver publishes them.",
    ),
    "image": ("camera/image_raw", "Topic of the camera's images; with image_transport compressed, its base topic."),
    "camera_info": ("", "Topic of the camera's calibration; empty: camera_info beside the image."),
    "depth": ("", "Topic of depth images registered to the camera's; empty: depth/image_raw beside the image."),
    "depth_info": ("", "Topic of the calibration of the depth images; empty: camera_info beside them."),
    "image_transport": ("", "How images come: raw or compressed."),
    "depth_transport": ("", "How depth images come: raw or compressedDepth."),
    "autostart": ("", "Whether the node configures and activates itself: true or false."),
    "use_sim_time": ("", "Whether the node's time is that on /clock: true or false."),
    "web": ("false", "Whether the HTTP gateway and its page run, too: true or false."),
    "web_port": ("", "TCP port of the gateway: 8080 where the parameter file says nothing else."),
    "respawn": ("false", "Whether the node is started anew when it dies: true or false."),
    "log_level": ("info", "Least severity that the node logs: debug, info, warn, error or fatal."),
}
# The arguments that are parameters of the node, and their types.
PARAMETERS = {
    "engine": str,
    "image_transport": str,
    "depth_transport": str,
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


def _of_engine(given: dict[str, str]) -> dict[str, object]:
    """The arguments that are parameters of the engine, by their full names."""
    engine = given["engine"] if given["engine"] not in ("", "auto") else "llama"
    parameters: dict[str, object] = {}
    if given["model"]:
        parameters[f"{engine}.model"] = ParameterValue(given["model"], value_type=str)
    if given["mmproj"]:
        parameters["llama.mmproj"] = ParameterValue(given["mmproj"], value_type=str)
    if given["base_url"]:
        name, value = ("base_urls", [given["base_url"]]) if engine == "openai" else ("base_url", given["base_url"])
        parameters[f"{engine}.{name}"] = value
    return parameters


def _node(context: LaunchContext) -> list[Node]:
    # Only when everything is known can an empty argument be told from one that was given.
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    check_vlm(given)  # before anything starts, which would be left running
    if given["source"]:
        check_source(given["source"])
    parameters = {
        name: ParameterValue(LaunchConfiguration(name), value_type=value_type)
        for name, value_type in PARAMETERS.items()
        if given[name]
    }
    web_parameters = {name: value for name, value in parameters.items() if name == "use_sim_time"}
    if given["web_port"]:
        web_parameters["port"] = port(given, "web_port")
    parameters |= _of_engine(given)
    nodes = [
        Node(
            package="qwen3vl_ros",
            executable="vlm",
            name="vlm",
            namespace=given["namespace"],
            output="screen",
            parameters=[given["params_file"], *([parameters] if parameters else [])],
            remappings=_remappings(given),
            ros_arguments=["--log-level", given["log_level"]],
            respawn=flag(given, "respawn"),
            respawn_delay=1.0,
        )
    ]
    if given["source"]:
        remappings = dict(_remappings(given))
        nodes.append(
            Node(
                package="qwen3vl_ros",
                executable="camera",
                name="camera",
                namespace=given["namespace"],
                output="screen",
                parameters=[given["params_file"], {"source": ParameterValue(given["source"], value_type=str)}],
                remappings=[("~/image_raw", remappings["image"]), ("~/camera_info", remappings["camera_info"])],
                ros_arguments=["--log-level", given["log_level"]],
            )
        )
    if flag(given, "web"):
        nodes.append(
            Node(
                package="qwen3vl_ros",
                executable="web",
                name="web",
                namespace=given["namespace"],
                output="screen",
                parameters=[given["params_file"], *([web_parameters] if web_parameters else [])],
                ros_arguments=["--log-level", given["log_level"]],
            )
        )
    return nodes


def _remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Topics that were not given are where most drivers have them, seen from the image."""

    def beside(topic: str, name: str) -> str:
        return "/".join(filter(None, (topic.rpartition("/")[0], name))) if "/" in topic else name

    depth = given["depth"] or beside(given["image"], "depth/image_raw")
    return [
        ("image", given["image"]),
        ("camera_info", given["camera_info"] or beside(given["image"], "camera_info")),
        ("depth", depth),
        ("depth_info", given["depth_info"] or beside(depth, "camera_info")),
    ]
