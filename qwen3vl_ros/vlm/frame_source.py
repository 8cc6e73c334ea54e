"""Frames of one camera, taken on demand.

Subscriptions keep the newest samples in the middleware and no executor spins them, so an idle camera costs no time in
Python; a question takes the sample in the middleware's queue, or waits for the next one.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from rclpy.clock import ROSClock
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.ros.clock_watch import ClockWatch
from qwen3vl_ros.ros.fast_dds import profile_assignment
from qwen3vl_ros.ros.parameters import overrides
from qwen3vl_ros.ros.polling_subscription import Closed, PollingSubscription
from qwen3vl_ros.vlm.image_view import image_view

_NEWEST = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""Sensor-data QoS that keeps no old frame: compatible with every publisher."""

_LATCHED = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What gets a message that was published before this subscribed, where all publishers keep it."""

_LOOK_AGAIN = 0.5
"""Seconds after which a topic without messages is looked at anew: its publisher may have come."""

SAMPLE_PERIOD = 5.0
"""Seconds between two frames taken only for diagnostics: at 1080p each costs an idle node about 15 ms."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as it arrived; :meth:`message` deserializes it on use.

    ``stamp``: nanoseconds of the camera's clock, 0 where the camera sets none. ``arrived``: time.monotonic() seconds.
    ``number``: of its publisher's messages, from 1; 0 where the middleware does not tell.
    """

    stamp: int
    serialized: bytes
    message_type: type
    arrived: float = field(default_factory=time.monotonic)
    number: int = 0

    @classmethod
    def from_sample(cls, sample: tuple[bytes, Mapping[str, int]], message_type: type) -> Frame:
        """Make one of a serialized message and rclpy's MessageInfo about it.

        The middleware notes the arrival by the system's clock. A message without such a note counts as just arrived.
        """
        serialized, info = sample
        received = info["received_timestamp"]
        ago = max(0.0, time.time() - received / 1e9) if received else 0.0
        number = info["publication_sequence_number"] or 0
        return cls(header_stamp(serialized), serialized, message_type, time.monotonic() - ago, number)

    def is_before(self, other: Frame) -> bool:
        """Return whether it is of an earlier moment: by their stamps, by their arrival where one has none."""
        if self.stamp and other.stamp:
            return self.stamp < other.stamp
        return self.arrived < other.arrived

    def seconds_from(self, other: Frame) -> float:
        """Return the time between two frames: by their stamps, by their arrival where one has none."""
        if self.stamp and other.stamp:
            return abs(self.stamp - other.stamp) / 1e9
        return abs(self.arrived - other.arrived)

    def message(self) -> Any:
        """The deserialized sensor_msgs Image or CompressedImage."""
        return deserialize_message(self.serialized, self.message_type)

    def view(self) -> Any:
        """The message, or what has the fields of an Image without a copy of its pixels, to be read and no more."""
        view = image_view(self.serialized) if self.message_type is Image else None
        return self.message() if view is None else view


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """What diagnostics say about a camera. ``rate`` in Hz, ``age`` of the newest frame in seconds; None = unknown.

    ``problem``: why no frame can arrive. ``doubt``: what is odd although frames arrive.
    """

    topic: str
    publishers: int
    rate: float | None
    age: float | None
    problem: str
    doubt: str = ""


class NoFrame(Exception):
    """No frame of the required freshness arrived in time; the text gives the likely reason."""

    code_name = "NO_FRAME"  # as in engines/base.py


class Samples:
    """The newest ``depth`` messages of a topic, taken on demand. Usable from any thread; one :meth:`wait` at a time.

    Its durability is that of the publishers, so that a calibration or a still image that was published once, before
    this node came, arrives: a QoS of "best available" looks only once, when it subscribes. Where parameters override
    the QoS (``qos_overrides.TOPIC.subscription.reliability``, ``.durability``) it stays as they say.
    """

    def __init__(self, node: Node, topic: str, message_type: type, depth: int) -> None:
        self._node = node
        self._type = message_type
        self._depth = depth
        self._lock = threading.Lock()
        self._closed = False
        self.topic = node.resolve_topic_name(topic)
        overridden = f"qos_overrides.{self.topic}.subscription."
        self._follows = not any(name.startswith(overridden) for name in overrides(node))
        self._subscription = self._subscribe(_NEWEST)

    @property
    def publishers(self) -> int:
        """Number of the topic's publishers."""
        return self._node.count_publishers(self.topic)

    @property
    def qos(self) -> QoSProfile:
        """As subscribed."""
        return self._subscription.qos

    @property
    def lost(self) -> int:
        """Messages that were sent and got lost on the way, since it subscribed."""
        return self._subscription.lost

    def take(self) -> list[Frame]:
        """Return the messages that arrived since the last call, oldest first."""
        frames: list[Frame] = []
        with self._lock:
            # No more than are kept: a camera may publish 4K images as fast as they can be taken.
            while len(frames) < self._depth and (sample := self._subscription.take()) is not None:
                frames.append(Frame.from_sample(sample, self._type))
        return frames

    def wait(self, timeout: float) -> bool:
        """Wait until there is a message; False after ``timeout`` seconds or earlier, for the caller to call it again.

        Raises:
            Closed: It was closed.
        """
        if timeout <= 0:
            return False
        self.follow_publishers()
        try:
            return self._subscription.wait(min(timeout, _LOOK_AGAIN))
        except Closed:
            if self._closed:
                raise
            return False  # it subscribed anew meanwhile

    def follow_publishers(self) -> None:
        """Subscribe anew if the publishers' durability is another one than the subscription's."""
        publishers = self._node.get_publishers_info_by_topic(self.topic) if self._follows else []
        latched = all(
            publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            and publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            for publisher in publishers
        )
        wanted = _LATCHED if latched else _NEWEST
        with self._lock:
            if publishers and not self._closed and self.qos.durability != wanted.durability:
                old, self._subscription = self._subscription, self._subscribe(wanted)
                old.interrupt()
                old.close()

    def interrupt(self) -> None:
        """End a running :meth:`wait`, or else the next one."""
        self._subscription.interrupt()

    def close(self) -> None:
        """Drop the subscription."""
        with self._lock:
            self._closed = True
            self._subscription.close()

    def _subscribe(self, like: QoSProfile) -> PollingSubscription:
        qos = QoSProfile(
            depth=self._depth, history=like.history, reliability=like.reliability, durability=like.durability
        )
        return PollingSubscription(self._node, self._type, self.topic, qos, raw=True, overridable=not self._follows)


