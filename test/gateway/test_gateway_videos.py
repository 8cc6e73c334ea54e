"""Videos in questions: what the node gets of them, and that no file does more than waste some seconds of a process."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import PIL.Image
import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import videos
from gateway_server import Server, data_url, image_file, serving
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.settings import Settings
from qwen3vl_ros.gateway.videos import Videos
from qwen3vl_ros.prompts.request import Turn

pytest_plugins = ["gateway_fixtures"]
CHAT = "/v1/chat/completions"
LIMIT = 200_000


def made(name: str, *times: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """The content of a video with frames at these milliseconds, each a little brighter."""
    with tempfile.TemporaryDirectory() as folder:
        images = ((time, videos.grey(20 + 5 * number, *size)) for number, time in enumerate(times))
        return videos.write_timed(Path(folder) / name, images).read_bytes()


STREET = made("street.mp4", *range(0, 4000, 100))


def video(content: bytes | str, *texts: str, kind: str = "video/mp4") -> list[dict[str, Any]]:
    """The parts of a question about a video; ``content``: the file, or a URL."""
    url = content if isinstance(content, str) else data_url(content).replace("image/png", kind)
    return [{"type": "video_url", "video_url": {"url": url}}, *({"type": "text", "text": text} for text in texts)]


def asked(http: httpx.Client, *turns: Any, **fields: Any) -> httpx.Response:
    """A conversation: the user's turns and the model's, in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return http.post(CHAT, json={"messages": messages, **fields})


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    message: str = response.json()["error"]["message"]
    assert message.endswith(".")
    return message


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving(max_video_bytes=LIMIT, max_video_duration=60.0, max_request_bytes=1_000_000) as server:
        yield server


def brightness(jpeg: Any) -> int:
    return videos.level_of(np.asarray(PIL.Image.open(io.BytesIO(bytes(jpeg))).convert("RGB")))


