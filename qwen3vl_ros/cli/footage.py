"""Video files, bags and recordings, read alike: a frame for a time, and the frames of a part one after the other."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.engines.base import Image as Pixels
from qwen3vl_ros.index.entries import Source
from qwen3vl_ros.vision.frame_times import SECOND
from qwen3vl_ros.vlm.recorded_answers import IMAGE_FILE, RecordingError, read_answers

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

    from qwen3vl_ros.vision.bag import BagImages
    from qwen3vl_ros.vision.video_file import VideoReader


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixels, uint8 RGB, and their time in nanoseconds: in a video since its first frame, elsewhere the stamp."""

    time: int
    pixels: Pixels


class Footage(Protocol):
    """What is read. ``first`` and ``last``: times of its first and last frame; ``source`` has no window length yet."""

    source: Source
    first: int
    last: int

    def at(self, time: int) -> Frame:
        """Return the last frame until ``time``; later calls have later times."""

    def between(self, start: int, end: int) -> Iterator[Frame]:
        """Yield all frames from ``start`` until before ``end``, in order."""

    def windows(self, zero: int, start: int, length: int) -> Iterable[int]:
        """Yield when windows begin in which frames may be, from ``start`` on: ``zero`` and each ``length`` later."""


class OpenFootage(AbstractContextManager[Footage]):
    """Opens a video file, a bag or a recording.

    Args:
        path: Of the file or directory.
        topic: Of a bag, the camera of a recording; "" for the only one.

    Raises:
        BadImage: In the ``with`` statement: it cannot be read; so do the methods of what is read.
    """

    def __init__(self, path: str | Path, topic: str = "") -> None:
        self._path = Path(path).absolute()
        self._topic = topic
        self._open = ExitStack()

    def __enter__(self) -> Footage:
        path = self._path
        if not path.exists():
            raise BadImage(f"There is no {path}.")
        if str(path) != str(path).encode("utf-8", "replace").decode():
            raise BadImage(f"The name {path!s:.200} is not UTF-8, which an index cannot hold: rename it.")
        try:
            if (path / "answers").is_dir():
                return _RecordingFootage(path, self._topic)
            if path.is_dir() or path.suffix in (".mcap", ".db3", ".bag"):
                from qwen3vl_ros.vision.bag import BagImages

                return _BagFootage(path, self._open.enter_context(BagImages(path, self._topic)))
            if self._topic:
                raise BadImage(f"{path} is a video file, which has no topic {self._topic}: leave --topic out.")
            from qwen3vl_ros.vision.video_file import VideoReader

            return _VideoFootage(path, self._open.enter_context(VideoReader(path, str(path), threads=1)))
        except ImportError as error:
            raise BadImage(f"{path} needs av to be read: pip install av ({error}).") from error
        except BaseException:
            self._open.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def fingerprint_of(path: Path) -> str:
    """Return what tells whether a video, or a bag, is still the one it was: sizes and times of its files."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in (".mcap", ".db3")]
    stats = [file.stat() for file in files]
    return f"{sum(stat.st_size for stat in stats)} {max((stat.st_mtime_ns for stat in stats), default=0)}"


class _VideoFootage:
    def __init__(self, path: Path, video: VideoReader) -> None:
        from qwen3vl_ros.vision.video_file import upright

        self._video = video
        self._upright: Callable[[Any], Pixels] = upright
        self.source = Source("video", str(path), fingerprint=fingerprint_of(path))
        self.first, self.last = 0, video.length

    def at(self, time: int) -> Frame:
        shown, frame = self._video.at(time)
        return Frame(shown, self._upright(frame))

    def between(self, start: int, end: int) -> Iterator[Frame]:
        for time, frame in self._video.between(start, end):
            yield Frame(time, self._upright(frame))

    def windows(self, zero: int, start: int, length: int) -> Iterable[int]:
        return _all_windows(self, zero, start, length)


class _BagFootage:
    def __init__(self, path: Path, images: BagImages) -> None:
        self._images = images
        self.source = Source("bag", str(path), images.topic, images.start, fingerprint=fingerprint_of(path))
        self.first, self.last = images.first, images.last

    def at(self, time: int) -> Frame:
        return _frame_of(self._images.at(time))

    def between(self, start: int, end: int) -> Iterator[Frame]:
        for message in self._images.between(start, end):
            yield _frame_of(message)

    def windows(self, zero: int, start: int, length: int) -> Iterable[int]:
        return _all_windows(self, zero, start, length)


class _RecordingFootage:
    def __init__(self, path: Path, camera: str) -> None:
        self._path = path
        try:
            images = {
                (str(image["camera"] or ""), image["stamp"]["sec"] * SECOND + image["stamp"]["nanosec"], image["file"])
                for answer in read_answers(path)
                for image in answer.entry.get("images", [])
                if image.get("stamp") and image.get("camera") and IMAGE_FILE.fullmatch(str(image.get("file")))
            }
        except RecordingError as error:
            raise BadImage(f"{error}.") from error
        cameras = sorted({name for name, _, _ in images})
        if not cameras:
            raise BadImage(f"{path} has no image of a camera with a stamp.")
        if camera and camera not in cameras:
            raise BadImage(f"{path} has no images of a camera {camera}: it has {', '.join(cameras)}.")
        if not camera and len(cameras) > 1:
            raise BadImage(f"{path} has images of the cameras {', '.join(cameras)}: name one of them with --topic.")
        name = camera or cameras[0]
        self._files = sorted((stamp, file) for of, stamp, file in images if of == name)
        self._times = [stamp for stamp, _ in self._files]
        self.first, self.last = self._times[0], self._times[-1]
        self.source = Source("recording", str(path), name, self.first)

    def at(self, time: int) -> Frame:
        return self._frame(max(0, bisect.bisect_right(self._times, time) - 1))

    def between(self, start: int, end: int) -> Iterator[Frame]:
        for number in range(bisect.bisect_left(self._times, start), bisect.bisect_left(self._times, end)):
            yield self._frame(number)

    def windows(self, zero: int, start: int, length: int) -> Iterable[int]:
        # By the images: days may lie between two of them.
        return sorted({zero + (time - zero) // length * length for time in self._times if time >= start})

    def _frame(self, number: int) -> Frame:
        import cv2
        import numpy as np

        time, name = self._files[number]
        file = self._path / name
        try:
            decoded = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        except FileNotFoundError:
            raise BadImage(
                f"{file} is gone: the node made room for newer ones, or somebody deleted it. The same command goes on "
                "with what is there."
            ) from None
        except (OSError, cv2.error) as error:
            raise BadImage(f"{file} cannot be read: {error}.") from error
        if decoded is None:
            raise BadImage(f"{file} is no image.")
        return Frame(time, np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))


def _all_windows(footage: Footage, zero: int, start: int, length: int) -> Iterable[int]:
    return range(zero + max(0, start - zero) // length * length, footage.last + 1, length)


def _frame_of(message: Image | CompressedImage) -> Frame:
    from qwen3vl_ros.vision.compressed import pixels_of

    stamp = message.header.stamp
    return Frame(stamp.sec * SECOND + stamp.nanosec, pixels_of(message))
