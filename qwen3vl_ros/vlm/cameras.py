"""The cameras of the node: their images, with matching depth images and calibration."""

from __future__ import annotations

import collections
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from qwen3vl_ros.engines.base import BadImage, BadRequest, Cancel, FitMode
from qwen3vl_ros.ros.polling_subscription import Closed
from qwen3vl_ros.vision.camera_model import CalibrationError, differ, rectified
from qwen3vl_ros.vision.compressed import decode_depth
from qwen3vl_ros.vision.fit import Rotation
from qwen3vl_ros.vision.frames import Mount, parse_mount
from qwen3vl_ros.vision.poses import Pose
from qwen3vl_ros.vlm.frame_source import CameraHealth, Frame, FrameSource, Samples
from qwen3vl_ros.vlm.history import History
from qwen3vl_ros.vlm.parameters import AUTO, CameraSettings, Settings, declare_camera
from qwen3vl_ros.vlm.still_camera import StillCamera
from qwen3vl_ros.vlm.storage_parameters import History as HistorySettings

_DEPTH_HISTORY = 10
"""Depth images kept in the middleware's queue: a third of a second at 30 Hz, more than any is late."""

DEPTH_PATIENCE = 0.5
"""Seconds that a depth image, or a calibration, may arrive after its image."""

_RECTIFIED = re.compile(r"(?:/|_)rect")
_RAW = re.compile(r"(?:/|_)raw(?:/|_|$)")
"""In the names of topics, as image_proc and drivers choose them: image_rect, image_rect_color; image_raw."""

_POLL_PERIOD = 0.05
"""Seconds between two checks of a waiting thread whether its question has ended."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What there is of the depth of one image; ``missing`` says why there is none.

    The CameraInfos are those of the images as they came: their K belongs to them, rectified or not. ``registered``:
    the frames of image and depth count as one, whatever they are called. ``doubt``: what may be wrong with it.
    ``colour_from_depth``: the image's optical frame from that of the depth, None = the same.
    """

    image: Image | None = None
    depth_info: CameraInfo | None = None
    colour_info: CameraInfo | None = None
    registered: bool = False
    doubt: str = ""
    missing: str = ""
    colour_from_depth: Pose | None = field(default=None, compare=False)


