"""What the node `camera` promises of a video, a stream or a folder: real processes, real DDS, a real server."""

from __future__ import annotations

import itertools
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

import child_process
import videos
from camera_viewer import PATIENCE, Viewer, pixels, seconds
from qwen3vl_ros.vision.compressed import decode_file
from ros_client import SENSOR_DATA, RosClient
from rtsp_server import RtspServer, need_gstreamer
from stream_clock import read_time
from vlm_process import VlmProcess, shared_memory

pytestmark = pytest.mark.ros

HERE = Path(__file__).parent
V4L2_DOUBLE = HERE.parent / "support" / "v4l2_double.c"
GAZEBO_FRAME = HERE.parent / "support" / "data" / "gazebo_frames" / "0000.jpg"  # four objects, a blue box


class Lines:
    """What a process writes, to be waited for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, text: str) -> str:
        """The next line with ``text`` in it; None waits for the end."""
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.text += line
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}: {self.text}")

    def wait_for_end(self) -> int:
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.text += line
        return self._process.wait(PATIENCE)


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtspServer]:
    need_gstreamer()
    server = RtspServer()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes a process see a webcam at /dev/full, in LD_PRELOAD."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed (apt install gcc)")
    library = tmp_path_factory.mktemp("double") / "v4l2_double.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, V4L2_DOUBLE, "-ldl"], check=True)
    return library


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds: dark, then bright."""
    return videos.write_with_opencv(tmp_path / "clip.mp4", map(videos.grey, [40] * 20 + [200] * 20), 20.0, "mp4v")


