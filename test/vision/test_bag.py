"""Images out of real bags of both storages: the right ones, with their own stamps; and bags that are bad."""

from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

pytest.importorskip("rosbags", reason="rosbags, which reads bags, is not installed here")

from bags import BEGIN, header, nanoseconds, write_bag
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.bag import BagImages
from qwen3vl_ros.vision.image_message import image_message

SECOND = 1_000_000_000
LATE = 30_000_000
"""Nanoseconds from an image's stamp to its recording, about."""


def raw(time: int, level: int) -> Image:
    return image_message(np.full((4, 6, 3), level, np.uint8), header(time))


def street(topic: str = "/camera/image_raw", count: int = 100) -> Iterator[tuple[str, int, Any]]:
    """Images every 0.1 s, number n of brightness n, each recorded a little late, some later than others."""
    for number in range(count):
        time = BEGIN + number * SECOND // 10
        yield topic, time + LATE + number % 3 * 1_000_000, raw(time, number)


@pytest.fixture(scope="module", params=["mcap", "sqlite3"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("bags") / "street", street(), request.param)


def numbers(images: Iterator[Any]) -> list[int]:
    return [image.data[0] for image in images]


def test_images_come_evenly_with_the_stamps_and_frames_of_the_camera(bag: Path) -> None:
    with BagImages(bag) as images:
        assert images.topic == "/camera/image_raw"
        found = list(images.clip(images.time_of(2 * SECOND + SECOND // 2), images.time_of(8 * SECOND), 12))
    assert [image.data[0] for image in found] == [25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80]
    assert [nanoseconds(image) for image in found] == [BEGIN + image.data[0] * SECOND // 10 for image in found]
    assert {image.header.frame_id for image in found} == {"camera_optical"}
    assert found[0] == raw(BEGIN + 25 * SECOND // 10, 25)


def test_without_a_part_it_is_the_whole_bag(bag: Path) -> None:
    with BagImages(bag) as images:
        assert numbers(images.clip(None, None, 4)) == [0, 33, 66, 99]
        assert numbers(images.clip(None, None, 1000)) == list(range(100))


def test_a_single_image_is_the_last_one_until_its_time(bag: Path) -> None:
    with BagImages(bag) as images:
        for seconds, number in ((0.0, 0), (4.0, 40), (4.05, 40), (9.9, 99)):
            assert images.at(images.time_of(round(seconds * SECOND))).data[0] == number
        stamp = BEGIN + 41 * SECOND // 10
        assert images.time_of(stamp) == stamp
        assert (images.at(stamp).data[0], images.at(stamp - 1).data[0]) == (41, 40)


@given(st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=12, unique=True), st.data())
def test_whatever_the_times_all_images_of_a_part_are_found(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[int], data: st.DataObject
) -> None:
    offsets.sort()
    path = tmp_path_factory.mktemp("bags") / "some"
    write_bag(path, (("/i", BEGIN + time + LATE, raw(BEGIN + time, 0)) for time in offsets))
    start = data.draw(st.integers(0, 3_000_000_000))
    end = data.draw(st.integers(start, 3_000_000_000))
    wanted = [BEGIN + time for time in offsets if start <= time <= end]
    with BagImages(path) as images:
        try:
            found = [nanoseconds(image) for image in images.clip(BEGIN + start, BEGIN + end, 768)]
        except BadImage:
            found = []
        until = [BEGIN + time for time in offsets if time <= end]
        assert not until or nanoseconds(images.at(until[-1])) == until[-1]
    # 768 times are 4 ms apart: of two images that are nearer, one may be left out.
    assert set(found) <= set(wanted)
    assert (found[:1], found[-1:]) == (wanted[:1], wanted[-1:])
    assert all(any(abs(other - time) <= 5_000_000 for other in found) for time in wanted)


def test_an_image_without_a_stamp_has_the_time_of_its_recording(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", (("/i", BEGIN + n * SECOND, raw(0, n)) for n in range(5)))
    with BagImages(path) as images:
        found = list(images.clip(images.time_of(SECOND), None, 2))
    assert [(image.data[0], nanoseconds(image)) for image in found] == [(1, BEGIN + SECOND), (4, BEGIN + 4 * SECOND)]


def test_simulated_stamps_beside_a_recording_in_real_time_are_kept(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", (("/i", BEGIN + n * SECOND, raw((5 + n) * SECOND, n)) for n in range(60)))
    with BagImages(path) as images:
        assert [nanoseconds(image) // SECOND for image in images.clip(images.time_of(SECOND), None, 2)] == [6, 64]
        assert images.at(images.time_of(63 * SECOND)).data[0] == 58


def test_the_only_topic_with_images_is_taken_and_several_are_listed(tmp_path: Path) -> None:
    one = write_bag(tmp_path / "one", [("/talk", BEGIN, String(data="hi")), *street("/camera", 3)])
    with BagImages(one) as images:
        assert images.topic == "/camera"
    jpeg = CompressedImage(header=header(BEGIN), format="jpeg", data=array.array("B", b"\xff\xd8\xff"))
    two = write_bag(tmp_path / "two", [("/right/compressed", BEGIN, jpeg), *street("/left", 3)])
    with pytest.raises(BadImage, match=r"has images on /left, /right/compressed: name one of them with the topic"):
        BagImages(two)
    with BagImages(two, "/right/compressed") as images:
        assert list(images.clip(None, None, 8)) == [jpeg]
    with pytest.raises(BadImage, match=r"has no topic /up; topics with images: /left, /right/compressed"):
        BagImages(two, "/up")
    with pytest.raises(BadImage, match=r"holds std_msgs/msg/String on /talk, no images"):
        BagImages(one, "/talk")


def test_a_bag_without_images_is_a_sentence(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", [("/talk", BEGIN, String(data="hi"))])
    with pytest.raises(BadImage, match=r"bag has no images: no message of sensor_msgs/msg/Image"):
        BagImages(path)


def test_what_is_no_bag_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.mcap").write_bytes(b"")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "broken.db3").write_bytes(b"SQLite format 3\x00" + b"\xff" * 2000)
    for name in ("", "notes.txt", "empty.mcap", "broken.db3"):
        with pytest.raises(BadImage, match=r"cannot be read as a bag .*ros2 bag reindex"):
            BagImages(tmp_path / name)
    with pytest.raises(BadImage, match=r"is a bag of ROS 1: make one of ROS 2 with rosbags-convert"):
        BagImages(tmp_path / "old.bag")
    with pytest.raises(BadImage, match=r"There is no bag /nowhere\."):
        BagImages("/nowhere")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_of_a_bag_that_is_cut_off_comes_an_image_or_a_sentence(bag: Path, share: float, tmp_path: Path) -> None:
    file = next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    (tmp_path / file.name).write_bytes(content[: int(len(content) * share)])
    try:
        with BagImages(tmp_path / file.name) as images:
            found = numbers(images.clip(None, None, 4))
    except BadImage as error:
        sentence = str(error)
    else:
        sentence, found = "", sorted(found)
    assert sentence.startswith(f"{tmp_path / file.name} ") or found


def test_a_part_that_is_not_there_is_a_sentence_with_both_ends(bag: Path) -> None:
    with BagImages(bag) as images:
        with pytest.raises(BadImage, match=r"at 50 s; it has some from 0 s to 9\.9 s after its beginning, stamped 17"):
            images.at(images.time_of(50 * SECOND))
        with pytest.raises(BadImage, match=r"from 9\.95 s on; it has some from 0 s to 9\.9 s"):
            list(images.clip(images.time_of(9_950_000_000), None, 8))