class Camera:
    """One camera: provides its newest image on demand, and depth and calibration for measuring in it."""

    def __init__(self, node: Node, name: str, settings: CameraSettings, history: HistorySettings) -> None:
        self.name = name
        self.fit = cast("FitMode", settings.fit) if settings.fit else None
        self.rotation = cast("Rotation", settings.rotation)
        columns, rows = settings.tiles.split("x")
        self.grid = (int(columns), int(rows))
        self.still = StillCamera(settings.reuse_tolerance, settings.reuse_max_age)
        self.history = History(history.seconds, history.megabytes)
        self._calibration_matrix = settings.calibration
        self._depth_registered = settings.depth_registered
        self.mount = _mount(settings.mount, settings.mount_frame)
        self.depth_mount = _mount(settings.depth_mount, settings.mount_frame)
        if self.depth_mount is not None and self.mount is None:
            own = f"camera.{name}." if name else ""
            raise RuntimeError(f"{own}depth_mount needs the place of the images' camera beside it: set {own}mount, too")
        topics = _Topics.of(node, name, settings)
        self.frames = FrameSource(node, topics.image, settings.age_by)
        self._info = Samples(node, topics.camera_info, CameraInfo, 1)
        compressed = settings.depth_transport == "compressedDepth"
        self._depth = Samples(node, topics.depth, CompressedImage if compressed else Image, _DEPTH_HISTORY)
        self._depth_info = Samples(node, topics.depth_info, CameraInfo, 1)
        self._lock = threading.Lock()
        self._depth_lock = threading.Lock()
        self._recent: collections.deque[Frame] = collections.deque(maxlen=_DEPTH_HISTORY)
        self._calibration: dict[str, CameraInfo] = {}

    def wait(self, not_before: int, max_age: float, deadline: float, cancel: Cancel) -> Frame | None:
        """Wait for a frame as :meth:`FrameSource.wait` does, one caller at a time; None once ``cancel`` is set."""
        if not _acquired(self._lock, cancel):  # another question waits for this camera
            return None
        try:
            with cancel.calling(self.frames.interrupt):
                return self.frames.wait(not_before, max_age, deadline, cancel.is_set)
        finally:
            self._lock.release()

    def stamp_of(self, frame: Frame) -> int:
        """Return the stamp of a frame in nanoseconds of the camera's clock; where it has none, when it arrived."""
        return frame.stamp or self.frames.moment(frame)

    def depth_of(self, frame: Frame, tolerance: float, cancel: Cancel) -> Depth:
        """Return the depth image stamped at most ``tolerance`` seconds from ``frame``.

        Waits for it until :data:`DEPTH_PATIENCE` after the arrival of the frame, or until ``cancel`` is set.
        """
        if not self._depth.publishers:
            self._recent.clear()
            return Depth(missing=f"nobody publishes {self._depth.topic}")
        if not _acquired(self._depth_lock, cancel):  # another question measures with this camera
            return Depth(missing="the question ended meanwhile")
        give_up = frame.arrived + DEPTH_PATIENCE
        try:
            nearest = self._nearest_depth(frame, give_up, cancel)
            colour_info = self._newest_info(self._info, give_up, cancel)
            depth_info = self._newest_info(self._depth_info, 0.0, cancel) or colour_info
        except Closed:
            return Depth(missing="the camera was closed meanwhile")
        finally:
            self._depth_lock.release()
        if colour_info is None:
            return Depth(missing=f"there is no calibration on {self._info.topic}")
        if nearest is None:
            return Depth(missing=f"no depth image came on {self._depth.topic}")
        apart = nearest.seconds_from(frame)
        if apart > tolerance:
            return Depth(
                missing=f"the nearest image on {self._depth.topic} is {apart:.3f} s from the colour image; "
                f"depth_tolerance is {tolerance:g} s"
            )
        doubt = ""
        if differ(colour_info) and not self._matrix(self.frames.topic):
            doubt = (
                f"positions may be off: K and P of {self._info.topic} differ, and nothing says which of them belongs "
                f"to the images on {self.frames.topic}; K was used: set the parameter calibration to K or P"
            )
        try:
            image = nearest.message()
            depth = decode_depth(image) if isinstance(image, CompressedImage) else cast("Image", image)
            colour_info = self._of_image(colour_info, self.frames.topic, "colour")
            depth_info = self._of_image(depth_info, self._depth.topic, "depth")
        except (BadImage, CalibrationError) as error:
            return Depth(missing=str(error))
        return Depth(depth, depth_info, colour_info, self._depth_registered, doubt)

    def calibration(self, cancel: Cancel) -> CameraInfo | None:
        """Return the newest that came, whose K belongs to the images.

        None while none came, once ``cancel`` is set, and once the camera is closed.

        Raises:
            CalibrationError: The images are rectified, and it says nothing about rectified ones.
        """
        if not _acquired(self._depth_lock, cancel):  # another question measures with this camera
            return None
        try:
            info = self._newest_info(self._info, 0.0, cancel)
            return None if info is None else self._of_image(info, self.frames.topic, "colour")
        except Closed:
            return None
        finally:
            self._depth_lock.release()

    def health(self) -> CameraHealth:
        """Return how the images come."""
        for source in (self._info, self._depth, self._depth_info):
            source.follow_publishers()
        return self.frames.health()

    def close(self) -> None:
        """Drop every subscription."""
        for source in (self.frames, self._info, self._depth, self._depth_info):
            source.close()

    def _nearest_depth(self, image: Frame, give_up: float, cancel: Cancel) -> Frame | None:
        while True:
            self._recent.extend(self._depth.take())
            if self._recent and not self._recent[-1].is_before(image):
                break
            if not _wait(self._depth, give_up, cancel):
                break
        return min(self._recent, key=image.seconds_from, default=None)

    def _matrix(self, topic: str) -> str:
        """Return which matrix of a CameraInfo belongs to the images on ``topic``: "K" or "P", "" if nothing says."""
        if self._calibration_matrix != AUTO:
            return self._calibration_matrix
        if _RECTIFIED.search(topic):
            return "P"
        return "K" if _RAW.search(topic) else ""

    def _of_image(self, info: CameraInfo, topic: str, which: str) -> CameraInfo:
        return rectified(info, which) if self._matrix(topic) == "P" else info

    def _newest_info(self, source: Samples, give_up: float, cancel: Cancel) -> CameraInfo | None:
        samples = source.take()
        if not source.publishers:
            self._calibration.pop(source.topic, None)  # of a camera that is gone
        known = self._calibration.get(source.topic)
        if not samples and known is None and source.publishers and _wait(source, give_up, cancel):
            samples = source.take()
        if samples:
            known = deserialize_message(samples[-1].serialized, CameraInfo)
            self._calibration[source.topic] = known
        return known


