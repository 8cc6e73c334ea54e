"""`qwen3vl-ros ask` about video files and bags: what reaches the node, and options that contradict each other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")
pytest.importorskip("rosbags", reason="rosbags, which reads bags, is not installed here")

import videos
from bags import BEGIN, header, nanoseconds, write_bag
from qwen3vl_ros.cli.main import main
from qwen3vl_ros.vision.image_message import image_message
from scripted_vlm import WAIT, ScriptedVlm

pytest_plugins = ["scripted_fixtures"]
pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 s of a video; every 0.1 s it is a little brighter."""
    images = ((100 * number, videos.grey(20 + 2 * number)) for number in range(100))
    return videos.write_timed(tmp_path_factory.mktemp("videos") / "street.mp4", images)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def messages() -> Iterator[tuple[str, int, object]]:
        for number in range(100):
            time = BEGIN + number * 100_000_000
            yield "/camera/image_raw", time + 5_000_000, image_message(videos.grey(number), header(time))

    return write_bag(tmp_path_factory.mktemp("bags") / "street", messages())


def ask(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit status of `ask`, and what it says on stderr."""
    status = main(["ask", "What happened?", "--wait", str(WAIT), *words])
    return status, capfd.readouterr().err


def brightness(jpeg: bytes) -> int:
    return videos.level_of(np.asarray(PIL.Image.open(io.BytesIO(jpeg)).convert("RGB")))


@pytest.mark.ros
def test_a_part_of_a_video_reaches_the_node_as_a_clip_with_its_times(
    scripted: ScriptedVlm, street: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--video", str(street), "--from", "2.5", "--to", "0:08", "--clip-frames", "5")
    status, told = ask(capfd, *words)
    assert status == 0, told
    goal = scripted.goals[0].request
    assert (goal.images_are_clip, goal.clip_frames, list(goal.images)) == (True, 5, [])
    times = [nanoseconds(image) / 1e9 for image in goal.compressed_images]
    assert times == [2.5, 3.9, 5.2, 6.6, 8.0]
    for time, image in zip(times, goal.compressed_images, strict=True):
        assert image.format == "jpeg"
        assert abs(brightness(bytes(image.data)) - (20 + 20 * time)) <= 3
    assert f"5 frames of {street}, from 2.5 s to 8 s. Times in the words of the answer count from the first" in told


@pytest.mark.ros
def test_a_single_moment_of_a_file_is_an_ordinary_image(
    scripted: ScriptedVlm, street: Path, bag: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(capfd, "--video", str(street), "--at", "4.05")[0] == 0
    stamp = f"{BEGIN // 10**9 + 4}.100000000"
    assert ask(capfd, "--bag", str(bag), "--at", stamp)[0] == 0
    for goal, time in ((scripted.goals[0].request, 4_000_000_000), (scripted.goals[1].request, BEGIN + 4_100_000_000)):
        assert (goal.images_are_clip, goal.clip_frames, len(goal.images)) == (False, 0, 1)
        assert nanoseconds(goal.images[0]) == time
        assert (goal.images[0].width, goal.images[0].height, goal.images[0].encoding) == (64, 48, "rgb8")
    assert set(scripted.goals[1].request.images[0].data) == {41}


@pytest.mark.ros
def test_a_bag_reaches_the_node_as_a_clip_with_the_stamps_of_its_images(
    scripted: ScriptedVlm, bag: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, told = ask(capfd, "--bag", str(bag), "--topic", "/camera/image_raw", "--from", "5")
    assert status == 0, told
    goal = scripted.goals[0].request
    assert (goal.images_are_clip, goal.clip_frames) == (True, 8)
    numbers = [(nanoseconds(image) - BEGIN) // 100_000_000 for image in goal.compressed_images]
    assert numbers == [50, 57, 64, 71, 78, 85, 92, 99]
    assert {image.header.frame_id for image in goal.compressed_images} == {"camera_optical"}
    assert [brightness(bytes(image.data)) for image in goal.compressed_images] == numbers


def test_a_file_that_cannot_be_read_is_a_sentence_and_nothing_is_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.mp4").write_text("hello")
    for words, sentence in (
        (("--video", "/nowhere.mp4"), "BAD_IMAGE: There is no video file /nowhere.mp4."),
        (("--video", str(tmp_path / "notes.mp4")), "cannot be read as a video"),
        (("--bag", str(tmp_path)), "cannot be read as a bag"),
    ):
        status, told = ask(capfd, *words)
        assert status == 2
        assert sentence in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--video a.mp4 --bag b", "--video and --bag exclude each other"),
        ("--video a.mp4 --camera front", "--camera and a file exclude each other"),
        ("--bag b --image x.png", "--image and a file exclude each other"),
        ("--video a.mp4 --text-only", "--text-only and a file exclude each other"),
        ("--video a.mp4 --topic /i", "--topic is of a --bag"),
        ("--video a.mp4 --at 2 --from 1", "--at is a single image"),
        ("--bag b --at 2 --clip-frames 4", "--at is a single image"),
        ("--video a.mp4 --from 3 --to 2", "--from is after --to"),
        ("--from 3", "--from is for --video or --bag: name a file"),
        ("--topic /i", "--topic is for --video or --bag"),
        ("--video a.mp4 --from soon", "'soon' is no time: write seconds (2.5), or minutes and seconds (1:02.5)"),
        ("--video a.mp4 --from -1", "is needed|expected one argument|is no time"),
        ("--video a.mp4 --clip-frames 769", "--clip-frames is a number from 1 to 768"),
        ("--video a.mp4 --clip 4", "--clip and a file exclude each other"),
        ("--video a.mp4 --clip-pick change", "--clip-pick and a file exclude each other"),
        ("--clip-frames 4", "--clip-frames is for --video or --bag: name a file, or ask about a camera's"),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_name(
    words: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ask", "What?", *words.split()])
    assert ended.value.code == 2
    told = capfd.readouterr().err
    assert any(part in told for part in sentence.split("|")), told
