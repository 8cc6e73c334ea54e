"""Images out of video files and bags, as a behaviour gets them from `qwen3vl_ros.client`. No ROS graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")
pytest.importorskip("rosbags", reason="rosbags, which reads bags, is not installed here")

import videos
from bags import BEGIN, header, nanoseconds, write_bag
from qwen3vl_ros.client import BadImage, BadRequest, clip_of_bag, clip_of_video, frame_of_video, image_of_bag
from qwen3vl_ros.client.goal import build_goal
from qwen3vl_ros.vision.compressed import pixels_of
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.jpeg import jpeg_of


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = ((100 * number, videos.grey(20 + 2 * number)) for number in range(50))
    return videos.write_timed(tmp_path_factory.mktemp("videos") / "street.mp4", images)


def test_a_clip_is_what_a_goal_takes_for_one(street: Path) -> None:
    clip = clip_of_video(street, start=1, end=2.0, frames=3)
    goal = build_goal("What?", images=clip, images_are_clip=True, clip_frames=len(clip))
    assert (goal.images_are_clip, goal.clip_frames, goal.compressed_images) == (True, 3, clip)
    assert [nanoseconds(image) for image in clip] == [10**9, 15 * 10**8, 2 * 10**9]
    assert frame_of_video(street, 2.35).header.stamp == Time(sec=2, nanosec=300_000_000)


def large(time: int) -> Image:
    return image_message(videos.grey(80, 1600, 900), header(time))


def small_jpeg(time: int) -> CompressedImage:
    return CompressedImage(header=header(time), format="jpeg", data=jpeg_of(videos.grey(90)))


@pytest.mark.parametrize(("make", "size"), [(large, (1280, 720)), (small_jpeg, (64, 48))])
def test_images_of_a_bag_are_made_small_for_a_clip_where_they_are_large(make: Any, size: Any, tmp_path: Path) -> None:
    times = [BEGIN + number * 10**9 for number in range(3)]
    bag = write_bag(tmp_path / "bag", (("/camera", time, make(time)) for time in times))
    clip = clip_of_bag(bag, start=1.0)
    assert [image.header for image in clip] == [header(time) for time in times[1:]]
    assert [pixels_of(image).shape[1::-1] for image in clip] == [size] * 2
    single = image_of_bag(bag, time=Time(sec=times[1] // 10**9))
    assert single == make(times[1])
    if make is small_jpeg:
        assert clip == [make(time) for time in times[1:]]


def test_an_image_of_a_bag_that_cannot_be_decoded_is_a_sentence(tmp_path: Path) -> None:
    broken = Image(header=header(BEGIN), height=4, width=4, encoding="rgb8", step=12, data=bytes(5))
    bag = write_bag(tmp_path / "bag", [("/camera", BEGIN, broken)])
    with pytest.raises(BadImage, match=r"rgb8 image of 4x4 pixels needs 48 bytes"):
        clip_of_bag(bag)


def test_numbers_that_make_no_sense_are_refused(street: Path) -> None:
    for start, end, frames, sentence in (
        (-1.0, None, 8, r"start is a number of seconds, zero or more, got -1"),
        (float("nan"), None, 8, r"start is a number of seconds"),
        (2.0, 1.0, 8, r"the part from 2 s to 1 s ends before it begins"),
        (0.0, None, 0, r"frames is a whole number from 1 to 768, got 0"),
        (0.0, None, 2.5, r"frames is a whole number from 1 to 768, got 2.5"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            clip_of_video(street, start=start, end=end, frames=frames)  # type: ignore[arg-type]
    with pytest.raises(BadImage, match=r"no frame at 9 s"):
        frame_of_video(street, 9)


def test_what_is_not_installed_is_named(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rosbags.rosbag2", "av"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("video_clip", "video_file"):
        monkeypatch.delitem(sys.modules, f"qwen3vl_ros.vision.{name}", raising=False)
    with pytest.raises(BadImage, match=r"needs rosbags to be read: pip install rosbags"):
        clip_of_bag(tmp_path)
    with pytest.raises(BadImage, match=r"a video needs av to be read: pip install av"):
        clip_of_video(street)