@dataclass(frozen=True, slots=True)
class _Topics:
    """The topics of a camera. What is not remapped itself is beside the image, wherever that was remapped to."""

    image: str
    camera_info: str
    depth: str
    depth_info: str

    @classmethod
    def of(cls, node: Node, name: str, settings: CameraSettings) -> _Topics:
        prefix = f"{name}/" if name else ""
        image = node.resolve_topic_name(f"{prefix}image")
        place = image.rpartition("/")[0]

        def topic(own: str, otherwise: str) -> str:
            resolved = node.resolve_topic_name(prefix + own)
            return otherwise if resolved == node.resolve_topic_name(prefix + own, only_expand=True) else resolved

        def transported(own: str, base: str, transport: str) -> str:
            if transport == "raw" or base.endswith(f"/{transport}"):
                return base
            return topic(f"{own}/{transport}", f"{base}/{transport}")

        depth = topic("depth", f"{place}/depth")
        return cls(
            transported("image", image, settings.image_transport),
            topic("camera_info", f"{place}/camera_info"),
            transported("depth", depth, settings.depth_transport),
            topic("depth_info", f"{place}/depth_info"),
        )


def _mount(text: str, frame: str) -> Mount | None:
    return Mount(frame.lstrip("/"), parse_mount(text)) if text else None


def _acquired(lock: threading.Lock, cancel: Cancel) -> bool:
    """Wait for ``lock``; False, without it, once ``cancel`` is set."""
    while not cancel.is_set():
        if lock.acquire(timeout=_POLL_PERIOD):
            return True
    return False


def _wait(source: Samples, give_up: float, cancel: Cancel) -> bool:
    """Wait until ``source`` has a message; False at ``give_up``, or once ``cancel`` is set."""
    while not cancel.is_set() and (left := give_up - time.monotonic()) > 0:
        if source.wait(min(left, _POLL_PERIOD)):
            return True
    return False


def open_cameras(node: Node, settings: Settings) -> dict[str, Camera]:
    """Open the cameras of the parameter ``cameras``; raises RuntimeError for an invalid topic name."""
    cameras: dict[str, Camera] = {}
    try:
        for name in dict.fromkeys(settings.cameras):
            cameras[name] = Camera(node, name, declare_camera(node, name, settings), settings.history)
    except Exception as error:
        for camera in cameras.values():
            camera.close()
        raise RuntimeError(str(error)) from error
    return cameras


def chosen(cameras: Mapping[str, Camera], names: Sequence[str]) -> list[Camera]:
    """Return the cameras that a question names, in its order, or the first of all if it names none.

    Raises:
        BadRequest: There is no camera of a name.
    """
    for name in names:
        if name not in cameras:
            known = ", ".join(repr(known) for known in cameras)
            raise BadRequest(f"cameras: there is no camera {name!r}; the parameter cameras has {known}")
    return [cameras[name] for name in dict.fromkeys(names)] or [next(iter(cameras.values()))]
