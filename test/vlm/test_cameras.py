"""What belongs to an image is waited for no longer than it may come late, and not past the end of its question."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.vlm import cameras
from qwen3vl_ros.vlm.cameras import DEPTH_PATIENCE, Camera
from qwen3vl_ros.vlm.frame_source import Frame
from qwen3vl_ros.vlm.parameters import CameraSettings, Settings
from qwen3vl_ros.vlm.storage_parameters import History

PATIENCE = 60.0
STAMP = 5_000_000_000
TOLERANCE = 0.1


SETTINGS = CameraSettings(**{one.name: getattr(Settings(), one.name) for one in fields(CameraSettings)})


class Graph:
    """In place of a node: no name is remapped but the image's."""

    def __init__(self, image: str) -> None:
        self._image = image

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        return self._image if topic == "image" and not only_expand else f"/{topic}"


class Topic:
    """In place of Samples: a topic with a publisher, the test. ``waited_for`` is set once somebody waits for it."""

    def __init__(self, _node: Any, topic: str, message_type: type, _depth: int) -> None:
        self.topic, self.publishers = topic, 1
        self.waited_for = threading.Event()
        self._type = message_type
        self._frames: list[Frame] = []
        self._changed = threading.Condition()

    def publish(self, message: Any) -> None:
        with self._changed:
            self._frames.append(Frame(STAMP, serialize_message(message), self._type))
            self._changed.notify_all()

    def take(self) -> list[Frame]:
        with self._changed:
            taken, self._frames = self._frames, []
        return taken

    def wait(self, timeout: float) -> bool:
        with self._changed:
            self.waited_for.set()
            return self._changed.wait_for(lambda: self._frames, timeout) != []


@pytest.fixture
def open_camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(cameras, "Samples", Topic)
    monkeypatch.setattr(cameras, "FrameSource", lambda _node, topic, _age_by: SimpleNamespace(topic=topic))

    def open_camera(image: str = "/image", **settings: Any) -> Any:
        return Camera(Graph(image), "", replace(SETTINGS, **settings), History())  # type: ignore[arg-type]

    return open_camera


@pytest.fixture
def camera(open_camera: Callable[..., Any]) -> Any:
    """A camera whose calibration has come, and no depth."""
    camera = open_camera()
    camera._info.publish(CameraInfo(width=7))
    return camera


def frame(*, ago: float) -> Frame:
    """One that came ``ago`` seconds ago; a negative number leaves so much more time to its depth."""
    return Frame(STAMP, b"", Image, time.monotonic() - ago)


