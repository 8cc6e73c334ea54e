"""What belongs to an image is waited for no longer than it may come late, and not past the end of its question."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.vlm import cameras
from qwen3vl_ros.vlm.cameras import DEPTH_PATIENCE, Camera
from qwen3vl_ros.vlm.frame_source import Frame
from qwen3vl_ros.vlm.parameters import CameraSettings

PATIENCE = 60.0
STAMP = 5_000_000_000
TOLERANCE = 0.1


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
def camera(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A camera whose calibration has come, and no depth."""
    monkeypatch.setattr(cameras, "Samples", Topic)
    monkeypatch.setattr(cameras, "FrameSource", lambda *_: None)
    camera: Any = Camera(None, "", CameraSettings(transport="raw", fit="", rotation=0, tiles="1x1"))
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
    assert depth.missing == "no depth image came on depth"
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
