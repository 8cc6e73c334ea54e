"""What the launch files promise. Where ROS's launch is not installed, what their text alone can show is checked."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from qwen3vl_ros.sim.sdf import read_world

PATIENCE = 60.0  # seconds after which something that should have happened has not
LAUNCH_FILES = ("vlm.launch.py", "sim.launch.py", "gazebo.launch.py", "fast_dds.launch.py", "camera_tf.launch.py")
FOR_USERS = LAUNCH_FILES[:3]

# Starts a launch file as `ros2 launch` does, without needing the ros2 command line.
LAUNCHER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture(params=LAUNCH_FILES)
def tree(request: pytest.FixtureRequest, share: Path) -> ast.Module:
    return ast.parse((share / "launch" / request.param).read_text(), request.param)


def calls(tree: ast.Module, function: str) -> list[dict[str, Any]]:
    """Keyword arguments, those that are constants, of every call of `function`."""
    return [
        {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function
    ]


def constant(path: Path, name: str) -> Any:
    """The value of a module's constant `name`, or the keys where a dictionary's values are not constants."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            if isinstance(node.value, ast.Dict):
                return [ast.literal_eval(key) for key in node.value.keys if key]
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no {name}")


def test_every_launch_file_is_installed(share: Path) -> None:
    assert {path.name for path in (share / "launch").glob("*.launch.py")} == set(LAUNCH_FILES)


def test_every_executable_of_ours_that_is_started_exists(tree: ast.Module, share: Path) -> None:
    for node in calls(tree, "Node"):
        if node["package"] == "qwen3vl_ros":
            executable = share.parent.parent / "lib" / "qwen3vl_ros" / node["executable"]
            assert os.access(executable, os.X_OK), executable


def test_every_file_of_ours_that_is_named_exists(tree: ast.Module, share: Path) -> None:
    folders = {"HERE": share / "launch", "SHARE": share}
    divisions = [part for part in ast.walk(tree) if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div)]
    inner = {id(division.left) for division in divisions}  # a / b of a / b / c
    for division in divisions:
        folder, *names = ast.unparse(division).split(" / ")
        if folder in folders and id(division) not in inner:
            assert folders[folder].joinpath(*map(ast.literal_eval, names)).is_file(), names


def test_parameters_that_vlm_launch_sets_are_parameters_of_the_node(share: Path) -> None:
    parameters = constant(share / "launch" / "vlm.launch.py", "PARAMETERS")
    known = yaml.safe_load((share / "config" / "vlm.yaml").read_text())["/**/vlm"]["ros__parameters"]
    assert set(parameters) - {"use_sim_time"} <= set(known)
    assert set(parameters) <= set(constant(share / "launch" / "vlm.launch.py", "ARGUMENTS"))


def test_the_bridge_carries_every_topic_of_the_world(share: Path) -> None:
    entries = yaml.safe_load((share / "config" / "gz_bridge.yaml").read_text())
    bridged = {entry["gz_topic_name"]: entry for entry in entries}
    cameras = read_world(share / "worlds" / "tabletop.sdf").cameras
    colour = next(camera for camera in cameras if camera.kind == "camera")
    wanted = {camera.topic: "sensor_msgs/msg/Image" for camera in cameras}
    wanted |= {colour.topic.rpartition("/")[0] + "/camera_info": "sensor_msgs/msg/CameraInfo"}
    wanted |= {"/clock": "rosgraph_msgs/msg/Clock"}
    assert {topic: entry["ros_type_name"] for topic, entry in bridged.items()} == wanted
    for topic, entry in bridged.items():
        assert entry["ros_topic_name"] == topic
        assert entry["direction"] == "GZ_TO_ROS"
        assert entry["gz_type_name"] == "gz.msgs." + entry["ros_type_name"].rpartition("/")[2]


def test_the_built_in_camera_has_the_topics_of_the_world_and_of_the_bridge(share: Path) -> None:
    gazebo = (share / "launch" / "gazebo.launch.py").read_text()
    for camera in read_world(share / "worlds" / "tabletop.sdf").cameras:
        assert camera.topic in ("/camera/image_raw", "/camera/depth/image_raw")
        assert f'"{camera.topic}"' in gazebo
        beside = camera.topic.removeprefix("/camera/")  # of the image, whose default is camera/image_raw
        assert beside in (share / "launch" / "vlm.launch.py").read_text()