def test_a_video_is_a_clip_with_its_times(server: Server, http: httpx.Client) -> None:
    response = asked(http, video(STREET, "What happened?"), clip_frames=4)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "red"
    assert response.json()["qwen3vl_ros"]["notes"] == []
    found = server.backend.next_asked()
    assert (found.prompt, found.goal.images_are_clip, found.goal.clip_frames) == ("What happened?", True, 4)
    assert (found.goal.text_only, list(found.goal.images), list(found.goal.history)) == (False, [], [])
    stamps = [image.header.stamp for image in found.goal.compressed_images]
    assert [stamp.sec * 1000 + stamp.nanosec // 1_000_000 for stamp in stamps] == [0, 1300, 2600, 3900]
    levels = [brightness(image.data) for image in found.goal.compressed_images]
    assert all(abs(level - (20 + 5 * number)) <= 3 for level, number in zip(levels, (0, 13, 26, 39), strict=True))


def test_all_ways_to_write_it_are_read(server: Server, http: httpx.Client) -> None:
    as_string = [{"type": "video_url", "video_url": data_url(STREET)}, {"type": "text", "text": "What?"}]
    as_string[0]["video_url"] = str(as_string[0]["video_url"]).replace("image/png", "video/webm")
    before = [{"type": "text", "text": "Here it is."}, *video(STREET, "What?", kind="application/octet-stream")]
    for parts, prompt in ((as_string, "What?"), (before, "Here it is.\nWhat?"), (video(STREET), "Describe the video.")):
        assert asked(http, parts).status_code == 200
        found = server.backend.next_asked()
        assert (found.prompt, found.goal.clip_frames, found.goal.text_only) == (prompt, 8, False)
        assert len(found.goal.compressed_images) == 8


def test_a_video_of_an_earlier_turn_is_images_with_their_times(server: Server, http: httpx.Client) -> None:
    assert asked(http, video(STREET, "What?"), "A box.", "Which colour?", clip_frames=2).status_code == 200
    found = server.backend.next_asked()
    assert (found.prompt, found.goal.images_are_clip, found.goal.text_only) == ("Which colour?", False, True)
    assert len(found.goal.compressed_images) == 2
    turns = [Turn(turn.role, tuple(turn.content)) for turn in found.goal.history]
    assert turns == [
        Turn("user", ("<0.0 seconds>", "", "<3.9 seconds>", "", "What?")),
        Turn("assistant", ("A box.",)),
    ]
    again = asked(http, [*video(STREET, "What?")], "A box.", video(STREET, "And here?"), clip_frames=2)
    assert again.status_code == 200
    found = server.backend.next_asked()
    assert (found.goal.images_are_clip, len(found.goal.compressed_images)) == (True, 4)


def test_a_question_is_about_one_video_alone(http: httpx.Client) -> None:
    picture = [{"type": "image_url", "image_url": data_url(image_file())}]
    for parts in ([*video(STREET), *video(STREET, "Which?")], [*picture, *video(STREET, "Which?")]):
        assert "a question is about one video, and nothing beside it" in refusal(asked(http, parts), 400)
    assert "brings a video, too" in refusal(asked(http, video(STREET, "What?"), camera="front"), 400)


def test_a_video_that_is_too_large_or_too_long_is_refused_with_the_limit(http: httpx.Client) -> None:
    large = STREET + bytes(LIMIT)
    assert f"the video is larger than {LIMIT} bytes" in refusal(asked(http, video(large, "What?")), 413)
    long = made("long.mp4", 0, 100_000)
    assert "the video's file is 100 s long, and 60 s are accepted" in refusal(asked(http, video(long, "What?")), 400)


@pytest.mark.parametrize(
    ("url", "status", "sentence"),
    [
        ("http://example.com/street.mp4", 400, "the URL of a video begins with data:video/mp4;base64,|a video's URL"),
        ("/etc/passwd", 400, "a video's URL begins with data:video/mp4;base64,"),
        ("ftp://example.com/a", 400, "the URL of a video begins with data:video/mp4;base64,"),
        ("data:video/mp4;base64,????", 400, "the base64 in the data: URL is damaged"),
        ("data:video/mp4,hello", 400, "not in base64: write data:video/mp4;base64,"),
        ("data:image/png;base64,AAAA", 415, "holds 'image/png', not a video"),
        (data_url(b"").replace("image/png", "video/mp4"), 400, "the video's file cannot be read as a video"),
        (data_url(b"no video at all" * 99).replace("image/png", "video/mp4"), 400, "cannot be read as a video"),
        (data_url(b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n").replace("image/png", "video/mp4"), 400, "cannot be"),
        (data_url(STREET[:-900][:900]).replace("image/png", "video/mp4"), 400, "the video's file "),
    ],
    ids=range(10),
)
def test_what_is_no_video_is_a_sentence(url: str, status: int, sentence: str, http: httpx.Client) -> None:
    told = refusal(asked(http, video(url, "What?")), status)
    assert any(part in told for part in sentence.split("|")), told


def test_sound_alone_is_a_sentence(tmp_path: Path, http: httpx.Client) -> None:
    sound = videos.write_sound(tmp_path / "sound.mp4").read_bytes()
    assert "the video's file has no video in it" in refusal(asked(http, video(sound, "What?")), 400)


def test_images_of_more_pixels_than_allowed_are_not_decoded() -> None:
    with serving(max_image_pixels=3000) as server, server.client() as http:
        told = refusal(asked(http, video(STREET, "What?")), 400)
        assert "the video's file has images of 64x48 pixels, more than the 3000 that are accepted" in told


def test_a_video_that_takes_too_long_to_decode_ends_with_its_process() -> None:
    decoding = Videos(Settings(body_timeout=1e-6))
    with pytest.raises(
        ApiError, match=r"cannot be decoded here \(it takes longer than 1e-06 s\): send a shorter"
    ) as ended:
        anyio.run(decoding.clip, data_url(STREET).replace("image/png", "video/mp4"), 8)
    assert ended.value.status == 400