class FrameSource:
    """The newest frame of a camera topic, on demand. Usable from any thread; one :meth:`wait` at a time.

    Args:
        node: Subscribes.
        topic: Of the images; a name that ends in /compressed has sensor_msgs/CompressedImage, as image_transport
            names them, any other one sensor_msgs/Image.
        age_by: "stamp": a frame's age counts from its stamp, by the node's clock. "arrival": from when the middleware
            got it, for cameras whose stamps are of another clock. Frames without a stamp always count from then.
    """

    def __init__(self, node: Node, topic: str, age_by: str = "stamp") -> None:
        self._node = node
        self._clock = cast("ROSClock", node.get_clock())
        self._clock_watch = ClockWatch(self._clock)
        self._by_arrival = age_by == "arrival"
        self._type = CompressedImage if topic.endswith("/compressed") else Image
        self._samples = Samples(node, topic, self._type, 1)
        self.topic = self._samples.topic
        self._lock = threading.Lock()
        self._newest: Frame | None = None
        self._first: int | None = None  # number of the publisher's first message that came, and what was lost by then
        self._lost_then = 0
        self._taken = 0
        self._sampled_at: float | None = None
        self._published_then: int | None = None
        self._rate: float | None = None
        self._frame_age: float | None = None

    def close(self) -> None:
        """Drop the subscription and whatever frame is held."""
        self._samples.close()
        self._clock_watch.close()
        self._newest = None

    def interrupt(self) -> None:
        """Make a running :meth:`wait` check its ``cancelled`` at once."""
        self._samples.interrupt()

    def wait(
        self, not_before: int, max_age: float, deadline: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Frame | None:
        """Return the newest frame of ``not_before`` (ns of the node's clock) or later, at most ``max_age`` seconds old.

        Args:
            not_before: Least :meth:`moment` in nanoseconds.
            max_age: Greatest difference between stamp and now in seconds.
            deadline: When to stop waiting, time.monotonic() seconds.
            cancelled: Checked after every arrival and :meth:`interrupt`.

        Returns:
            The frame; None once ``cancelled()`` is true, or after :meth:`close`.

        Raises:
            NoFrame: There was none by the deadline, also where ``cancelled()`` has become true by then.
        """
        begin = time.monotonic()
        taken_before = self._taken
        try:
            while not cancelled():
                frame = self._take()
                # A stamp from the future is as wrong as an old one: it would stay "fresh" after the camera is gone.
                if frame is not None and self.moment(frame) >= not_before and abs(self._age(frame)) <= max_age:
                    return frame
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NoFrame(self._why_not(frame, not_before, max_age, begin, self._taken - taken_before))
                self._samples.wait(remaining)
            if time.monotonic() >= deadline:  # that of the question, whose end came before this thread's turn
                raise NoFrame(self._why_not(self._newest, not_before, max_age, begin, self._taken - taken_before))
        except Closed:
            return None  # closed while waiting
        return None

    def newest(self) -> Frame | None:
        """Take the newest frame without waiting; a running :meth:`wait` gets it, too.

        Returns:
            None before the first one, and once it is closed.
        """
        taken_before = self._taken
        try:
            frame = self._take()
        except Closed:
            return None
        if self._taken != taken_before:
            self._samples.interrupt()
        return frame

    def age(self, frame: Frame) -> float:
        """Seconds since the frame was stamped, by the node's clock, and no less than since it arrived.

        The latter are correct if the stamp is ahead of the node's clock, or if simulated time is paused.
        """
        return max(self._age(frame), time.monotonic() - frame.arrived)

    def health(self) -> CameraHealth:
        """Return the camera's health: rate and age as of the latest sample, at most SAMPLE_PERIOD ago.

        The rate comes from the publisher's sequence numbers, so the frames between two samples need not be taken.
        """
        now = time.monotonic()
        if self._sampled_at is None or now - self._sampled_at >= SAMPLE_PERIOD or self._frame_age is None:
            frame = self._take()
            self._samples.follow_publishers()
            self._samples.interrupt()  # the frame just taken may be the one that a running wait() waits for
            self._frame_age = None if frame is None else self._age(frame)
            self._rate = None
            number = None if frame is None else frame.number
            if self._sampled_at is not None and number is not None and self._published_then is not None:
                published = number - self._published_then
                # Fewer than before: another publisher, or the same one started anew.
                self._rate = published / (now - self._sampled_at) if published >= 0 else None
            self._sampled_at, self._published_then = now, number
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        problem = self._mismatch() or ("" if publishers else f"nobody publishes {self.topic}")
        doubt = self._losses()
        if not doubt and len(publishers) > 1:
            doubt = f"{len(publishers)} nodes publish {self.topic}: a question gets a frame of any of them"
        return CameraHealth(self.topic, len(publishers), self._rate, self._frame_age, problem, doubt)

    def _take(self) -> Frame | None:
        """Return the newest frame: the one in the middleware's queue, else the one taken last."""
        with self._lock:
            for frame in self._samples.take():
                if self._newest is None or frame.number < self._newest.number:  # of another publisher
                    self._first, self._lost_then = frame.number, self._samples.lost
                self._newest = frame
                self._taken += 1
            return self._newest

    def _age(self, frame: Frame) -> float:
        """Return the seconds since the frame was stamped, or arrived; negative for a stamp ahead of the node's clock.

        In simulated time that stands still everything would stay fresh: the wall clock counts then, but for a stamp
        that is ahead, as before the first message on /clock.
        """
        since_arrival = time.monotonic() - frame.arrived
        if self._by_arrival or not frame.stamp:
            return since_arrival
        age = float(self._clock.now().nanoseconds - frame.stamp) / 1e9
        return max(age, since_arrival) if age >= 0 and self._clock_watch.stands_still else age

    def moment(self, frame: Frame) -> int:
        """Return when the frame was stamped, or arrived, in nanoseconds of the node's clock."""
        if self._by_arrival or not frame.stamp:
            return int(self._clock.now().nanoseconds - self._age(frame) * 1e9)
        return frame.stamp

    def _mismatch(self) -> str:
        """Return why the samples of every publisher there is cannot arrive, "" when those of one can."""
        wanted = f"sensor_msgs/msg/{self._type.__name__}"
        problem = ""
        for publisher in self._node.get_publishers_info_by_topic(self.topic):
            compatible, reason = qos_check_compatible(publisher.qos_profile, self._samples.qos)
            if publisher.topic_type != wanted:
                problem = (
                    f"{self.topic} carries {publisher.topic_type}, not {wanted}: "
                    "set the parameter image_transport, or remap the topic"
                )
            elif compatible == QoSCompatibility.ERROR:
                problem = f"QoS of the publisher of {self.topic} does not match: {reason}"
            else:
                return ""
        return problem

    def _losses(self) -> str:
        """Return a sentence where more frames get lost on the way than arrive, "" elsewhere."""
        if self._newest is None or self._first is None:
            return ""
        lost, sent = self._samples.lost - self._lost_then, self._newest.number - self._first
        if lost <= 0 or 2 * lost < sent:
            return ""
        return (
            f"of {max(sent, lost)} frames that were sent {lost} got lost on the way: start the camera's driver with "
            f"{profile_assignment()}, which gives Fast DDS room for large images"
        )

    def _why_not(self, frame: Frame | None, not_before: int, max_age: float, begin: float, received: int) -> str:
        waited = f"{time.monotonic() - begin:.1f} s"
        if why := self._mismatch() or self._losses():
            return f"no frame on {self.topic} for {waited}: {why}"
        if frame is not None:
            age, moment = self._age(frame), self.moment(frame)
            if why := self._clock_watch.explain(frame.arrived):
                return f"no frame on {self.topic} younger than {max_age:g} s for {waited}: {why}"
            if age < 0 and moment >= not_before:
                return (
                    f"no frame on {self.topic} from now for {waited}; the newest is stamped {-age:.1f} s ahead: "
                    "do camera and node use the same clock (use_sim_time)?"
                )
            if moment < not_before:
                came = "came" if self._by_arrival or not frame.stamp else "stamped"
                return (
                    f"no frame on {self.topic} {came} at or after not_before for {waited}; the newest is "
                    f"{(not_before - moment) / 1e9:.3f} s too early: is not_before in the node's clock?"
                )
            return (
                f"no frame on {self.topic} younger than {max_age:g} s for {waited}; the newest is {age:.1f} s old: "
                "does the camera still run, and do its stamps use this node's clock (use_sim_time; or age_by: arrival)?"
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
            f"{received} received): is the camera running? If it is, start its driver with {profile_assignment()}: "
            "without it, Fast DDS loses large images"
        )


def header_stamp(serialized: bytes) -> int:
    """Read the stamp in nanoseconds of a serialized message that begins with a std_msgs/Header.

    CDR (OMG DDS-RTPS 10.2): a 4-byte encapsulation header whose second byte says little (odd) or big endian, then the
    int32 seconds and uint32 nanoseconds.
    """
    order = "<" if serialized[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", serialized, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
