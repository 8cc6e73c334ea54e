"""The camera of a source: publishes a webcam, a video file, a network stream or a folder of images.

Topics, private to the node:
    ~/image_raw             sensor_msgs/Image, rgb8
    ~/image_raw/compressed  sensor_msgs/CompressedImage, where the source is JPEG or PNG: as it came
    ~/camera_info           sensor_msgs/CameraInfo, only with a calibration

A thread waits for frames and publishes them, so the node's executor is free. Nothing is decoded that nobody subscribes
to. A stream that fails, also at the start, is opened again with growing pauses, and so is a device or a folder that has
worked; a video file is not.
"""

from __future__ import annotations

import threading
import time

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.ros.sensor_publisher import sensor_publisher
from qwen3vl_ros.sim.calibration_file import read_calibration
from qwen3vl_ros.sim.settings import Settings
from qwen3vl_ros.sim.sources import Kind, SourceError, SourceFrame, open_source
from qwen3vl_ros.vision.camera_model import CalibrationError
from qwen3vl_ros.vision.image_message import byte_field, image_message

_PAUSES = (1.0, 30.0)
"""Seconds until the first try to open a source again; each further one is twice as long, up to the second number."""

_SILENCE = 5.0
"""Seconds at least between two warnings of the same thing."""


class SourceCamera:
    """Publishes what a source has. Raises SourceError and CalibrationError."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self.finished: Future[int] = Future()
        self._node = node
        self._log = node.get_logger()
        self._source = open_source(settings.source, loop=settings.loop, period=settings.period)
        self._calibration = settings.calibration
        self._info = read_calibration(settings.calibration, settings.frame_id) if settings.calibration else None
        self._frame_id = settings.frame_id
        self._interval = 1.0 / settings.rate if settings.rate else 0.0
        self._due = 0.0  # time.monotonic() seconds; a frame that was taken before is left out, by `rate`
        self._waits_since: float | None = None
        self._published = False
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._image = sensor_publisher(node, Image, "~/image_raw")
        self._compressed = sensor_publisher(node, CompressedImage, f"{self._image.topic_name}/compressed")
        self._camera_info = sensor_publisher(node, CameraInfo, "~/camera_info") if self._info else None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop publishing. A thread that opens a stream, or waits for one, is left to end with the process."""
        self._closed.set()
        self._source.close()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            status = self._publish_all()
        except Exception:
            if self._closed.is_set() or not self._node.context.ok():  # a signal has shut ROS down meanwhile
                return
            self.finished.set_result(1)
            raise
        self.finished.set_result(status)

    def _publish_all(self) -> int:
        """Publish until the source ends; return the node's exit status."""
        pause = _PAUSES[0]
        while not self._closed.is_set():
            try:
                for frame in self._source.frames(self._warn):
                    pause = _PAUSES[0]
                    self._publish(frame)
            except CalibrationError as error:
                self._log.fatal(str(error))
                return 2
            except SourceError as error:
                if self._source.kind is Kind.VIDEO or not (self._published or self._source.kind is Kind.STREAM):
                    self._log.fatal(str(error))
                    return 2
                self._waits_since = self._waits_since or time.monotonic()
                self._log.warning(f"{error} The next try is in {pause:g} s.")
                self._closed.wait(pause)
                pause = min(2 * pause, _PAUSES[1])
            else:
                if not self._closed.is_set():
                    self._log.info(f"{self._source.name} has come to its end, and so does the camera.")
                return 0
        return 0

    def _publish(self, frame: SourceFrame) -> None:
        if not self._published or self._waits_since is not None:
            self._announce(frame)
        if self._info is not None and frame.size != (self._info.width, self._info.height):
            raise CalibrationError(
                f"{self._source.name} has images of {frame.size[0]}x{frame.size[1]} pixels, but the calibration "
                f"{self._calibration} is of {self._info.width}x{self._info.height}: give the one of this size."
            )
        if frame.captured < self._due - 1e-3:
            return
        self._due = self._interval + (self._due if frame.captured < self._due + self._interval else frame.captured)
        age = Duration(nanoseconds=int((time.monotonic() - frame.captured) * 1e9))
        header = Header(frame_id=self._frame_id, stamp=(self._node.get_clock().now() - age).to_msg())
        if frame.file and self._compressed.get_subscription_count() > 0:
            message = CompressedImage(header=header, format=frame.format, data=byte_field(frame.file))
            self._compressed.publish(message)
        if self._image.get_subscription_count() > 0:
            try:
                pixels = frame.decode()
            except BadImage as error:
                self._warn(f"Left out: {error}")
                return
            self._image.publish(image_message(pixels, header))
        if self._info is not None and self._camera_info is not None:
            self._info.header.stamp = header.stamp
            self._camera_info.publish(self._info)

    def _announce(self, frame: SourceFrame) -> None:
        width, height = frame.size
        if self._waits_since is None or not self._published:
            also = f", {frame.format} also on {self._compressed.topic_name}" if frame.file else ""
            self._log.info(f"Images of {self._source.name}, {width}x{height}, on {self._image.topic_name}{also}.")
        else:
            seconds = time.monotonic() - self._waits_since
            self._log.info(f"Images of {self._source.name} come again, after {seconds:.1f} s.")
        self._published, self._waits_since = True, None

    def _warn(self, sentence: str) -> None:
        self._log.warning(sentence, throttle_duration_sec=_SILENCE, throttle_time_source_type=self._steady)
