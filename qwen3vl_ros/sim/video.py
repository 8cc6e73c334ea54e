"""Video files, network streams and webcams as sources, read with PyAV, which is FFmpeg.

PyAV and not OpenCV's VideoCapture, which was tried beside it against a GStreamer RTSP server: both connect in the same
time and notice a server that went away as quickly. But OpenCV says only that it failed, and PyAV why (404, connection
refused, a password that is wrong); PyAV gives packets before they are decoded, so that a frame's time is that of its
arrival, frames that are late need not be decoded, and JPEG is published as it came; and the times of a webcam's frames
are the kernel's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import av

from qwen3vl_ros.sim.sources import Kind, Source, SourceError, SourceFrame, check_source, without_password
from qwen3vl_ros.vision.compressed import decode_file
from qwen3vl_ros.vision.video_file import reason_of, turns_of, upright

_OPEN_TIMEOUT, _READ_TIMEOUT = 15.0, 10.0
"""Seconds until a stream must have sent enough to be understood, and then the next packet."""

_BEHIND = 0.5
"""Seconds: a file that is more behind plays slower than its rate; frames of a live source that are later are left out,
undecoded, until one that needs no other."""

_WITHOUT_TIMES = ("mpjpeg", "mjpeg")
"""FFmpeg's formats of streams without time stamps, for which it makes some up."""

_RECORDED = ("hls", "mov,mp4", "matroska", "avi")
"""How FFmpeg's names of formats begin that a server sends as fast as it can, in pieces or whole."""


class ArrivalClock:
    """When the frames of a live stream were taken, by their time stamps and by when they arrived.

    A frame cannot arrive before it was taken. What arrived with the least delay of the last 10 to 20 s tells how the
    camera's clock and this one relate; then a frame that was held up keeps the time at which it was taken. The least
    delay itself, of camera and network, cannot be known and is not taken off.

    All times are in seconds, ``arrived`` by time.monotonic(), ``stamp`` by the camera's clock.
    """

    _WINDOW = 10.0
    _GAIN, _SETTLED = 0.01, 0.3
    """A new connection has settled when for 0.3 s no frame waited 10 ms less than all before it."""
    _START = 5.0
    """Seconds after which it counts as settled anyway: some servers send faster than they play."""

    def __init__(self) -> None:
        self._least = [float("inf"), float("inf")]  # of the last window, and of this one
        self._window_ends = 0.0
        self._began = float("inf")
        self._gained = (float("inf"), 0.0)  # the delay of the frame that last waited less, and when it arrived
        self._last = float("-inf")

    def captured(self, stamp: float, arrived: float) -> float | None:
        """Return when a frame was taken, None if that is not known yet: what arrives now has waited.

        Reading on a new connection begins with what has come while FFmpeg looked what there is: each frame has waited
        less than the one before.
        """
        if stamp < self._last - 1.0:  # the camera's clock was set back
            self._least = [float("inf"), float("inf")]
        self._last = stamp
        if arrived > self._window_ends:
            self._least = [self._least[1], float("inf")]
            self._window_ends = arrived + self._WINDOW
        delay = arrived - stamp
        self._least[1] = min(self._least[1], delay)
        self._began = min(self._began, arrived)
        if delay < self._gained[0] - self._GAIN:
            self._gained = (delay, arrived)
        if arrived - self._gained[1] < self._SETTLED and arrived - self._began < self._START:
            return None
        return stamp + min(self._least)


class _Newest:
    """The newest frame of a thread that reads, for a thread that takes it; the end comes last, and stays."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: SourceFrame | None = None
        self._error: Exception | None = None
        self.ended = False

    def put(self, frame: SourceFrame) -> None:
        """Replace the frame, whether or not it was taken."""
        with self._changed:
            self._frame = frame
            self._changed.notify()

    def end(self, error: Exception | None = None) -> None:
        """End :meth:`take`. Only the first end counts."""
        with self._changed:
            if not self.ended:
                self.ended, self._error = True, error
            self._changed.notify()

    def take(self) -> SourceFrame | None:
        """Wait for a frame that was not taken yet; None at the end. Raises the error that it ended with."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self.ended)
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame


