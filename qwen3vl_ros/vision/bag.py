"""Reads images of a bag by their stamps, with rosbags, which needs no rosbag2: MCAP and SQLite. No ROS node code.

Times are nanoseconds of the images' own stamps, or, in the place of a stamp that is 0, of their recording. A bag is in
the order of the recording; an image is recorded a little after its stamp, how much the first one tells. So only the
part of the bag around each image that is asked for is read, however long the bag is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.frame_times import SECOND, even_times, in_seconds

_KINDS: Final = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}

_SLACK: Final = SECOND
"""How much later than the first image another one may have been recorded after its stamp."""

_FIRST_WINDOW: Final = 2 * SECOND
"""Before a time: where the search for the last image until then begins; each further one is twice as long."""

Recorded: TypeAlias = tuple[int, bytes]
"""An image's time, and its message as the bag has it."""


class BagImages:
    """The images of one topic of a bag. Use it in a ``with`` block, in one thread.

    Args:
        path: Of the bag's directory, or of an .mcap or .db3 file.
        topic: "" for the only topic that has images.

    Raises:
        BadImage: There is no such bag or topic, or it cannot be read; so do all methods.
    """

    def __init__(self, path: str | Path, topic: str = "") -> None:
        self._name = str(path)
        try:
            from rosbags.rosbag2 import Reader
        except ImportError as error:
            raise BadImage(f"{path} needs rosbags to be read: pip install rosbags ({error}).") from error
        if not Path(path).exists():
            raise BadImage(f"There is no bag {path}.")
        if Path(path).suffix == ".bag":
            raise BadImage(f"{path} is a bag of ROS 1: make one of ROS 2 with rosbags-convert --src {path} --dst NEW.")
        with self._reading():
            self._reader = Reader(Path(path))
            self._reader.open()
        try:
            self._connections = self._connections_of(topic)
            self.topic: str = self._connections[0].topic
            self._kind = _KINDS[self._connections[0].msgtype]
            self._delay = 0
            first = next(self._recorded_between(self._reader.start_time, self._reader.end_time), None)
            if first is None:
                raise BadImage(f"{self._name} has no image on {self.topic}.")
            recorded, raw = first
            self._delay = recorded - _stamp_of(raw, recorded)
            self.start = self._reader.start_time - self._delay
            """When the bag begins, by the images' stamps."""
            self.first = recorded - self._delay
            last = self._last_until(self._reader.end_time)
            self.last: int = self.first if last is None else last[0]
            """Time of the first and of the last image."""
        except BaseException:
            self.close()
            raise

    def clip(self, start: int | None, end: int | None, count: int) -> Iterator[Image | CompressedImage]:
        """Yield at most ``count`` images, evenly from ``start`` to ``end``; all, where there are no more.

        Each is the first one at or after its time, and the last one the last until ``end``.

        Args:
            start: Time of the first one; None for the topic's first.
            end: Time of the last one; None for the topic's last.
            count: How many.
        """
        begin = self.first if start is None else start
        until = self.last if end is None else end
        first = self._first_from(begin)
        last = self._last_until(until)
        if first is None or last is None or first[0] > last[0] or begin > until:
            to = "on" if end is None else f"to {self._spoken(until)}"
            raise BadImage(
                f"{self._name} has no image on {self.topic} from {self._spoken(begin)} {to}; {self._span()}."
            )
        taken = -1
        for time in even_times(first[0], last[0], count):
            found = last if time >= last[0] else self._first_from(time)
            if found is not None and taken < found[0] <= last[0]:
                taken = found[0]
                yield self._message(found)

    def at(self, time: int) -> Image | CompressedImage:
        """Return the last image until ``time``."""
        found = self._last_until(time)
        if found is None or time > self.last + _FIRST_WINDOW:
            raise BadImage(f"{self._name} has no image on {self.topic} at {self._spoken(time)}; {self._span()}.")
        return self._message(found)

    def between(self, start: int, end: int) -> Iterator[Image | CompressedImage]:
        """Yield all images from ``start`` until before ``end``, in the order of their stamps."""
        taken = start - 1
        for image in self._between(start - _SLACK, end + _SLACK):
            if taken < image[0] < end:
                taken = image[0]
                yield self._message(image)

    def time_of(self, value: int) -> int:
        """Return the time that a user's number names: since the bag's beginning, or, beyond its length, a stamp."""
        length = self._reader.end_time - self._reader.start_time
        return value if value > length and value >= self.start else self.start + value

    def close(self) -> None:
        """Close the bag. Idempotent."""
        if self._reader.is_open:
            with self._reading():
                self._reader.close()

    def __enter__(self) -> BagImages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connections_of(self, topic: str) -> list[Any]:
        images = [connection for connection in self._reader.connections if connection.msgtype in _KINDS]
        topics = sorted({connection.topic for connection in images if connection.msgcount})
        if topic:
            chosen = [connection for connection in images if connection.topic == topic]
            if chosen:
                return chosen
            others = {connection.topic: connection.msgtype for connection in self._reader.connections}
            what = f"holds {others[topic]} on {topic}, no images" if topic in others else f"has no topic {topic}"
            raise BadImage(f"{self._name} {what}; topics with images: {', '.join(topics) or 'none'}.")
        if not topics:
            raise BadImage(f"{self._name} has no images: no message of {' or '.join(_KINDS)}.")
        if len(topics) > 1:
            raise BadImage(f"{self._name} has images on {', '.join(topics)}: name one of them with the topic.")
        return [connection for connection in images if connection.topic == topics[0]]

    def _first_from(self, time: int) -> Recorded | None:
        """Return the first image at or after ``time``."""
        for image in self._between(time - _SLACK, None):
            if image[0] >= time:
                return image
        return None

    def _last_until(self, time: int) -> Recorded | None:
        """Return the last image until ``time``."""
        window, end = _FIRST_WINDOW, min(time, self._reader.end_time - self._delay)
        while True:
            last = None
            for image in self._between(end - window - _SLACK, end + _SLACK):
                if image[0] <= time and (last is None or image[0] >= last[0]):
                    last = image
            if last is not None or end - window < self.start - _SLACK:
                return last
            window *= 2

    def _between(self, start: int, end: int | None) -> Iterator[Recorded]:
        """Yield the images that were recorded when those of these stamps should have been."""
        until = None if end is None else end + self._delay + 1
        for recorded, raw in self._recorded_between(start + self._delay, until):
            yield _stamp_of(raw, recorded - self._delay), raw

    def _recorded_between(self, start: int, end: int | None) -> Iterator[Recorded]:
        """Yield the messages by the times of their recording."""
        with self._reading():
            for _, recorded, raw in self._reader.messages(self._connections, max(0, start), end):
                yield recorded, raw

    def _message(self, image: Recorded) -> Image | CompressedImage:
        time, raw = image
        try:
            message: Image | CompressedImage = deserialize_message(raw, self._kind)
        except Exception as error:  # rclpy has no exception of its own for it
            raise BadImage(f"{self._name} holds a damaged image on {self.topic}, {self._spoken(time)}.") from error
        if (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0):
            message.header.stamp = Time(sec=time // SECOND, nanosec=time % SECOND)
        return message

    def _spoken(self, time: int) -> str:
        return in_seconds(time - self.start)

    def _span(self) -> str:
        seconds = [f"{time // SECOND}.{time % SECOND:09d}" for time in (self.first, self.last)]
        return (
            f"it has some from {self._spoken(self.first)} to {self._spoken(self.last)} after its beginning, stamped "
            f"{seconds[0]} to {seconds[1]}"
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise BadImage for whatever the reader raises, which depends on the storage and on what is damaged."""
        try:
            yield
        except (BadImage, GeneratorExit):
            raise
        except Exception as error:
            raise BadImage(
                f"{self._name} cannot be read as a bag ({error or type(error).__name__}): it is a directory with "
                "metadata.yaml, or an .mcap or .db3 file; `ros2 bag reindex` mends one whose recording was cut off."
            ) from error


def _stamp_of(raw: bytes, otherwise: int) -> int:
    """Return the stamp in a serialized message that begins with a header, nanoseconds; ``otherwise`` where it is 0."""
    if len(raw) < 12:
        return otherwise
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)  # CDR: its second byte says so
    stamp: int = seconds * SECOND + nanoseconds
    return stamp or otherwise
