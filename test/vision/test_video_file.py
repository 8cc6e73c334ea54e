"""Frames out of real video files: the right ones, with exact times, whatever the container; and files that are bad."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import videos
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.clip_frames import VideoClip
from qwen3vl_ros.vision.frame_times import SECOND, even_times, nanoseconds
from qwen3vl_ros.vision.video_clip import clip_apart, clip_of
from qwen3vl_ros.vision.video_file import VideoReader, upright

MS = 1_000_000
CODECS = {"mp4": "libx264", "mkv": "libx264", "ts": "libx264", "webm": "libvpx", "avi": "mpeg4"}


def level(number: int) -> int:
    """The brightness of a frame, by which it is recognized."""
    return 20 + 2 * number


def tenths(count: int) -> Sequence[tuple[int, videos.Pixels]]:
    """Frames 0.1 s apart."""
    return [(100 * number, videos.grey(level(number))) for number in range(count)]


def street_in(container: str, folder: Path) -> Path:
    """10 s of a video; in AVI without the frames that need a later one, whose times it cannot tell."""
    b_frames = 0 if container == "avi" else 2
    return videos.write_timed(folder / f"street.{container}", tenths(100), codec=CODECS[container], b_frames=b_frames)


def seen(reader: VideoReader, start: float, end: float, count: int) -> list[tuple[int, int]]:
    """Milliseconds and number of the frames of a clip."""
    found = []
    for time, frame in reader.clip(round(start * SECOND), round(end * SECOND), count):
        assert time % MS == 0
        found.append((time // MS, round((videos.level_of(upright(frame)) - 20) / 2)))
    return found


@pytest.mark.parametrize("container", CODECS)
def test_frames_come_evenly_with_their_own_times_from_every_container(container: str, tmp_path: Path) -> None:
    path = street_in(container, tmp_path)
    with VideoReader(path, "street") as video:
        assert video.length == 9_900 * MS
        found = seen(video, 2.5, 8, 5)
    assert [time for time, _ in found] == [2500, 3900, 5200, 6600, 8000]
    assert all(abs(100 * number - time) <= 100 for time, number in found)  # a codec may be off by a level or two


@pytest.mark.parametrize("container", CODECS)
def test_a_single_frame_is_the_one_that_a_player_shows(container: str, tmp_path: Path) -> None:
    path = street_in(container, tmp_path)
    for asked, shown in ((0, 0), (4_000, 4_000), (4_099, 4_000), (8_250, 8_200), (9_900, 9_900)):
        with VideoReader(path, "street") as video:
            time, frame = video.at(asked * MS)
        assert time == shown * MS
        assert abs(videos.level_of(upright(frame)) - level(shown // 100)) <= 3


def test_times_are_those_of_the_file_where_its_rate_changes(tmp_path: Path) -> None:
    times = [0, 40, 1000, 1001, 5000, 5033, 9999]
    images = [(time, videos.grey(level(number))) for number, time in enumerate(times)]
    path = videos.write_timed(tmp_path / "phone.mkv", images)
    assert [frame.time for frame in clip_of(path, "phone", count=100).frames] == [time * MS for time in times]
    with VideoReader(path, "phone") as video:
        assert [time for time, _ in seen(video, 0.5, 5.02, 2)] == [1000, 5000]


def test_times_begin_at_the_first_frame_of_a_stream_that_was_cut_out(tmp_path: Path) -> None:
    images = [(100_000 + time, image) for time, image in tenths(30)]
    path = videos.write_timed(tmp_path / "cut.ts", images)
    clip = clip_of(path, "cut", start=SECOND, end=2 * SECOND, count=3)
    assert [frame.time for frame in clip.frames] == [1000 * MS, 1500 * MS, 2000 * MS]


def test_a_file_without_times_counts_them_by_its_rate(tmp_path: Path) -> None:
    path = videos.write_timed(tmp_path / "raw.h264", tenths(50), form="h264")
    clip = clip_of(path, "raw", count=3)
    assert [frame.time // MS for frame in clip.frames] == [0, 960, 1960]


def test_a_video_that_does_not_tell_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = videos.write_timed(tmp_path / "browser.webm", tenths(60), codec="libvpx", b_frames=0, live=True)
    clip = clip_of(path, "browser", count=5)
    assert [frame.time // MS for frame in clip.frames] == [0, 1500, 2900, 4400, 5900]
    assert [frame.time // MS for frame in clip_of(path, "browser", start=3 * SECOND, count=2).frames] == [3000, 5900]


def test_no_frame_comes_twice_where_there_are_few(tmp_path: Path) -> None:
    path = videos.write_timed(tmp_path / "short.mp4", tenths(3))
    assert [frame.time // MS for frame in clip_of(path, "short", count=8).frames] == [0, 100, 200]
    assert [frame.time for frame in clip_of(videos.write_timed(tmp_path / "one.mp4", tenths(1)), "one").frames] == [0]


def test_a_long_video_is_not_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = videos.write_timed(tmp_path / "long.mp4", ((40 * n, videos.grey(n % 200)) for n in range(3000)), gop=25)
    decoded = 0
    plain = VideoReader._check_size

    def counting(self: VideoReader, width: int, height: int) -> None:
        nonlocal decoded
        decoded += 1
        plain(self, width, height)

    monkeypatch.setattr(VideoReader, "_check_size", counting)
    assert len(clip_of(path, "long", count=4).frames) == 4
    assert decoded < 600


def test_a_video_without_key_frames_in_between_is_read_all_the_same(tmp_path: Path) -> None:
    path = videos.write_timed(tmp_path / "one_key.mp4", tenths(100), gop=1000)
    assert [frame.time // MS for frame in clip_of(path, "one_key", count=4).frames] == [0, 3300, 6600, 9900]


def test_a_video_that_was_held_upright_is_shown_upright(tmp_path: Path) -> None:
    image = videos.grey(30, 64, 48)
    image[:, :32] = 220  # bright on the left, which the turn puts at the bottom
    path = videos.write_timed(tmp_path / "phone.mp4", [(100 * n, image) for n in range(5)], rotation=90)
    clip = clip_of(path, "phone", count=2, max_side=32)
    assert (clip.size, clip.sent) == ((48, 64), (24, 32))
    pixels = np.asarray(PIL.Image.open(io.BytesIO(clip.frames[0].jpeg)))
    assert pixels.shape == (32, 24, 3)
    assert pixels[:12].mean() < 60 < 180 < pixels[-12:].mean()


def test_frames_are_scaled_down_and_never_up(tmp_path: Path) -> None:
    small = clip_of(videos.write_timed(tmp_path / "small.mp4", tenths(3)), "small")
    assert (small.size, small.sent) == ((64, 48), (64, 48))
    large = [(100 * n, videos.grey(90, 1920, 1080)) for n in range(2)]
    clip = clip_of(videos.write_timed(tmp_path / "large.mp4", large), "large")
    assert (clip.size, clip.sent) == ((1920, 1080), (1280, 720))
    assert PIL.Image.open(io.BytesIO(clip.frames[1].jpeg)).size == (1280, 720)


# --- files that are bad -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cannot be read as a video"),
        (b"not a video at all" * 100, "MP4, WebM, Matroska, AVI and MPEG-TS can be"),
        (b"#EXTM3U\n#EXTINF:9.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "cannot be read as a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        clip_of(content, "upload")


def test_a_playlist_does_not_lead_to_other_files(tmp_path: Path) -> None:
    videos.write_timed(tmp_path / "secret.ts", tenths(20))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    for file in (tmp_path / "list.m3u8", playlist.encode()):
        with pytest.raises(BadImage):
            clip_of(file, "list")


def test_a_file_without_images_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"music has no video in it"):
        clip_of(videos.write_sound(tmp_path / "music.m4a"), "music")
    with pytest.raises(BadImage, match=r"There is no video file /nowhere/street.mp4"):
        clip_of("/nowhere/street.mp4", "street")


def clip_or_sentence(content: bytes) -> VideoClip | None:
    """The clip of a file that may be damaged; None where that is said in a sentence."""
    try:
        return clip_of(content, "street")
    except BadImage as error:
        sentence = str(error)
    assert sentence.startswith("street ")
    return None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("container", ["mp4", "ts", "mkv"])
def test_of_a_file_that_is_cut_off_comes_what_is_there_or_a_sentence(
    container: str, share: float, tmp_path: Path
) -> None:
    whole = videos.write_timed(tmp_path / f"street.{container}", tenths(60)).read_bytes()
    clip = clip_or_sentence(whole[: int(len(whole) * share)])
    assert clip is None or 0 <= clip.frames[-1].time <= 5_900 * MS


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return videos.write_timed(tmp_path_factory.mktemp("street") / "street.mp4", tenths(20)).read_bytes()


@given(place=st.floats(0, 1), byte=st.integers(0, 255), length=st.integers(1, 200))
def test_damage_in_a_file_is_survived(street: bytes, place: float, byte: int, length: int) -> None:
    whole = bytearray(street)
    begin = int(place * (len(whole) - 1))
    whole[begin : begin + length] = bytes([byte]) * length
    clip = clip_or_sentence(bytes(whole))
    assert clip is None or 1 <= len(clip.frames) <= 8


def test_what_is_too_long_or_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = videos.write_timed(tmp_path / "long.mp4", [(0, videos.grey(9)), (700_000, videos.grey(9))]).read_bytes()
    with pytest.raises(ValueError, match=r"the video is 700 s long, and 300 s are accepted: send a part of it"):
        clip_apart(file, "the video", 8, 300.0, 1_000_000)
    with pytest.raises(ValueError, match="the video has images of 64x48 pixels, more than the 3000 that are accepted"):
        clip_apart(file, "the video", 8, 3000.0, 3000)


def test_a_part_that_is_not_there_is_a_sentence_with_the_length(tmp_path: Path) -> None:
    path = videos.write_timed(tmp_path / "street.mp4", tenths(60))
    with pytest.raises(BadImage, match=r"street has no frame at 12 s or later: its last one is at 5.9 s"):
        clip_of(path, "street", start=12 * SECOND)
    with VideoReader(path, "street") as video, pytest.raises(BadImage, match=r"no frame at 12.5 s: it is .* s long"):
        video.at(12_500 * MS)


# --- times ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 * SECOND))
def test_a_time_is_read_to_the_nanosecond(time: int) -> None:
    seconds, rest = divmod(time, SECOND)
    assert nanoseconds(f"{seconds}.{rest:09d}") == time
    minutes, seconds = divmod(seconds, 60)
    if minutes < 10**6:
        assert nanoseconds(f"{minutes}:{seconds:02d}.{rest:09d}") == time
    hours, minutes = divmod(minutes, 60)
    assert nanoseconds(f" {hours}:{minutes:02d}:{seconds:02d}.{rest:09d}") == time


@given(st.text("0123456789.:-+e inf", max_size=8))
def test_what_is_no_time_is_refused(text: str) -> None:
    try:
        time = nanoseconds(text)
    except ValueError as error:
        sentence = str(error)
    else:
        sentence = ""
        assert time >= 0
    assert not sentence or "is no time: write seconds (2.5), or minutes and seconds (1:02.5)" in sentence


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(2, 768))
def test_even_times_lie_evenly_between_both_ends(start: int, length: int, count: int) -> None:
    times = list(even_times(start, start + length, count))
    assert (times[0], times[-1], len(times)) == (start, start + length, count)
    step = Fraction(length, count - 1)
    assert all(abs(time - (start + number * step)) < 1 for number, time in enumerate(times))