def calibration(path: Path, width: int, height: int) -> Path:
    """As camera_calibration writes it."""
    matrix = {"camera_matrix": (3, 3, [50.0, 0, 32, 0, 51.0, 24, 0, 0, 1])}
    matrix["distortion_coefficients"] = (1, 5, [0.1, -0.2, 0.001, 0.002, 0])
    matrix["rectification_matrix"] = (3, 3, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    matrix["projection_matrix"] = (3, 4, [48.0, 0, 32, 0, 0, 49.0, 24, 0, 0, 0, 1, 0])
    content = {name: {"rows": rows, "cols": cols, "data": data} for name, (rows, cols, data) in matrix.items()}
    content |= {"image_width": width, "image_height": height, "camera_name": "c", "distortion_model": "plumb_bob"}
    path.write_text(yaml.safe_dump(content))
    return path


def of_one_moment(*topics: list[Any]) -> set[float]:
    """The stamps that a message of each of the topics has."""
    return set.intersection(*({seconds(message.header.stamp) for message in messages} for messages in topics))


def runs(levels: list[bool]) -> str:
    """Without repetitions: "101" for bright images, dark ones, and bright ones."""
    return "".join(str(int(level)) for level, _ in itertools.groupby(levels))


def run(**parameters: object) -> tuple[int, str]:
    """A camera that ends by itself: its exit status and what it says."""
    command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args")
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_looped_video_is_published_with_stamps_of_now_in_the_frame_it_is_told(viewer: Viewer, video: Path) -> None:
    images = viewer.subscribe(Image, "/camera/image_raw")
    before = viewer.node.get_clock().now().nanoseconds
    viewer.start(source=video, loop=True, frame_id="front_optical_frame")
    viewer.wait_for(lambda: "101" in runs([pixels(image).mean() > 120 for image in images]))
    stamps = [seconds(image.header.stamp) for image in images]
    assert stamps == sorted(stamps)
    assert before * 1e-9 < stamps[0] <= stamps[-1] < viewer.node.get_clock().now().nanoseconds * 1e-9
    assert {image.header.frame_id for image in images} == {"front_optical_frame"}
    assert pixels(images[0]).shape == (48, 64, 3)


def test_a_video_that_is_over_ends_the_camera_with_a_sentence(video: Path) -> None:
    status, text = run(source=video)
    assert status == 0
    assert f"{video} has come to its end, and so does the camera." in text


def test_no_more_images_come_than_were_asked_for(viewer: Viewer, video: Path) -> None:
    images = viewer.subscribe(Image, "/camera/image_raw")
    viewer.start(source=video, loop=True, rate=5.0)
    viewer.wait_for(lambda: len(images) > 10)
    stamps = [seconds(image.header.stamp) for image in images]
    assert len(stamps) - 1 <= (stamps[-1] - stamps[0]) * 5.0 + 1.0  # one may have been late


def test_jpeg_is_published_as_it_is_and_decoded_beside(viewer: Viewer, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    PIL.Image.fromarray(noise).save(file, "JPEG", quality=40)
    raw = viewer.subscribe(Image, "/camera/image_raw")
    compressed = viewer.subscribe(CompressedImage, "/camera/image_raw/compressed")
    viewer.start(source=tmp_path, period=0.1)
    viewer.wait_for(
        lambda: bool({seconds(m.header.stamp) for m in raw} & {seconds(m.header.stamp) for m in compressed})
    )
    assert bytes(compressed[-1].data) == file.read_bytes()
    assert compressed[-1].format == "jpeg"
    assert (pixels(raw[-1]) == decode_file(file.read_bytes(), "it")).all()


def test_the_calibration_goes_with_every_image(viewer: Viewer, video: Path, tmp_path: Path) -> None:
    images = viewer.subscribe(Image, "/camera/image_raw")
    infos = viewer.subscribe(CameraInfo, "/camera/camera_info")
    viewer.start(source=video, loop=True, calibration=calibration(tmp_path / "c.yaml", 64, 48))
    viewer.wait_for(lambda: len(of_one_moment(images, infos)) > 3)
    info = infos[-1]
    assert (info.width, info.height, info.distortion_model) == (64, 48, "plumb_bob")
    assert (list(info.k[:6]), list(info.d)) == ([50.0, 0, 32, 0, 51.0, 24], [0.1, -0.2, 0.001, 0.002, 0])
    assert list(info.p[:7]) == [48.0, 0, 32, 0, 0, 49.0, 24]
    assert info.header.frame_id == images[-1].header.frame_id == "camera_optical_frame"


@pytest.mark.once
def test_a_calibration_of_another_size_is_a_sentence_with_both_sizes(video: Path, tmp_path: Path) -> None:
    file = calibration(tmp_path / "c.yaml", 640, 480)
    status, text = run(source=video, calibration=file)
    assert status == 2
    assert f"images of 64x48 pixels, but the calibration {file} is of 640x480" in text


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not YAML"),
        ("image_width: 64", "it lacks 'image_height'"),
        ("[1, 2]", "is no calibration as camera_calibration writes it"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_a_sentence(
    video: Path, tmp_path: Path, content: str | None, sentence: str
) -> None:
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_text(content)
    status, text = run(source=video, calibration=file)
    assert status == 2
    assert f" {file} " in text and sentence in text


@pytest.mark.once
def test_what_is_no_source_is_a_sentence_and_wrong_usage(tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.mp4", tmp_path / "empty"
    broken.write_bytes(b"no video" * 100)
    empty.mkdir()
    for source, sentence in (
        ("/nowhere/clip.mp4", "There is no video file /nowhere/clip.mp4."),
        (broken, f"{broken} cannot be read as a video: Invalid data"),
        ("/dev/video77", "There is no video device /dev/video77; "),
        (empty, f"The folder {empty} has no images"),
    ):
        status, text = run(source=source)
        assert (status, sentence in text) == (2, True), text


def test_a_parameter_without_effect_is_a_warning(viewer: Viewer, video: Path) -> None:
    lines = Lines(viewer.start(source=video, loop=True, world="/x.sdf"))
    assert "the parameter world has no effect" in lines.wait_for("WARN")


def test_a_stream_whose_server_comes_later_and_comes_back_is_found_again(viewer: Viewer, server: RtspServer) -> None:
    images = viewer.subscribe(Image, "/camera/image_raw")
    compressed = viewer.subscribe(CompressedImage, "/camera/image_raw/compressed")
    address = server.address("clock").replace("rtsp://", "rtsp://me:secret@")
    lines = Lines(viewer.start(source=address))
    assert "cannot be read: Connection refused. The next try is in 1 s." in lines.wait_for("The next try is in")
    assert "The next try is in 2 s." in lines.wait_for("The next try is in")
    server.start()
    lines.wait_for("Images of rtsp://me:***@127.0.0.1")
    viewer.wait_for(lambda: len(images) > 3 and len(compressed) > 3)
    server.kill()
    assert "The next try is in 1 s." in lines.wait_for("The next try is in")
    images.clear()
    server.start()
    lines.wait_for("come again, after")
    viewer.wait_for(lambda: len(images) > 3)
    apart = time.time() - time.monotonic()  # of the clock of stamps and the one that the images show
    late = [seconds(image.header.stamp) - apart - read_time(pixels(image)) for image in images]
    assert -0.01 < min(late) <= max(late) < 0.3
    assert "secret" not in lines.text


def test_a_webcam_is_stamped_when_the_kernel_says(
    viewer: Viewer, double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = viewer.subscribe(Image, "/camera/image_raw")
    monkeypatch.setenv("LD_PRELOAD", str(double))
    viewer.start(source="/dev/full")
    viewer.wait_for(lambda: len(images) > 10)
    apart = time.time() - time.monotonic()  # of the clock of stamps and the one that the images show
    late = [seconds(image.header.stamp) - apart - read_time(pixels(image)) for image in images]
    assert np.abs(late).max() < 0.01, "an image arrives 20 ms after it was taken, and later on a busy machine"


def test_a_webcam_sends_jpeg_where_it_can_and_is_found_again_when_it_was_unplugged(
    viewer: Viewer, double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg, unplugged = tmp_path / "a.jpg", tmp_path / "unplugged"
    PIL.Image.fromarray(videos.grey(90, 512, 64)).save(jpeg)
    compressed = viewer.subscribe(CompressedImage, "/camera/image_raw/compressed")
    monkeypatch.setenv("LD_PRELOAD", str(double))
    monkeypatch.setenv("DOUBLE_JPEG", str(jpeg))
    monkeypatch.setenv("DOUBLE_UNPLUGGED", str(unplugged))
    lines = Lines(viewer.start(source="/dev/full"))
    lines.wait_for("Images of /dev/full, 512x64, on /camera/image_raw, jpeg also on")
    viewer.wait_for(lambda: len(compressed) > 3)
    assert {bytes(image.data) for image in compressed} == {jpeg.read_bytes()}
    unplugged.touch()
    assert "/dev/full cannot be read: No such device. The next try" in lines.wait_for("The next try")
    unplugged.unlink()
    lines.wait_for("Images of /dev/full come again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(viewer: Viewer, video: Path, number: int) -> None:
    before = set(Path("/dev/shm").iterdir())
    images = viewer.subscribe(Image, "/camera/image_raw")
    camera = viewer.start(source=video, loop=True)
    viewer.wait_for(lambda: bool(images))
    used = shared_memory(camera.pid) - before
    camera.send_signal(number)
    output, _ = camera.communicate(timeout=PATIENCE)
    assert camera.returncode == 0, output
    assert "Traceback" not in output
    assert used and not [path for path in used if path.exists()], "it left shared memory behind"


def test_a_signal_ends_it_cleanly_while_it_waits_for_a_stream(viewer: Viewer, server: RtspServer) -> None:
    for frozen in (False, True):
        if frozen:
            server.start()
        lines = Lines(camera := viewer.start(source=server.address("clock")))
        lines.wait_for("Images of" if frozen else "The next try is in")
        if frozen:
            server.freeze()
        camera.send_signal(signal.SIGINT)
        assert lines.wait_for_end() == 0
        assert "Traceback" not in lines.text
    server.kill()


def test_the_node_answers_about_a_video(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], viewer: Viewer, tmp_path: Path
) -> None:
    with PIL.Image.open(GAZEBO_FRAME) as image:
        frame = np.array(image.convert("RGB"))
    video = videos.write_h264(tmp_path / "table.mp4", [frame] * 10, 5)
    start_vlm().wait_connected()
    viewer.start("-r", "~/image_raw:=/image", source=video, loop=True)
    with ros.listen(Image, "/image", SENSOR_DATA) as frames:
        stamp = frames.wait_for().header.stamp
    result = ros.ask("What colour is the box?", not_before=stamp).result()
    assert (result.error_code, result.text.strip()) == (result.NONE, "blue"), result.error_msg
