"""Frames of one camera, taken on demand.

Subscriptions keep the newest samples in the middleware and no executor ever spins them, so an idle camera costs no
Python at all; a question takes the sample that waits there, or waits for the next one.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.ros.polling_subscription import Closed, PollingSubscription


def _newest(depth: int) -> QoSProfile:
    """Sensor-data QoS that keeps as many samples: compatible with every publisher."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


NEWEST_ONLY = _newest(1)
"""Never an old frame."""

SAMPLE_PERIOD = 5.0
"""Seconds between two frames taken for diagnostics alone: at 1080p each costs an idle node some 15 ms."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image as it arrived. ``stamp`` in nanoseconds of the camera's clock; ``message`` is deserialized on use.

    ``taken``: time.monotonic() seconds when it was taken from the middleware.
    """

    stamp: int
    serialized: bytes
    message_type: type
    taken: float = field(default_factory=time.monotonic)

    def message(self) -> Any:
        """The sensor_msgs Image or CompressedImage."""
        return deserialize_message(self.serialized, self.message_type)


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """What diagnostics say about a camera. ``rate`` in Hz, ``age`` of the newest frame in seconds; None = unknown."""

    topic: str
    publishers: int
    rate: float | None
    age: float | None
    problem: str


class NoFrame(Exception):
    """No frame of the required freshness came; the text says what is known about why."""

    code_name = "NO_FRAME"  # as in engines/base.py


class Samples:
    """The newest ``depth`` messages of a topic, taken on demand. Usable from any thread."""

    def __init__(self, node: Node, topic: str, message_type: type, depth: int) -> None:
        self._node = node
        self._subscription = PollingSubscription(node, message_type, topic, _newest(depth), raw=True)
        self.topic = self._subscription.topic

    @property
    def publishers(self) -> int:
        """How many publishers the topic has."""
        return self._node.count_publishers(self.topic)

    def take(self) -> list[Frame]:
        """The messages that arrived since the last call, oldest first."""
        frames = []
        while (sample := self._subscription.take()) is not None:
            frames.append(Frame(header_stamp(sample[0]), sample[0], self._subscription.message_type))
        return frames

    def wait(self, timeout: float) -> bool:
        """Wait until there is one; False after ``timeout`` seconds."""
        return timeout > 0 and self._subscription.wait(timeout)

    def close(self) -> None:
        """Drop the subscription."""
        self._subscription.close()


