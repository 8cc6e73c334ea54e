"""Which frames of a camera's history make a clip, whatever was kept and whatever is asked for."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import Image

from qwen3vl_ros.engines.base import Cancel, ImageInput
from qwen3vl_ros.prompts.clip import ClipPick, ClipRequest
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.compressed import decode
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vlm import camera_clip as clip_module
from qwen3vl_ros.vlm.camera_clip import CameraClip, camera_clip
from qwen3vl_ros.vlm.frame_source import NoFrame
from qwen3vl_ros.vlm.history import History, kept_frame
from qwen3vl_ros.vlm.images import _fitted_reduced
from qwen3vl_ros.vlm.storage_parameters import History as HistorySettings

SECOND = 1_000_000_000


class FakeCamera:
    """A camera with a history, whose newest frame is of ``now``; also its recorder. A frame is its stamp."""

    name, topic, period = "", "/image", 0.5
    comes: float | None = None

    def __init__(self, kept: list[float], now: float | None, **limits: Any) -> None:
        self.settings = HistorySettings(**limits)
        self.history = History(self.settings.seconds, self.settings.megabytes)
        self.now = now
        self.behind = 0
        self.frames = self
        for at in kept:
            self.keep(self, round(at * SECOND))

    def keep(self, _: Any, stamp: int) -> Any:
        pixels = np.full((16, 16), stamp // SECOND % 256, np.uint8)
        image = Image(width=16, height=16, encoding="mono8", step=16, data=pixels.tobytes())
        frame = kept_frame(image, stamp, 1280)
        self.history.add(frame)
        return frame

    def held(self, _: str) -> Any:
        return contextlib.nullcontext()

    def problem(self, _: str) -> str:
        return ""

    def newest(self) -> int | None:
        return None if self.now is None else round(self.now * SECOND)

    def stamp_of(self, frame: int) -> int:
        return frame

    def moment(self, frame: int) -> int:
        return frame + self.behind

    def age(self, _: int) -> float:
        return 0.0

    def wait(self, not_before: int, max_age: float, deadline: float, cancel: Cancel) -> int | None:
        if self.now is None or self.now * SECOND + self.behind < not_before:
            if self.comes is None:
                raise NoFrame("the camera is off")
            self.now, self.comes = self.comes, None
            assert self.now * SECOND + self.behind >= not_before
        return round(self.now * SECOND)


def clip_of(
    camera: Any,
    duration: float,
    *,
    end: float = 0.0,
    frames: int = 8,
    pick: ClipPick = "even",
    not_before: float = 0.0,
    patience: float = 0.0,
) -> CameraClip:
    """Ask for a clip, which is waited for ``patience`` seconds."""
    clip = ClipRequest(frames, duration, round(end * SECOND), pick)
    request = AskRequest("What happened?", clip=clip, not_before=round(not_before * SECOND))
    job: Any = SimpleNamespace(cancellation=Cancel(), deadline=float("inf"), doing="")
    found = camera_clip(camera, clip, request, camera, time.monotonic() + patience, job)
    assert found is not None
    return found


def times(clip: CameraClip) -> list[float]:
    return [frame.stamp / SECOND for frame in clip.frames]


@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=60, unique=True).map(sorted),
    st.floats(0.1, 60.0),
    st.integers(0, 420),
    st.integers(1, 12),
    st.sampled_from(["even", "change"]),
)
def test_no_frame_is_older_than_the_clip_or_after_its_end(
    kept: list[int], duration: float, end: int, frames: int, pick: ClipPick
) -> None:
    camera = FakeCamera([at / 4 for at in kept], kept[-1] / 4 + 0.25, seconds=1000.0)
    stop = end / 4 or kept[-1] / 4 + 0.25
    try:
        found = times(clip_of(camera, duration, end=end / 4, frames=frames, pick=pick))
    except NoFrame:
        inside = [at for at in kept if stop - duration <= at / 4 <= stop]
        assert len(inside) < 2 or end > kept[-1] or stop - inside[-1] / 4 > 2.0
        return
    assert found == sorted(set(found))
    assert 1 <= len(found) <= frames
    assert stop - duration - 1e-6 <= found[0] <= found[-1] <= stop


def test_a_clip_that_ends_now_ends_with_the_newest_frame() -> None:
    clip = clip_of(FakeCamera([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0], 4.25), 2.0, frames=3)
    assert times(clip) == [2.5, 3.5, 4.25]
    assert clip.newest == 4.25 * SECOND
    assert not clip.notes


def test_the_last_frame_of_a_clip_is_taken_when_the_others_have_been_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of large frames takes a second, and depth images are kept for a third of one."""
    done: list[str] = []

    class Camera(FakeCamera):
        def wait(self, *arguments: Any) -> int | None:
            done.append("take")
            return super().wait(*arguments)

    small = clip_module._small
    monkeypatch.setattr(clip_module, "_small", lambda frame: done.append("look") or small(frame))
    clip_of(Camera([float(at) for at in range(1, 41)], 41.0), 40.0, pick="change")
    assert done == ["take", *["look"] * 40, "take", "look"]