def test_depth_that_comes_soon_after_the_image_is_its_depth(camera: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        depth = pool.submit(camera.depth_of, frame(ago=-PATIENCE), TOLERANCE, Cancel())
        assert camera._depth.waited_for.wait(PATIENCE)
        camera._depth.publish(Image(width=3))
        assert (depth.result().image.width, depth.result().colour_info.width) == (3, 7)


def test_depth_may_come_so_long_after_the_image_and_not_so_long_after_it_is_asked_for(camera: Any) -> None:
    depth = camera.depth_of(frame(ago=DEPTH_PATIENCE), TOLERANCE, Cancel())
    assert depth.missing == "no depth image came on /depth"
    assert not camera._depth.waited_for.is_set()


def test_depth_that_came_before_it_is_asked_for_is_taken_however_late_that_is(camera: Any) -> None:
    camera._depth.publish(Image(width=3))
    assert camera.depth_of(frame(ago=PATIENCE), TOLERANCE, Cancel()).image.width == 3


def test_nobody_waits_for_depth_or_calibration_once_the_question_has_ended(camera: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        other, cancel = Cancel(), Cancel()
        measures = pool.submit(camera.depth_of, frame(ago=-PATIENCE), TOLERANCE, other)
        assert camera._depth.waited_for.wait(PATIENCE)
        calibration = pool.submit(camera.calibration, cancel)
        depth = pool.submit(camera.depth_of, frame(ago=-PATIENCE), TOLERANCE, cancel)
        cancel.set()
        assert calibration.result(PATIENCE) is None
        assert depth.result(PATIENCE).missing == "the question ended meanwhile"
        assert not measures.done()
        other.set()
        assert measures.result(PATIENCE).missing
    assert camera.calibration(Cancel()).width == 7


# --- which matrix belongs to the images -------------------------------------------------------------------------------

K = [500.0, 0.0, 319.5, 0.0, 500.0, 239.5, 0.0, 0.0, 1.0]
P = [430.0, 0.0, 321.0, 0.0, 0.0, 440.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0]
BOTH = CameraInfo(width=640, height=480, k=K, d=[-0.3, 0.1, 0.0, 0.0, 0.0], distortion_model="plumb_bob", p=P)


@pytest.mark.parametrize(
    ("image", "setting", "focal", "doubtful"),
    [
        ("/camera/image_raw", "auto", 500.0, False),
        ("/camera/image_rect", "auto", 430.0, False),
        ("/camera/image_rect_color", "auto", 430.0, False),
        ("/camera/image_rect/compressed", "auto", 430.0, False),
        ("/camera/rectified/image", "auto", 430.0, False),
        ("/image_rect_raw", "auto", 430.0, False),  # RealSense's depth and infrared images are rectified
        ("/direct/image", "auto", 500.0, True),
        ("/image", "auto", 500.0, True),
        ("/image", "P", 430.0, False),
        ("/image_rect", "K", 500.0, False),
    ],
)
def test_the_matrix_is_that_of_the_images_or_a_doubt_is_told(
    open_camera: Callable[..., Any], image: str, setting: str, focal: float, doubtful: bool
) -> None:
    camera = open_camera(image, calibration=setting)
    camera._info.publish(BOTH)
    camera._depth.publish(Image(width=3))
    depth = camera.depth_of(frame(ago=PATIENCE), TOLERANCE, Cancel())
    calibration = camera.calibration(Cancel())
    assert (depth.colour_info.k[0], calibration.k[0]) == (focal, focal)
    assert bool(len(depth.colour_info.d)) == (focal == 500.0)
    assert depth.doubt.startswith("positions may be off") == doubtful == bool(depth.doubt)


def test_there_is_no_doubt_where_both_matrices_are_the_same(open_camera: Callable[..., Any]) -> None:
    camera = open_camera()
    camera._info.publish(CameraInfo(width=640, height=480, k=K, p=[*K[0:3], 0.0, *K[3:6], 0.0, *K[6:9], 0.0]))
    camera._depth.publish(Image(width=3))
    assert camera.depth_of(frame(ago=PATIENCE), TOLERANCE, Cancel()).doubt == ""


def test_rectified_images_without_a_p_have_no_depth_and_the_reason(open_camera: Callable[..., Any]) -> None:
    camera = open_camera("/image_rect")
    camera._info.publish(CameraInfo(width=640, height=480, k=K))
    camera._depth.publish(Image(width=3))
    assert "has no P" in camera.depth_of(frame(ago=PATIENCE), TOLERANCE, Cancel()).missing


# --- what else cameras do ---------------------------------------------------------------------------------------------


def test_compressed_depth_is_depth(open_camera: Callable[..., Any]) -> None:
    camera = open_camera("/front/image", depth_transport="compressedDepth")
    assert camera._depth.topic == "/front/depth/compressedDepth"
    camera._info.publish(BOTH)
    camera._depth.publish(CompressedImage(format="16UC1; compressedDepth rvl"))
    assert "format to png" in camera.depth_of(frame(ago=PATIENCE), TOLERANCE, Cancel()).missing


def test_the_calibration_of_a_camera_that_is_gone_is_forgotten(camera: Any) -> None:
    assert camera.calibration(Cancel()).width == 7
    camera._info.publishers = 0
    assert camera.calibration(Cancel()) is None


def test_a_depth_cameras_mount_without_the_images_is_refused_with_what_is_missing(
    open_camera: Callable[..., Any],
) -> None:
    with pytest.raises(RuntimeError, match="depth_mount needs the place of the images' camera"):
        open_camera(depth_mount="0 0 0 0 0 0")
