"""Sources of images: real files, a real RTSP server, a real HTTP server."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import av

import videos
from qwen3vl_ros.sim import video
from qwen3vl_ros.sim.sources import (
    Kind,
    Source,
    SourceError,
    SourceFrame,
    check_source,
    kind_of,
    open_source,
    without_password,
)
from qwen3vl_ros.sim.video import ArrivalClock
from rtsp_server import RtspServer, need_gstreamer
from stream_clock import read_time


def no_warning(sentence: str) -> None:
    raise AssertionError(sentence)


def jpeg(level: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(videos.grey(level)).save(file, "JPEG")
    return file.getvalue()


def first(source: Source, count: int) -> list[SourceFrame]:
    frames = list(itertools.islice(source.frames(no_warning), count))
    source.close()
    return frames


# --- what a name stands for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", Kind.DEVICE),
        ("/dev/v4l/by-id/usb-cam", Kind.DEVICE),
        ("rtsp://10.0.0.5:554/main", Kind.STREAM),
        ("http://10.0.0.5/mjpeg", Kind.STREAM),
        ("/", Kind.IMAGES),
        ("clip.mp4", Kind.VIDEO),
    ],
)
def test_a_name_says_what_kind_of_source_it_is(source: str, kind: Kind) -> None:
    assert kind_of(source) is kind


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("77", "There is no video device /dev/video77; "),
        ("/nowhere/clip.mp4", "There is no video file /nowhere/clip.mp4."),
        ("rtsp://", "rtsp:// is no address of a stream, such as rtsp://HOST/PATH."),
    ],
)
def test_what_is_not_there_is_a_sentence(source: str, sentence: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_source(source)
    assert str(caught.value).startswith(sentence)


def test_a_folder_without_images_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match=r"has no images, files that end in .jpg"):
        check_source(str(tmp_path))


def test_passwords_are_not_shown() -> None:
    assert without_password("rtsp://me:se@cr:et@10.0.0.5:554/a@b:c") == "rtsp://me:***@10.0.0.5:554/a@b:c"
    assert without_password("rtsp://10.0.0.5:554/a@b:c") == "rtsp://10.0.0.5:554/a@b:c"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v")])
def test_a_video_shows_every_image_in_order_and_no_faster_than_its_rate(tmp_path: Path, name: str, codec: str) -> None:
    levels = [20, 60, 100, 140, 180, 220]
    path = videos.write_with_opencv(tmp_path / name, map(videos.grey, levels), 10.0, codec)
    frames = list(open_source(str(path)).frames(no_warning))
    assert [videos.level_of(frame.decode()) for frame in frames] == pytest.approx(levels, abs=4)
    assert {frame.size for frame in frames} == {(64, 48)}
    since_first = np.array([frame.captured for frame in frames]) - frames[0].captured
    assert (since_first > np.arange(6) * 0.1 - 0.01).all()


def test_who_is_slow_gets_every_image_of_a_file(tmp_path: Path) -> None:
    levels = [20, 60, 100, 140, 180, 220]
    path = videos.write_with_opencv(tmp_path / "clip.mp4", map(videos.grey, levels), 50.0, "mp4v")
    seen = []
    for frame in open_source(str(path)).frames(no_warning):
        time.sleep(0.2)  # the slow one
        seen.append(videos.level_of(frame.decode()))
    assert seen == pytest.approx(levels, abs=4)


def test_a_looped_video_starts_again(tmp_path: Path) -> None:
    path = videos.write_h264(tmp_path / "clip.mp4", map(videos.grey, (40, 200)), 25)
    frames = first(open_source(str(path), loop=True), 6)
    assert [videos.level_of(frame.decode()) > 100 for frame in frames] == [False, True] * 3
    assert frames[5].captured - frames[0].captured > 5 / 25 - 0.01


def test_a_video_of_a_phone_that_was_held_upright_is_upright(tmp_path: Path) -> None:
    image = videos.grey(30)
    image[:, :16] = 220  # bright on the left
    path = videos.write_h264(tmp_path / "clip.mp4", [image] * 3, 10)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 40  # of the matrix in a track header of version 0, ISO/IEC 14496-12
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:place] + clockwise + data[place + 36 :])
    frame = first(open_source(str(path)), 1)[0]
    pixels = frame.decode()
    assert frame.size == (48, 64)
    assert pixels.shape == (64, 48, 3)
    assert pixels[:12].mean() > 190 > 60 > pixels[20:].mean(), "what was left is on top"


def test_what_is_no_video_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(bytes(1000))
    with pytest.raises(SourceError, match=r"clip.mp4 cannot be read as a video: Invalid data"):
        first(open_source(str(tmp_path / "clip.mp4")), 1)


def test_a_file_with_sound_alone_is_a_sentence(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(SourceError, match=r"sound.wav has no video in it"):
        first(open_source(str(tmp_path / "sound.wav")), 1)


def test_a_folder_shows_its_images_by_name_over_and_over_and_new_ones_too(tmp_path: Path) -> None:
    for name, level in (("b.jpg", 100), ("a.JPG", 50)):
        (tmp_path / name).write_bytes(jpeg(level))
    PIL.Image.fromarray(videos.grey(150)).save(tmp_path / "c.png")
    PIL.Image.fromarray(videos.grey(200)).save(tmp_path / "d.bmp")
    source = open_source(str(tmp_path), period=0.02)
    frames = source.frames(no_warning)
    levels = []
    for number in range(9):
        frame = next(frames)
        levels.append(videos.level_of(frame.decode()))
        if number == 0:
            assert (frame.file, frame.format) == ((tmp_path / "a.JPG").read_bytes(), "jpeg")
        if number == 2:
            assert (frame.file, frame.format) == ((tmp_path / "c.png").read_bytes(), "png")
        if number == 3:
            assert (frame.file, frame.format) == (b"", "")
            (tmp_path / "e.jpg").write_bytes(jpeg(250))
    source.close()
    assert levels == [50, 100, 150, 200, 50, 100, 150, 200, 250]


def test_an_image_that_cannot_be_read_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(50)[:300])
    (tmp_path / "b.jpg").write_bytes(jpeg(100))
    sentences: list[str] = []
    source = open_source(str(tmp_path), period=0.01)
    frames = list(itertools.islice(source.frames(sentences.append), 2))
    assert [videos.level_of(frame.decode()) for frame in frames] == [100, 100]
    assert len(sentences) == 2 and "/a.jpg, 300 bytes, cannot be decoded" in sentences[0]
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(SourceError, match=r"has no image that can be read: .*a.jpg"):
        next(source.frames(sentences.append))


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RtspServer]:
    need_gstreamer()
    levels = (30 + 20 * (number % 10) for number in range(200))
    server = RtspServer(videos.write_h264(tmp_path / "stream.mp4", map(videos.grey, levels), 10))
    server.start()
    yield server
    server.kill()


def test_images_of_a_stream_are_stamped_when_they_were_taken_also_those_that_waited_to_be_read(
    server: RtspServer,
) -> None:
    """FFmpeg collects for almost a second before it hands on the first image of a connection."""
    frames = first(open_source(server.address("clock")), 20)
    late = np.array([frame.captured - read_time(frame.decode()) for frame in frames])
    assert (late > -0.002).all()
    assert late.max() < 0.3
    assert {frame.format for frame in frames} == {"jpeg"}
    assert frames[0].file.startswith(b"\xff\xd8") and frames[0].size == (512, 64)


def test_who_is_slow_gets_the_newest_image_and_not_the_next_one(server: RtspServer) -> None:
    source = open_source(server.address("clock"))
    frames = source.frames(no_warning)
    before = next(frames)
    time.sleep(1.0)  # the slow one
    assert next(frames).captured >= before.captured + 0.6, "25 images came meanwhile, and one is kept"
    source.close()


def test_h264_is_decoded(server: RtspServer) -> None:
    frames = first(open_source(server.address("video")), 12)
    assert {frame.size for frame in frames} == {(64, 48)}
    levels = [videos.level_of(frame.decode()) for frame in frames]
    assert len(set(levels)) > 5
    assert np.diff([frame.captured for frame in frames]).min() > 0


def test_who_decodes_too_slowly_goes_on_at_an_image_that_needs_no_other(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = video._decoded, []

    def slow(packet: av.Packet, warn: Callable[[str], None]) -> list[av.VideoFrame]:
        time.sleep(0.25)  # of which the stream has ten a second
        if packet.pts is not None:
            decoded.append((packet.pts * packet.time_base, packet.is_keyframe))
        return decode(packet, warn)

    monkeypatch.setattr(video, "_decoded", slow)
    source = open_source(server.address("video"))
    frames = source.frames(no_warning)
    behind = [time.monotonic() - next(frames).captured for _ in range(10)]
    source.close()
    after_gaps = [is_key for (before, _), (at, is_key) in itertools.pairwise(decoded) if at - before > 0.11]
    assert after_gaps and all(after_gaps)
    assert max(behind) < 3.0, "it would be 8 s or more"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("nothing", r"/nothing cannot be read: Server returned 404 Not Found\."), ("", r"404 Not Found")],
)
def test_a_server_that_refuses_is_quoted(server: RtspServer, path: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        first(open_source(server.address(path)), 1)


def test_a_server_that_goes_away_ends_the_frames_with_a_sentence(server: RtspServer) -> None:
    frames = open_source(server.address("clock")).frames(no_warning)
    next(frames)
    server.kill()
    with pytest.raises(SourceError, match=r"/clock has ended|/clock cannot be read"):
        list(frames)


def test_frames_end_when_the_source_is_closed_though_nothing_comes(server: RtspServer) -> None:
    source = open_source(server.address("clock"))
    frames = source.frames(no_warning)
    next(frames)
    server.freeze()
    closing = threading.Timer(0.2, source.close)
    closing.start()
    assert len(list(frames)) < 100
    closing.join()


class Camera(http.server.SimpleHTTPRequestHandler):
    """/camera is what IP cameras and ESP32-CAM send: JPEG after JPEG, without time stamps. All else is a file."""

    def do_GET(self) -> None:
        if self.path != "/camera":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        data = jpeg(123)
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.1)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with the files of ``tmp_path``."""
    handler = functools.partial(Camera, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_jpeg_over_http_comes_as_the_camera_sent_it(web: str) -> None:
    before = time.monotonic()
    frames = first(open_source(f"{web}/camera"), 5)
    after = time.monotonic()
    assert {frame.file for frame in frames} == {jpeg(123)}
    assert all(before < frame.captured < after for frame in frames)


def test_a_video_file_on_a_server_is_played_at_its_rate_and_then_has_ended(web: str, tmp_path: Path) -> None:
    videos.write_h264(tmp_path / "clip.mp4", map(videos.grey, (40, 80, 120, 160, 200)), 5)
    frames = open_source(f"{web}/clip.mp4").frames(no_warning)
    seen = [next(frames)]
    with pytest.raises(SourceError, match=r"/clip.mp4 has ended\."):
        seen += frames
    assert videos.level_of(seen[0].decode()) < 60
    assert videos.level_of(seen[-1].decode()) > 180
    assert seen[-1].captured - seen[0].captured > 0.79


# --- the clock of a stream --------------------------------------------------------------------------------------------


def test_a_frame_that_was_held_up_keeps_the_time_at_which_it_was_taken() -> None:
    clock = ArrivalClock()
    for number in range(100):
        clock.captured(number * 0.1, 50.0 + number * 0.1 + 0.02)
    assert clock.captured(10.0, 50.0 + 10.0 + 3.0) == pytest.approx(60.02)


def test_what_has_waited_when_a_connection_begins_has_no_time_until_frames_come_as_they_are_taken() -> None:
    clock = ArrivalClock()
    arrivals = [50.0 + 0.035 * number for number in range(20)]  # taken every 40 ms, and read a little faster
    arrivals += [arrivals[-1] + 0.04 * number for number in range(1, 20)]
    captured = [clock.captured(0.04 * number, arrived) for number, arrived in enumerate(arrivals)]
    assert captured[:20] == [None] * 20
    assert captured[-5:] == pytest.approx(arrivals[-5:])


def test_clocks_that_drift_apart_are_followed() -> None:
    clock = ArrivalClock()
    for number in range(36000):  # an hour, in which the camera's clock loses 3.6 s
        arrived = number * 0.1
        captured = clock.captured(arrived * 0.999, arrived)
    assert captured is not None and 0 <= arrived - captured < 0.03


def test_a_camera_whose_clock_is_set_back_goes_on() -> None:
    clock = ArrivalClock()
    for number in range(100):
        clock.captured(1000 + number * 0.1, number * 0.1)
    for number in range(100, 103):
        captured = clock.captured(number * 0.1, number * 0.1)
    assert captured == pytest.approx(10.2)
