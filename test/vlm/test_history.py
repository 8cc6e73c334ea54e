"""The history of a camera: what is kept, for how long, in how many bytes, and when anything is kept at all."""

from __future__ import annotations

import contextlib
import io
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.compressed import decode
from qwen3vl_ros.vlm.history import History, KeptFrame, kept_frame
from qwen3vl_ros.vlm.history_recorder import HistoryRecorder
from qwen3vl_ros.vlm.image_view import image_view
from qwen3vl_ros.vlm.storage_parameters import History as HistorySettings

SECOND = 1_000_000_000
PATIENCE = 60.0


def kept(seconds: float, size: int = 1000) -> KeptFrame:
    return KeptFrame(round(seconds * SECOND), Header(), bytes(size), "jpeg", None)


def jpeg(width: int, height: int, level: int = 100, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (level, level, level)).save(file, "JPEG", **options)
    return file.getvalue()


# --- the ring ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 400_000)), max_size=200))
def test_a_history_is_never_longer_or_larger_than_its_limits(steps: list[tuple[float, int]]) -> None:
    history, at = History(seconds=10.0, megabytes=1.0), 0.0
    sizes: dict[int, int] = {}
    for step, size in steps:
        at += step
        frame = kept(at, size)
        if history.add(frame):
            sizes[frame.stamp] = size
        span = history.span
        assert span.size <= 1_000_000
        assert span.seconds <= 10.0
        frames = history.between(0, frame.stamp)
        assert [one.stamp for one in frames] == sorted(sizes)[len(sizes) - len(frames) :]  # the newest, without a gap
        assert (span.frames, span.size) == (len(frames), sum(len(one.jpeg) for one in frames))