def test_the_dds_profile_has_room_for_images_and_keeps_other_hosts(share: Path) -> None:
    profile = ElementTree.parse(share / "config" / "fastdds.xml")
    name = "{http://www.eprosima.com}"
    transports = {t.findtext(f"{name}type"): t for t in profile.iter(f"{name}transport_descriptor")}
    assert set(transports) == {"SHM", "UDPv4"}
    assert int(transports["SHM"].findtext(f"{name}segment_size")) >= 8 * 2**20
    assert transports["UDPv4"].find(f"{name}interfaceWhiteList") is None


# --- with the real launch ---------------------------------------------------------------------------------------------


@pytest.fixture
def real_launch() -> None:
    pytest.importorskip("launch_ros", reason="ROS's launch is not on PyPI; a machine with ROS 2 runs this")


@pytest.mark.parametrize("name", FOR_USERS)
def test_every_argument_is_described_and_has_a_default(real_launch: None, share: Path, name: str) -> None:
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    source = PythonLaunchDescriptionSource(str(share / "launch" / name))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert set(constant(share / "launch" / name, "ARGUMENTS")) <= {argument.name for argument in arguments}
    for argument in arguments:
        assert argument.description.endswith(".")
        assert argument.default_value is not None or argument.name == "world"


@pytest.mark.ros
def test_vlm_launch_brings_the_node_up_with_what_was_asked_for_and_takes_it_down(
    real_launch: None, share: Path
) -> None:
    import rclpy
    from rcl_interfaces.srv import GetParameters
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    command = [sys.executable, "-c", LAUNCHER, str(share / "launch" / "vlm.launch.py")]
    command += ["namespace:=robot", "autostart:=false", "image_transport:=compressed"]
    command += ["engine:=openai", "model:=served", "base_url:=http://127.0.0.1:9/v1"]
    launched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(launched.stdout), daemon=True)
    reader.start()
    context = Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("asker", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = node.create_client(GetParameters, "/robot/vlm/get_parameters")
        assert client.wait_for_service(timeout_sec=PATIENCE), lines
        names = ["autostart", "image_transport", "openai.model", "openai.base_urls", "queue_size"]
        for _ in range(int(PATIENCE / 5)):  # again, as long as the node has not discovered us and its reply is lost
            future = client.call_async(GetParameters.Request(names=names))
            executor.spin_until_future_complete(future, timeout_sec=5.0)
            if future.done():
                break
        autostart, transport, model, base_urls, queue_size = future.result().values
        assert (autostart.bool_value, transport.string_value) == (False, "compressed")
        assert model.string_value == "served"
        assert list(base_urls.string_array_value) == ["http://127.0.0.1:9/v1"]
        assert queue_size.integer_value == 8  # the parameter file's: nobody asked for another
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)
        launched.send_signal(signal.SIGINT)
        status = launched.wait(timeout=PATIENCE)
        reader.join(timeout=PATIENCE)
    assert status == 0, "".join(lines)
    assert any("process has finished cleanly" in line for line in lines), "".join(lines)


@pytest.mark.parametrize(
    ("name", "argument", "sentence"),
    [
        ("vlm.launch.py", "web:=maybe", "web:=maybe: it is true or false"),
        ("vlm.launch.py", "web_port:=eighty", "web_port:=eighty: it is a number"),
        ("sim.launch.py", "rate:=fast", "rate:=fast: it is a number"),
        ("gazebo.launch.py", "web:=maybe", "web:=maybe: it is true or false"),
        ("vlm.launch.py", "source:=/nowhere/clip.mp4", "There is no video file /nowhere/clip.mp4."),
        ("sim.launch.py", "source:=0", "source:=0: the images come from the simulation"),
    ],
)
def test_a_mistyped_argument_is_a_sentence_and_starts_nothing(
    real_launch: None, share: Path, name: str, argument: str, sentence: str
) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(share / "launch" / name), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
    assert "process started" not in done.stdout + done.stderr