class FrameSource:
    """The newest frame of a camera topic, on demand.

    ``transport`` "raw" subscribes sensor_msgs/Image on ``topic``, "compressed" sensor_msgs/CompressedImage on
    ``topic``/compressed, as image_transport names them. Usable from any thread; one :meth:`wait` at a time.
    """

    def __init__(self, node: Node, topic: str, transport: str) -> None:
        self._node = node
        self._clock: Clock = node.get_clock()
        self._type = CompressedImage if transport == "compressed" else Image
        topic = f"{topic}/compressed" if transport == "compressed" else topic
        self._subscription = PollingSubscription(node, self._type, topic, NEWEST_ONLY, raw=True)
        self.topic = self._subscription.topic
        self._lock = threading.Lock()
        self._newest: Frame | None = None
        self._taken = 0
        self._published: int | None = None
        self._sampled_at: float | None = None
        self._published_then: int | None = None
        self._rate: float | None = None
        self._frame_age: float | None = None

    def close(self) -> None:
        """Drop the subscription and whatever frame is held."""
        self._subscription.close()
        self._newest = None

    def interrupt(self) -> None:
        """Make a running :meth:`wait` check its ``cancelled`` at once."""
        self._subscription.interrupt()

    def wait(
        self, not_before: int, max_age: float, deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Frame | None:
        """The newest frame stamped at or after ``not_before`` (ns) and at most ``max_age`` seconds from now.

        Takes one that is there, else waits until ``deadline`` (time.monotonic() seconds) and then raises
        :class:`NoFrame`. Returns None once ``cancelled()`` is true and :meth:`interrupt` was called, or after
        :meth:`close`.
        """
        begin = time.monotonic()
        taken_before = self._taken
        try:
            while not cancelled():
                frame = self._take()
                # A stamp from the future is as wrong as an old one: it would stay "fresh" after the camera is gone.
                if frame is not None and frame.stamp >= not_before and abs(self._age(frame)) <= max_age:
                    return frame
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NoFrame(self._why_not(frame, not_before, max_age, begin, self._taken - taken_before))
                self._subscription.wait(remaining)
        except Closed:
            return None  # closed meanwhile
        return None

    def age(self, frame: Frame) -> float:
        """Seconds since the frame was stamped, by the node's clock, and no less than since it was taken.

        The second is the true one where the stamp is ahead of the node's clock, and where simulated time stands still.
        """
        return max(self._age(frame), time.monotonic() - frame.taken)

    def health(self) -> CameraHealth:
        """Health of the camera: rate and age as of the latest sample, at most SAMPLE_PERIOD ago.

        The rate comes from the publisher's sequence numbers, so the frames between two samples need not be taken.
        """
        now = time.monotonic()
        if self._sampled_at is None or now - self._sampled_at >= SAMPLE_PERIOD or self._frame_age is None:
            frame = self._take()
            self._subscription.interrupt()  # the frame just taken may be the one that a running wait() waits for
            self._frame_age = None if frame is None else self._age(frame)
            self._rate = None
            if self._sampled_at is not None and self._published is not None and self._published_then is not None:
                published = self._published - self._published_then
                # Fewer than before: another publisher, or the same one started anew.
                self._rate = published / (now - self._sampled_at) if published >= 0 else None
            self._sampled_at, self._published_then = now, self._published
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        problem = self._mismatch() or ("" if publishers else f"nobody publishes {self.topic}")
        return CameraHealth(self.topic, len(publishers), self._rate, self._frame_age, problem)

    def _take(self) -> Frame | None:
        """The newest frame there is: the one waiting in the middleware, else the one taken last."""
        with self._lock:
            sample = self._subscription.take()
            if sample is not None:
                serialized, info = sample
                stamp = header_stamp(serialized) or self._clock.now().nanoseconds
                self._newest = Frame(stamp, serialized, self._type)
                self._taken += 1
                self._published = info["publication_sequence_number"]
            return self._newest

    def _age(self, frame: Frame) -> float:
        """Seconds between the frame's stamp and now, by the node's clock (simulated time where that is used)."""
        return float(self._clock.now().nanoseconds - frame.stamp) / 1e9

    def _mismatch(self) -> str:
        """Why samples of the publishers there are cannot arrive, "" when they can."""
        wanted = f"sensor_msgs/msg/{self._type.__name__}"
        for publisher in self._node.get_publishers_info_by_topic(self.topic):
            if publisher.topic_type != wanted:
                return (
                    f"{self.topic} carries {publisher.topic_type}, not {wanted}: "
                    "set the parameter transport, or remap the topic"
                )
            compatible, reason = qos_check_compatible(publisher.qos_profile, NEWEST_ONLY)
            if compatible == QoSCompatibility.ERROR:
                return f"QoS of the publisher of {self.topic} does not match: {reason}"
        return ""

    def _why_not(self, frame: Frame | None, not_before: int, max_age: float, begin: float, received: int) -> str:
        waited = f"{time.monotonic() - begin:.1f} s"
        mismatch = self._mismatch()
        if mismatch:
            return f"no frame on {self.topic} for {waited}: {mismatch}"
        if frame is not None:
            age = self._age(frame)
            if age < 0 and frame.stamp >= not_before:
                return (
                    f"no frame on {self.topic} from now for {waited}; the newest is stamped {-age:.1f} s ahead: "
                    "do camera and node use the same clock (use_sim_time)?"
                )
            if frame.stamp < not_before:
                return (
                    f"no frame on {self.topic} stamped at or after not_before for {waited}; the newest is "
                    f"{(not_before - frame.stamp) / 1e9:.3f} s too early: is not_before in the camera's clock?"
                )
            return (
                f"no frame on {self.topic} younger than {max_age:g} s for {waited}; the newest is {age:.1f} s old: "
                "does the camera still run, and do its stamps use this node's clock (use_sim_time)?"
            )
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return (
                f"no frame on {self.topic} for {waited} (nobody publishes it): "
                "is the camera running, and is the topic right?"
            )
        kinds = {
            "best-effort" if publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT else "reliable"
            for publisher in publishers
        }
        return (
            f"no frame on {self.topic} for {waited} (publisher is {' and '.join(sorted(kinds))}, QoS matches, "
            f"{received} received): is the camera running?"
        )


def header_stamp(serialized: bytes) -> int:
    """Stamp of a serialized message that begins with a std_msgs/Header, nanoseconds.

    CDR (OMG DDS-RTPS 10.2): a 4-byte encapsulation header whose second byte says little (odd) or big endian, then the
    int32 seconds and uint32 nanoseconds.
    """
    order = "<" if serialized[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", serialized, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