def test_memory_is_flat_over_ten_thousand_frames() -> None:
    """Of a camera's messages, which become JPEGs; what is allocated counts, not what the history says of itself."""
    history = History(seconds=60.0, megabytes=64.0)
    noise = np.random.default_rng(0).integers(0, 255, (8, 24, 32, 3), np.uint8)
    images = [Image(width=32, height=24, encoding="rgb8", step=96, data=pixels.tobytes()) for pixels in noise]
    sizes, allocated = set(), []
    tracemalloc.start()
    try:
        for number in range(10_000):
            history.add(kept_frame(images[number % len(images)], number * SECOND // 2, 1280))
            if number >= 1000 and number % 100 == 0:
                sizes.add(history.span.frames)
                allocated.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes == {121}
    assert allocated[0] > history.span.size > 121 * 500  # what is kept was counted
    assert max(allocated) < 1.05 * allocated[0]


def test_a_frame_that_is_kept_already_is_not_kept_twice_and_none_gets_out_of_order() -> None:
    history = History(60.0, 64.0)
    assert [history.add(kept(at)) for at in (5.0, 5.0, 4.5, 6.0)] == [True, False, False, True]
    assert [frame.stamp // SECOND for frame in history.between(0, 10 * SECOND)] == [5, 6]


def test_time_that_begins_anew_begins_a_new_history() -> None:
    """Such as a bag that is played again, or a simulation that is reset."""
    history = History(60.0, 64.0)
    for at in (100.0, 101.0, 3.0, 4.0):
        assert history.add(kept(at))
    assert (history.span.oldest, history.span.newest) == (3 * SECOND, 4 * SECOND)


def test_a_history_reaches_back_when_its_frames_do_or_when_it_holds_no_more() -> None:
    history = History(10.0, 0.1)

    def reaches_back(seconds: float, not_before: float = 0.0) -> bool:
        return history.wait_reaching_back(seconds, round(not_before * SECOND), 0.0)

    assert not reaches_back(0.0)
    for at in range(5):
        history.add(kept(at, 20_000))
    assert reaches_back(4.0)
    assert not reaches_back(4.1)
    assert reaches_back(2.0, not_before=2.0)
    assert not reaches_back(2.1, not_before=2.0)
    assert not reaches_back(0.0, not_before=4.1)
    history.add(kept(5.0, 20_000))
    assert reaches_back(60.0)  # a frame had to go
    assert not reaches_back(60.0, not_before=2.0)


# --- what is kept of a frame ------------------------------------------------------------------------------------------


def test_a_jpeg_is_kept_as_it_came_and_a_large_one_is_reduced() -> None:
    small = CompressedImage(format="rgb8; jpeg compressed bgr8", data=jpeg(64, 48))
    small.header.frame_id = "lens"
    frame = kept_frame(small, 7 * SECOND + 5, 64)
    assert (frame.jpeg, frame.format, frame.size) == (bytes(small.data), small.format, None)
    assert (frame.header.frame_id, frame.header.stamp.sec, frame.header.stamp.nanosec) == ("lens", 7, 5)
    assert frame.message() == CompressedImage(header=frame.header, format=small.format, data=small.data)

    large = kept_frame(CompressedImage(format="jpeg", data=jpeg(640, 480)), 0, 64)
    assert large.size == (640, 480)
    assert decode(large.message()).shape == (48, 64, 3)


def test_a_raw_image_and_a_png_become_jpegs() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (200, 30, 30)
    raw = Image(width=64, height=48, encoding="rgb8", step=192, data=pixels.tobytes())
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    for message in (raw, CompressedImage(format="png", data=file.getvalue())):
        frame = kept_frame(message, 0, 1280)
        assert frame.jpeg.startswith(b"\xff\xd8\xff")
        assert frame.size is None
        seen = decode(frame.message())
        assert np.abs(seen[:, 4:24].astype(int) - (200, 30, 30)).max() < 8


@given(
    st.binary(min_size=1, max_size=60),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
    st.sampled_from(["rgb8", "mono8", "16UC1", ""]),
    st.integers(-(2**31), 2**31 - 1),
)
def test_a_view_of_a_serialized_image_has_its_fields(data: bytes, frame_id: str, encoding: str, second: int) -> None:
    image = Image(height=3, width=len(data), encoding=encoding, is_bigendian=1, step=2**31, data=data)
    image.header.frame_id, image.header.stamp.sec, image.header.stamp.nanosec = frame_id, second, 999_999_999
    serialized = serialize_message(image)
    view = image_view(serialized)
    assert view is not None
    for name in ("header", "height", "width", "encoding", "is_bigendian", "step"):
        assert getattr(view, name) == getattr(image, name)
    assert bytes(view.data) == data
    assert image_view(serialized[: 4 + 30]) is None
    assert image_view(b"\x00\x07" + serialized[2:]) is None


def test_an_image_that_is_broken_or_hard_to_decode_is_not_kept() -> None:
    for message in (
        CompressedImage(format="jpeg", data=jpeg(640, 480)[:500]),
        CompressedImage(format="jpeg", data=jpeg(640, 480, progressive=True)),
        Image(width=10, height=10, encoding="rgb8", step=30, data=bytes(30)),
    ):
        with pytest.raises(BadImage):
            kept_frame(message, 0, 64)


# --- when anything is kept --------------------------------------------------------------------------------------------


class ForgetfulHistory(History):
    """Says when it was cleared."""

    def __init__(self) -> None:
        super().__init__(60.0, 64.0)
        self.cleared = threading.Event()

    def clear(self) -> None:
        super().clear()
        self.cleared.set()


class FakeCamera:
    """What a recorder uses of a camera; every look at it finds a frame that is a second younger, while it ``runs``."""

    def __init__(self) -> None:
        self.history = ForgetfulHistory()
        self.frames = self
        self.runs = True
        self.data = jpeg(16, 16)
        self.looks = 0
        self._at = 0
        self._looked = threading.Condition()

    def newest(self) -> Any:
        with self._looked:
            self.looks += 1
            self._at += self.runs
            self._looked.notify_all()
            return self

    def stamp_of(self, _: Any) -> int:
        return self._at * SECOND

    def view(self) -> CompressedImage:
        return CompressedImage(format="jpeg", data=self.data)

    def wait_looks(self, more: int) -> None:
        with self._looked:
            wanted = self.looks + more
            assert self._looked.wait_for(lambda: self.looks >= wanted, PATIENCE)


@contextlib.contextmanager
def recording(camera: Any, **settings: Any) -> Iterator[tuple[HistoryRecorder, list[str]]]:
    errors: list[str] = []
    recorder = HistoryRecorder({"": camera}, HistorySettings(rate=30.0, **settings), lambda: None, errors.append)
    try:
        yield recorder, errors
    finally:
        recorder.close()


def test_no_camera_is_looked_at_until_somebody_needs_its_history() -> None:
    camera = FakeCamera()
    with recording(camera) as (recorder, _):
        assert recorder.period == pytest.approx(1 / 30)
        assert not camera.looks
        with recorder.held(""):
            camera.wait_looks(3)
    assert camera.history.span.frames == 0
    looks = camera.looks
    assert not any(thread.name == "history" for thread in threading.enumerate())
    assert camera.looks == looks


def test_with_always_frames_are_kept_from_the_start() -> None:
    camera = FakeCamera()
    with recording(camera, always=True):
        camera.wait_looks(3)
        assert camera.history.span.frames >= 2


def test_what_nobody_needs_any_more_is_forgotten() -> None:
    camera = FakeCamera()
    with recording(camera, seconds=0.1) as (recorder, _):
        assert camera.history.cleared.wait(PATIENCE)  # nothing is needed at first
        with recorder.held(""):  # for as long as it takes
            camera.history.cleared.clear()
            camera.wait_looks(12)
            assert camera.history.span.frames > 0
            assert not camera.history.cleared.is_set()
        assert camera.history.cleared.wait(PATIENCE)
        assert not camera.history.span.frames


def test_the_frames_of_a_camera_that_nobody_needs_are_not_kept_with_those_of_another() -> None:
    cameras: dict[str, Any] = {"front": FakeCamera(), "back": FakeCamera()}
    recorder = HistoryRecorder(cameras, HistorySettings(rate=30.0, seconds=0.1), lambda: None, print)
    try:
        with recorder.held("front"):
            with recorder.held("back"):
                cameras["back"].wait_looks(3)
            cameras["back"].history.cleared.clear()
            assert cameras["back"].history.cleared.wait(PATIENCE)
            cameras["front"].wait_looks(3)
            assert cameras["front"].history.span.frames > 0
            assert not cameras["back"].history.span.frames
    finally:
        recorder.close()


def test_a_frame_that_cannot_be_kept_is_reported_once_and_the_next_one_is_kept() -> None:
    camera = FakeCamera()
    camera.data = b"no image"
    with recording(camera, always=True) as (recorder, errors):
        camera.wait_looks(4)
        assert len(errors) == 1
        assert "neither JPEG nor PNG" in errors[0]
        assert "neither JPEG nor PNG" in recorder.problem("")
        camera.data = jpeg(16, 16)
        camera.wait_looks(3)
        assert camera.history.span.frames > 0
        assert not recorder.problem("")


def test_a_camera_that_stands_still_in_time_is_kept_once() -> None:
    camera = FakeCamera()
    with recording(camera, always=True):
        camera.wait_looks(2)
        camera.runs = False
        frames = camera.history.span.frames
        camera.wait_looks(5)
        assert camera.history.span.frames <= frames + 1
