"""Sources of images that need no driver: what one is, and which one a name stands for. No ROS node code.

A video device, a video file and a stream are read by :mod:`.video`, a folder of images by :mod:`.folder`.
"""

from __future__ import annotations

import enum
import re
import threading
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.engines.base import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Of the files that count as images in a folder."""

_PASSWORD = re.compile(r"^(\w+://[^/@:]*:)[^/]*(@)")


class SourceError(RuntimeError):
    """A source has no images to give; the text is a sentence that names it."""


class Kind(enum.Enum):
    """Kinds of sources, by what a user calls them."""

    DEVICE = "device"
    VIDEO = "video"
    STREAM = "stream"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One image.

    Attributes:
        captured: When it was taken, as near as the source knows, time.monotonic() seconds.
        size: Width and height in pixels.
        decode: Returns its pixels, as a frame of which nobody wants them need not be decoded. Raises BadImage.
        file: It as the source has it, where that is JPEG or PNG; else empty.
        format: "jpeg" or "png", of ``file``.
    """

    captured: float
    size: tuple[int, int]
    decode: Callable[[], Image]
    file: bytes = b""
    format: str = ""


class Source(ABC):
    """Where frames come from. ``name`` is for sentences, ``kind`` says what to do when it fails."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.kind = kind
        self._closed = threading.Event()

    @abstractmethod
    def frames(self, warn: Callable[[str], None]) -> Iterator[SourceFrame]:
        """Open the source and yield its frames, each when it is due; waits for them.

        May be called again after it raised. A live source yields the newest frame and leaves out what its user was too
        slow for.

        Args:
            warn: Gets a sentence about what was left out.

        Yields:
            Frames until the source ends, or :meth:`close`.

        Raises:
            SourceError: It cannot be opened or read, or not any longer.
        """

    def close(self) -> None:
        """End :meth:`frames`, and its waiting; from any thread."""
        self._closed.set()


def kind_of(source: str) -> Kind:
    """Return what a source is, by its name alone, or by what there is under that name."""
    if source.isdecimal() or source.startswith("/dev/"):
        return Kind.DEVICE
    if "://" in source:
        return Kind.STREAM
    return Kind.IMAGES if Path(source).is_dir() else Kind.VIDEO


def check_source(source: str, kind: Kind | None = None) -> None:
    """Check what can be known without opening a source.

    Args:
        source: As the parameter ``source`` has it.
        kind: What it is to be; None = whatever it is.

    Raises:
        SourceError: There is no such thing.
    """
    kind = kind or kind_of(source)
    if kind is Kind.DEVICE and not Path(device_path(source)).is_char_device():
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        raise SourceError(
            f"There is no video device {device_path(source)}; "
            + (f"there are {there}." if there else "none is there: is the camera plugged in, and given to a container?")
        )
    if kind is Kind.VIDEO and not Path(source).is_file():
        raise SourceError(f"There is no video file {source}.")
    if kind is Kind.IMAGES and not Path(source).is_dir():
        raise SourceError(f"There is no folder {source}.")
    if kind is Kind.IMAGES and not images_in(source):
        raise SourceError(f"The folder {source} has no images, files that end in {', '.join(IMAGE_SUFFIXES)}.")
    if kind is Kind.STREAM and not _has_host(source):
        raise SourceError(f"{without_password(source)} is no address of a stream, such as rtsp://HOST/PATH.")


def open_source(source: str, *, loop: bool = False, period: float = 1.0) -> Source:
    """Return what reads a source.

    Args:
        source: As the parameter ``source`` has it.
        loop: Whether a video file starts again at its end.
        period: Seconds from one image of a folder to the next.

    Raises:
        SourceError: There is no such source, or nothing is installed that reads it.
    """
    check_source(source)
    kind = kind_of(source)
    if kind is Kind.IMAGES:
        from qwen3vl_ros.sim.folder import Folder

        return Folder(source, period)
    try:
        from qwen3vl_ros.sim.video import Device, Stream, VideoFile
    except ImportError as error:
        raise SourceError(f"{without_password(source)} needs PyAV: pip install av ({error}).") from error
    if kind is Kind.VIDEO:
        return VideoFile(source, loop=loop)
    return Device(device_path(source)) if kind is Kind.DEVICE else Stream(source)


def images_in(folder: str) -> list[Path]:
    """Return the images of a folder, sorted by name. Raises SourceError."""
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def device_path(source: str) -> str:
    """Return the path of a device of which the number is given, or the path."""
    return f"/dev/video{int(source)}" if source.isdecimal() else source


def without_password(source: str) -> str:
    """Return a source as it may be shown: rtsp://user:***@host/path."""
    return _PASSWORD.sub(r"\1***\2", source)


def _has_host(address: str) -> bool:
    try:
        return bool(urllib.parse.urlsplit(address).netloc)
    except ValueError:
        return False