def test_a_clip_of_the_past_has_the_frames_of_that_time() -> None:
    clip = clip_of(FakeCamera([at / 2 for at in range(2, 40)], 20.0), 2.0, end=10.2)
    assert times(clip) == [8.5, 9.0, 9.5, 10.0]
    assert clip.newest is None


def test_a_camera_of_another_clock_has_clips_by_that_clock_and_not_before_by_that_of_the_node() -> None:
    """With age_by: arrival; its stamps count from when it was switched on."""
    camera = FakeCamera([1.0, 2.0, 3.0, 4.0], 5.0)
    camera.behind, camera.comes = 1_700_000_000 * SECOND, 6.5
    assert times(clip_of(camera, 10.0, not_before=1_700_000_002.5)) == [3.0, 4.0, 5.0]
    assert times(clip_of(camera, 2.5, end=6.0, patience=60.0)) == [4.0, 5.0]
    assert camera.now == 6.5  # it waited for the end


def test_not_before_cuts_a_clip() -> None:
    clip = clip_of(FakeCamera([1.0, 2.0, 3.0, 4.0], 5.0), 10.0, not_before=2.5)
    assert times(clip) == [3.0, 4.0, 5.0]
    assert clip.notes == ("the clip has 2.0 s of the 10 s: the others are from before not_before",)


def test_a_clip_that_the_history_does_not_cover_says_what_it_has() -> None:
    for limits, duration, why in (
        ({}, 10.0, "history.always"),
        ({"seconds": 4.0}, 10.0, "history.seconds is 4"),
        ({"megabytes": 0.002}, 10.0, "history.megabytes is 0.002"),
    ):
        (note,) = clip_of(FakeCamera([at / 2 for at in range(10, 20)], 10.0, **limits), duration).notes
        assert " s of the 10 s: " in note
        assert why in note


@pytest.mark.parametrize(
    ("camera", "arguments", "words"),
    [
        (FakeCamera([10.0, 11.0], 12.0), {"end": 5.0}, ["5.000 s", "10.000 s", "11.000 s"]),
        (FakeCamera([10.0, 11.0], 12.0), {"end": 500.0}, ["500.000 s", "10.000 s", "11.000 s", "future"]),
        (FakeCamera([10.0, 11.0], None), {"end": 12.0}, ["12.000 s", "10.000 s", "the camera is off"]),
        (FakeCamera([10.0, 30.0], 30.0), {"end": 20.0, "duration": 30.0}, ["10.000 s", "20.000 s", "sent none"]),
        (FakeCamera([10.0, 11.0], 12.0), {"end": 11.2, "duration": 0.4}, ["single frame", "history.rate"]),
        (FakeCamera([10.0, 30.0], 30.0), {"end": 20.0}, ["from 19.000 s to 20.000 s", "10.000 s", "30.000 s"]),
        (FakeCamera([], None), {}, ["the camera is off"]),
        (FakeCamera([], None), {"end": 5.0}, ["5.000 s", "no frame on /image is kept yet"]),
    ],
)
def test_a_clip_that_there_is_not_is_no_frame_with_the_times_that_there_are(
    camera: FakeCamera, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(NoFrame) as refused:
        clip_of(camera, **{"duration": 1.0, **arguments})
    for word in words:
        assert word in str(refused.value)


@given(
    st.integers(300, 600),
    st.integers(300, 600),
    st.sampled_from([0, 90, 180, 270]),
    st.sampled_from(
        [ImageInput(32, 80), ImageInput(32, size=(448, 448)), ImageInput(28, size=(448, 320), fit="cover")]
    ),
    st.floats(0.4, 0.6),
    st.floats(0.4, 0.6),
)
@settings(deadline=None, max_examples=50)
def test_places_in_a_reduced_frame_are_in_pixels_of_the_published_one(
    width: int, height: int, rotation: Any, wanted: ImageInput, x: float, y: float
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    column, row, half = round(x * width), round(y * height), 24
    pixels[row - half : row + half, column - half : column + half] = 255
    kept = kept_frame(image_message(pixels), SECOND, 160)
    assert kept.size == (width, height)
    fitted, fit = _fitted_reduced(decode(kept.message()), kept.size, wanted, rotation)
    assert fitted.shape == fit_image(pixels, wanted, rotation)[0].shape
    assert fit.original_size == (width, height)
    rows, columns = np.nonzero(fitted[:, :, 0] > 127)
    found = fit.to_original(columns.mean() + 0.5, rows.mean() + 0.5)
    assert found == pytest.approx((column, row), abs=4.0)  # a pixel of the reduced frame