class _Pace:
    """Holds frames of a recording back until they are due. Whoever takes them too slowly delays all that follow."""

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed
        self._begin: float | None = None  # when the recording's time 0 was

    def wait(self, moment: float) -> bool:
        """Wait until the recording has come to ``moment``, in seconds; False once it is closed."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = now - moment
        self._begin += max(0.0, now - (self._begin + moment) - _BEHIND)
        return not self._closed.wait(max(0.0, self._begin + moment - now))


class VideoFile(Source):
    """A video file, played at its own rate. A frame counts as taken when it is due."""

    def __init__(self, path: str, *, loop: bool) -> None:
        """``loop``: start again at the end."""
        super().__init__(path, Kind.VIDEO)
        self._path = path
        self._loop = loop

    def frames(self, warn: Callable[[str], None]) -> Iterator[SourceFrame]:
        """Yield the frames when they are due; a damaged one goes to ``warn``. Raises SourceError."""
        pace = _Pace(self._closed)
        played = 0.0  # seconds
        while not self._closed.is_set():
            length = 0.0
            check_source(self._path, Kind.VIDEO)
            for frame, begins, ends in self._play(warn):
                if not pace.wait(played + begins):
                    return
                length = ends
                yield _source_frame(frame, time.monotonic())
            if not length:
                raise SourceError(f"The file {self.name} has no images that can be read.")
            if not self._loop:
                return
            played += length

    def _play(self, warn: Callable[[str], None]) -> Iterator[tuple[Any, float, float]]:
        """Yield every frame with the seconds at which it begins and ends, the first at 0."""
        try:
            with av.open(f"file:{self._path}") as container:
                stream = _video_of(container, self.name)
                stream.thread_type = "AUTO"
                interval = 1.0 / float(stream.average_rate or 25)
                first, last = None, -interval
                for packet in container.demux(stream):
                    for frame in _decoded(packet, warn):
                        moment = frame.time if frame.time is not None else last + interval + (first or 0.0)
                        first = moment if first is None else first
                        last = max(moment - first, last)
                        yield frame, last, last + interval
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"The file {self.name} cannot be read as a video: {reason_of(error)}.") from error


class _Live(Source):
    """What goes on whether or not it is read. A thread reads it, so that frames nobody had time for are replaced."""

    def __init__(self, name: str, kind: Kind) -> None:
        super().__init__(name, kind)
        self._newest = _Newest()

    def frames(self, warn: Callable[[str], None]) -> Iterator[SourceFrame]:
        """Yield the newest frame, each once. Raises SourceError."""
        self._newest = newest = _Newest()
        if self._closed.is_set():
            return
        threading.Thread(target=self._read, args=(newest, warn), name="reader", daemon=True).start()
        try:
            while (frame := newest.take()) is not None:
                yield frame
        finally:
            newest.end()

    def close(self) -> None:
        """End :meth:`frames`. The thread that reads ends when the next packet comes, or none for some seconds."""
        super().close()
        self._newest.end()

    @abstractmethod
    def _open(self) -> Any:
        """Return an open container of PyAV's."""

    @abstractmethod
    def _clock(self, container: Any) -> Callable[[float, float], float | None]:
        """Return what says when a frame was taken, by its stamp and its arrival, as ArrivalClock.captured does."""

    def _read(self, newest: _Newest, warn: Callable[[str], None]) -> None:
        try:
            with self._open() as container:
                self._read_packets(container, newest, warn)
            newest.end(SourceError(f"{self.name} has ended."))
        except (av.FFmpegError, OSError) as error:
            newest.end(SourceError(f"{self.name} cannot be read: {reason_of(error)}."))
        except Exception as error:  # noqa: BLE001 a thread that died silently would be waited for; take() raises it
            newest.end(error)

    def _read_packets(self, container: Any, newest: _Newest, warn: Callable[[str], None]) -> None:
        stream = _video_of(container, self.name)
        if container.format.name.startswith(_RECORDED):
            self._read_recording(container, stream, newest, warn)
            return
        stream.thread_type = "SLICE"  # threads with a frame each would hold frames back
        is_jpeg = stream.codec_context.name == "mjpeg"
        captured_at = self._clock(container)
        skipping = False
        for packet in container.demux(stream):
            arrived = time.monotonic()
            if newest.ended:
                return
            if not packet.size:  # the last one
                continue
            pts = packet.pts if packet.pts is not None else packet.dts
            captured = arrived if pts is None else captured_at(float(pts * packet.time_base), arrived)
            late = captured is not None and arrived - captured > _BEHIND
            if is_jpeg:
                if captured is not None and not late:
                    newest.put(_jpeg_frame(bytes(packet), captured, stream))
                continue
            skipping = late or (skipping and not packet.is_keyframe)
            if skipping:
                continue
            for frame in _decoded(packet, warn):
                taken = captured_at(frame.time, arrived) if frame.time is not None else captured
                if taken is not None and captured is not None:
                    newest.put(_source_frame(frame, taken))

    def _read_recording(self, container: Any, stream: Any, newest: _Newest, warn: Callable[[str], None]) -> None:
        pace = _Pace(self._closed)
        for packet in container.demux(stream):
            for frame in _decoded(packet, warn):
                if newest.ended or not pace.wait(frame.time or 0.0):
                    return
                newest.put(_source_frame(frame, time.monotonic()))


