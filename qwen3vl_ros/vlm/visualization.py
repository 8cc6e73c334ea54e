"""Publishes annotated images, markers for RViz, and detections. Draws only while there are subscribers."""

from __future__ import annotations

import collections
import importlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from qwen3vl_ros.engines.text_buffer import TextBuffer
from qwen3vl_ros.vision.annotate import annotate
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.images import InputImage
from qwen3vl_ros.vlm.messages import position_header

_PERIOD = 0.2
"""Least seconds between two images of an answer that is being generated."""

_BACKLOG = 10
"""Most complete answers, with their images, that wait to be drawn; older ones are dropped."""

_POINT_SIZE = 0.03
"""Diameter in metres of the marker of an object of unknown size."""


class Display:
    """Publishes ~/annotated, ~/markers, and ~/detections and ~/detections_3d where vision_msgs is installed.

    Drawing takes milliseconds and runs on its own thread, so that no token waits for it.
    """

    def __init__(self, node: Node, log_error: Callable[[str], None]) -> None:
        self._log_error = log_error
        self._annotated = node.create_publisher(Image, "~/annotated", 1)
        self._markers = node.create_publisher(MarkerArray, "~/markers", 1)
        self._detections = Detections.create(node)
        self._next_check = 0.0
        self._wanted = threading.Event()
        self._writing: Callable[[], None] | None = None
        self._answered: collections.deque[Callable[[], None]] = collections.deque(maxlen=_BACKLOG)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)
        self._thread.start()

    @property
    def watched(self) -> bool:
        """Whether annotated images have a subscriber."""
        return self._annotated.get_subscription_count() > 0

    def writing(self, question: str, text: TextBuffer, images: Sequence[InputImage]) -> None:
        """Draw a growing answer on the drawing thread, at most every 0.2 s. Returns at once."""
        if not images or (now := time.monotonic()) < self._next_check:
            return
        # Not for each token: with caches cold after a decode, the query of the middleware takes 50 microseconds.
        self._next_check = now + _PERIOD
        if self.watched:
            self._writing = lambda: self._annotate(question, str(text), images[:1], ())
            self._wanted.set()

    def answered(self, question: str, text: str, images: Sequence[InputImage], regions: Sequence[Region]) -> None:
        """Publish a complete answer: markers and detections at once, images after those that are being drawn."""
        headers = [image.header for image in images]
        if headers:
            self._markers.publish(markers(regions, headers))
            if self._detections is not None:
                self._detections.publish(regions, headers)
        if self.watched and images:
            self._writing = None  # first: the incomplete answer must not be drawn after this one
            self._answered.append(lambda: self._annotate(question, text, images, regions))
            self._wanted.set()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._wanted.set()
        self._thread.join()

    def _draw(self) -> None:
        while self._wanted.wait() and not self._closing.is_set():
            self._wanted.clear()
            while self._answered and not self._closing.is_set():
                self._try(self._answered.popleft())
            draw, self._writing = self._writing, None
            if draw is not None:
                self._try(draw)
            self._closing.wait(_PERIOD)

    def _try(self, draw: Callable[[], None]) -> None:
        try:
            draw()
        except Exception as error:  # noqa: BLE001 one failed image must not end the thread
            self._log_error(f"an annotated image could not be drawn ({type(error).__name__}: {error})")

    def _annotate(self, question: str, text: str, images: Sequence[InputImage], regions: Sequence[Region]) -> None:
        for index, image in enumerate(images):
            drawn = annotate(image.published, question, text, [r for r in regions if r.image_index == index])
            self._annotated.publish(image_message(drawn, image.header))


class NoDisplay:
    """Shows nothing: takes what :class:`Display` takes."""

    def writing(self, question: str, text: TextBuffer, images: Sequence[InputImage]) -> None:
        """Do nothing."""

    def answered(self, question: str, text: str, images: Sequence[InputImage], regions: Sequence[Region]) -> None:
        """Do nothing."""


def markers(regions: Sequence[Region], headers: Sequence[Header]) -> MarkerArray:
    """Return a box (or a small ball if the size is unknown) and a name for each region with a position.

    They replace the markers of the previous answer.
    """
    array = MarkerArray(markers=[Marker(action=Marker.DELETEALL)])
    array.markers[0].header = headers[0]
    for number, region in enumerate(regions):
        if region.position is None:
            continue
        x, y, z = region.position
        for offset, kind in enumerate((Marker.CUBE if region.extent else Marker.SPHERE, Marker.TEXT_VIEW_FACING)):
            header = position_header(region, headers[region.image_index])
            marker = Marker(header=header, ns="vlm", id=2 * number + offset, type=kind)
            marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = x, y, z
            marker.pose.orientation.w = 1.0
            size = region.extent or (_POINT_SIZE,) * 3
            marker.scale.x, marker.scale.y, marker.scale.z = (max(0.001, side) for side in size)
            marker.color.r, marker.color.g, marker.color.b, marker.color.a = 0.34, 0.71, 0.91, 0.5
            if kind == Marker.TEXT_VIEW_FACING:
                marker.text = region.label
                if region.frame_id:
                    marker.pose.position.z += size[2] / 2 + 0.03
                else:
                    marker.pose.position.y -= size[1] / 2 + 0.03  # above it: y points down in an optical frame
                marker.scale.x = marker.scale.y = 0.0
                marker.scale.z = 0.05
                marker.color.a = 1.0
            array.markers.append(marker)
    return array


class Detections:
    """Publishes vision_msgs, if that is installed. The score is the region's, 1 where it is unknown."""

    def __init__(self, node: Node, vision_msgs: Any) -> None:
        self._msg = vision_msgs
        self._flat = node.create_publisher(vision_msgs.Detection2DArray, "~/detections", 1)
        self._solid = node.create_publisher(vision_msgs.Detection3DArray, "~/detections_3d", 1)

    @classmethod
    def create(cls, node: Node) -> Detections | None:
        """Return one that publishes, None where vision_msgs is not installed."""
        try:
            return cls(node, importlib.import_module("vision_msgs.msg"))
        except ImportError:
            return None

    def publish(self, regions: Sequence[Region], headers: Sequence[Header]) -> None:
        """Publish the regions with a box, and those with a position, given the headers of the images."""
        flat = self._msg.Detection2DArray(header=headers[0])
        solid = self._msg.Detection3DArray(header=headers[0])
        for region in regions:
            header = headers[region.image_index]
            header_3d = position_header(region, header)
            if region.frame_id:
                solid.header = header_3d
            if region.box is not None:
                left, top, right, bottom = region.box
                detection = self._named(self._msg.Detection2D(header=header), region)
                detection.bbox.center.position.x, detection.bbox.center.position.y = (
                    (left + right) / 2,
                    (top + bottom) / 2,
                )
                detection.bbox.size_x, detection.bbox.size_y = right - left, bottom - top
                flat.detections.append(detection)
            if region.position is not None:
                detection = self._named(self._msg.Detection3D(header=header_3d), region)
                place, size = detection.bbox.center.position, detection.bbox.size
                place.x, place.y, place.z = region.position
                detection.bbox.center.orientation.w = 1.0
                if region.extent is not None:
                    size.x, size.y, size.z = region.extent
                solid.detections.append(detection)
        self._flat.publish(flat)
        self._solid.publish(solid)

    def _named(self, detection: Any, region: Region) -> Any:
        result = self._msg.ObjectHypothesisWithPose()
        result.hypothesis.class_id = region.label
        result.hypothesis.score = 1.0 if region.score is None else region.score
        detection.results.append(result)
        return detection
