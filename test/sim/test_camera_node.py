"""What the built-in camera promises to whoever subscribes: real processes, real DDS."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")

from geometry_msgs.msg import Point, Pose, Quaternion
from qwen3vl_ros.srv import MoveObject, PointCamera
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

import camera_viewer
import child_process
from camera_viewer import PATIENCE, pixels, seconds
from vlm_process import shared_memory

pytestmark = pytest.mark.ros


class Viewer(camera_viewer.Viewer):
    """One that can move objects."""

    def move(self, name: str, x: float, y: float, z: float, turn: Quaternion | None = None) -> MoveObject.Response:
        pose = Pose(position=Point(x=x, y=y, z=z), orientation=turn or Quaternion())
        return self.call(MoveObject, "/camera/move_object", MoveObject.Request(name=name, pose=pose))

    def point(self, pan: float, tilt: float = 0.0) -> PointCamera.Response:
        return self.call(PointCamera, "/camera/point_camera", PointCamera.Request(pan=pan, tilt=tilt))


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.close()


def redness(image: np.ndarray) -> np.ndarray:
    """Columns of the pixels that are red."""
    red, green, blue = np.moveaxis(image.astype(int), 2, 0)
    return np.nonzero((red > 100) & (green < 60) & (blue < 60))[1]


def test_image_depth_and_calibration_of_one_moment_share_stamp_and_frame(viewer: Viewer) -> None:
    viewer.start()
    images = viewer.subscribe(Image, "/camera/image_raw")
    depths = viewer.subscribe(Image, "/camera/depth/image_raw")
    infos = viewer.subscribe(CameraInfo, "/camera/camera_info")

    def of_one_moment() -> set[float]:
        return set.intersection(*({seconds(m.header.stamp) for m in kind} for kind in (images, depths, infos)))

    viewer.wait_for(lambda: bool(of_one_moment()))
    assert {m.header.frame_id for m in images + depths + infos} == {"camera_optical_frame"}
    assert pixels(images[-1]).shape == (448, 448, 3)
    assert pixels(depths[-1]).shape == (448, 448, 1)
    info = infos[-1]
    assert (info.width, info.height, info.distortion_model) == (448, 448, "plumb_bob")
    assert list(info.d) == [0.0] * 5
    assert info.k[0] == info.k[4] == info.p[0] == pytest.approx(387.978, abs=0.01)
    assert info.k[2] == info.k[5] == info.p[6] == 223.5
    assert np.isinf(pixels(depths[-1])[0]).all() and 0.1 < pixels(depths[-1]).min() < 1.0


def test_a_moved_object_is_in_the_next_images(viewer: Viewer) -> None:
    viewer.start()
    viewer.subscribe(Image, "/camera/image_raw")
    assert np.median(redness(viewer.next_image())) < 200  # on the left
    assert viewer.move("red_box", 1.2, -0.5, 0.84).success
    assert np.median(redness(viewer.next_image())) > 300


@pytest.mark.parametrize(
    ("name", "turn", "says"),
    [("table", None, "static"), ("", None, "no object"), ("red_box", Quaternion(w=0.0), "zeros")],
)
def test_what_cannot_be_moved_is_answered_with_a_sentence(
    viewer: Viewer, name: str, turn: Quaternion | None, says: str
) -> None:
    viewer.start()
    answer = viewer.move(name, 1.0, 0.0, 1.0, turn)
    assert not answer.success
    assert says in answer.message and answer.message.endswith(".")


def test_a_turned_camera_is_in_the_next_images_and_keeps_its_calibration(viewer: Viewer) -> None:
    viewer.start()
    viewer.subscribe(Image, "/camera/image_raw")
    infos = viewer.subscribe(CameraInfo, "/camera/camera_info")
    home = viewer.next_image()
    viewer.wait_for(lambda: bool(infos))
    before = infos[-1]
    assert viewer.point(0.322).success  # towards the box, from where the camera is
    assert np.median(redness(viewer.next_image())) == pytest.approx(224, abs=8)
    assert viewer.point(-1.0).success
    assert not redness(viewer.next_image()).size
    for pan, tilt in ((4.0, 0.0), (0.0, 2.0)):
        refused = viewer.point(pan, tilt)
        assert not refused.success and "rad" in refused.message and refused.message.endswith(".")
    assert not redness(viewer.next_image()).size  # nothing was changed
    assert viewer.point(0.0).success
    assert (viewer.next_image() == home).all()
    assert infos[-1].k.tolist() == before.k.tolist() and infos[-1].header.frame_id == before.header.frame_id


def test_a_motion_can_be_started_and_stopped_while_the_camera_runs(viewer: Viewer) -> None:
    viewer.start()
    viewer.subscribe(Image, "/camera/image_raw")
    home = viewer.next_image()
    assert (viewer.next_image() == home).all()

    def set_motion(script: str) -> Any:
        parameter = Parameter("motion", value=script).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return viewer.call(SetParameters, "/camera/set_parameters", request).results[0]

    assert set_motion("red_box circle radius=0.1 period=1.7").successful
    assert (viewer.next_image() != viewer.next_image()).any()
    refused = set_motion("table spin period=1")
    assert not refused.successful and "static" in refused.reason
    assert set_motion("").successful
    assert (viewer.next_image() == home).all()


def test_simulated_time_starts_at_zero_and_never_lies_behind_an_image(viewer: Viewer) -> None:
    viewer.start(publish_clock="true")
    clock = viewer.subscribe(Clock, "/clock")
    images = viewer.subscribe(Image, "/camera/image_raw")
    viewer.wait_for(lambda: len(images) > 3 and len(clock) > 20)
    times = [seconds(message.clock) for message in clock]
    assert times == sorted(times)
    assert 0.0 < times[0] < PATIENCE
    newest = seconds(images[-1].header.stamp)
    viewer.wait_for(lambda: seconds(clock[-1].clock) >= newest)
    assert newest < PATIENCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(viewer: Viewer, number: int) -> None:
    before = set(Path("/dev/shm").iterdir())
    camera = viewer.start(motion="red_box circle radius=0.1 period=3")
    images = viewer.subscribe(Image, "/camera/image_raw")
    viewer.wait_for(lambda: bool(images))
    used = shared_memory(camera.pid) - before
    camera.send_signal(number)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 0, output
    assert "Traceback" not in output
    assert used and not [path for path in used if path.exists()], "it left shared memory behind"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"world": "/no/such.sdf"}, "/no/such.sdf"),
        ({"motion": "red_box fly"}, "red_box fly"),
        ({"sensor": "left"}, "'left'"),
        ({"rate": "-1.0"}, "rate"),
        ({"rate": "fast"}, "rate"),
        ({"publish_clock": "[yes, 3]"}, "publish_clock"),
    ],
)
def test_what_it_cannot_start_with_is_named_in_one_sentence(parameters: dict[str, str], says: str) -> None:
    command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args")
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    sentence = ended.stderr.strip().splitlines()[-1]
    assert sentence.startswith("camera: ") and says in sentence
    assert "Traceback" not in ended.stderr