class Stream(_Live):
    """A network stream: RTSP, HTTP with JPEG, or whatever else FFmpeg reads. See ArrivalClock for a frame's time.

    A recording, HLS or a video file on a server, is played at its rate; a frame of it counts as taken when it is due.
    """

    def __init__(self, address: str) -> None:
        super().__init__(without_password(address), Kind.STREAM)
        self._address = address

    def _open(self) -> Any:
        # Over TCP, where nothing gets lost, unless the server has UDP alone; no sound.
        options = {"rtsp_flags": "prefer_tcp", "allowed_media_types": "video"}
        is_rtsp = self._address.startswith(("rtsp://", "rtsps://"))
        return av.open(self._address, options=options if is_rtsp else {}, timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT))

    def _clock(self, container: Any) -> Callable[[float, float], float | None]:
        if container.format.name in _WITHOUT_TIMES:
            return lambda _stamp, arrived: arrived
        return ArrivalClock().captured


class Device(_Live):
    """A webcam (Video4Linux), in JPEG where it can. A frame counts as taken when the kernel says."""

    def __init__(self, path: str) -> None:
        super().__init__(path, Kind.DEVICE)

    def _open(self) -> Any:
        check_source(self.name, Kind.DEVICE)
        options = {"timestamps": "abs"}  # by the system's clock
        timeout = (_OPEN_TIMEOUT, _READ_TIMEOUT)
        with contextlib.suppress(av.FFmpegError, OSError):
            return av.open(self.name, format="v4l2", options=options | {"input_format": "mjpeg"}, timeout=timeout)
        return av.open(self.name, format="v4l2", options=options, timeout=timeout)

    def _clock(self, container: Any) -> Callable[[float, float], float | None]:  # noqa: ARG002
        def captured(stamp: float, arrived: float) -> float:
            age = time.time() - stamp - (time.monotonic() - arrived)
            return arrived - age if 0.0 <= age < 60.0 else arrived  # a driver may have a clock of its own

        return captured


def _video_of(container: Any, name: str) -> Any:
    if not container.streams.video:
        raise SourceError(f"{name} has no video in it.")
    return container.streams.video[0]


def _decoded(packet: Any, warn: Callable[[str], None]) -> list[Any]:
    try:
        return list(packet.decode())
    except av.FFmpegError as error:
        warn(f"Left out: an image that cannot be decoded ({reason_of(error)}).")
        return []


def _source_frame(frame: Any, captured: float) -> SourceFrame:
    size = (frame.height, frame.width) if turns_of(frame) % 2 else (frame.width, frame.height)
    return SourceFrame(captured, size, lambda: upright(frame))


def _jpeg_frame(data: bytes, captured: float, stream: Any) -> SourceFrame:
    size = (stream.codec_context.width, stream.codec_context.height)
    return SourceFrame(captured, size, lambda: decode_file(data, "An image of the stream"), data, "jpeg")
