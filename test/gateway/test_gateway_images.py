"""Images in questions: base64 however it is written, formats that are not taken, and files below media_path."""

from __future__ import annotations

import base64
import os
import socket
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_server import Server, image_file, question, serving
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.images import ImageLimits, of_data_url, source_of
from qwen3vl_ros.gateway.media import MediaDirectory
from qwen3vl_ros.gateway.settings import SettingsError

CHAT = "/v1/chat/completions"
LIMITS = ImageLimits(100_000, 1_000_000)
PNG = image_file(5, 4)
BLANKS = st.text(" \t\r\n", max_size=3)


def image(url: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
    return {"messages": [{"role": "user", "content": content}]}


# --- data: URLs -------------------------------------------------------------------------------------------------------


@given(
    before=BLANKS,
    kind=st.sampled_from(["image/png", "IMAGE/PNG", "", " image/png ", "image/png;charset=utf-8", "image/heic"]),
    mark=st.sampled_from([";base64,", "; base64,", ";BASE64 ,", " ;base64,"]),
    padded=st.booleans(),
    for_urls=st.booleans(),
    escaped=st.booleans(),
    blanks=st.lists(st.tuples(st.integers(0, 200), BLANKS), max_size=5),
    size=st.integers(1, 6),
)
def test_base64_is_read_however_it_is_written(
    before: str, kind: str, mark: str, padded: bool, for_urls: bool, escaped: bool, blanks: Any, size: int
) -> None:
    file = image_file(size, 4)
    text = (base64.urlsafe_b64encode if for_urls else base64.b64encode)(file).decode()
    text = text if padded else text.rstrip("=")
    for place, blank in blanks:
        text = text[:place] + blank + text[place:]
    if escaped:
        text = text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    url = f"{before}data:{kind}{mark}{text}"
    assert source_of(url) == "data"
    assert of_data_url(url, LIMITS) == file


@given(place=st.integers(0, 100), stray=st.sampled_from([*"*!#$&'().,:;<>?@[]^`{|}~\\\"", "é", "\x01", "%", "%zz"]))
def test_characters_that_are_no_base64_are_damage(place: int, stray: str) -> None:
    text = base64.b64encode(PNG).decode()
    with pytest.raises(ApiError, match="damaged") as refused:
        of_data_url(f"data:image/png;base64,{text[:place]}{stray}{text[place:]}", LIMITS)
    assert refused.value.status == 400


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=A", "====", "AAA==", "A=", "+-+-", "AAAA=AAA"])
def test_base64_with_characters_missing_is_damage(text: str) -> None:
    with pytest.raises(ApiError, match="damaged"):
        of_data_url(f"data:image/png;base64,{text}", LIMITS)


@given(st.text(string.printable + "é\ud800", max_size=60))
def test_any_data_url_is_an_image_or_a_refusal(rest: str) -> None:
    with pytest.raises(ApiError) as refused:
        of_data_url(f"data:{rest}", LIMITS)
    assert refused.value.status in (400, 413, 415)


# --- formats ----------------------------------------------------------------------------------------------------------

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\x00" * 40
FOREIGN = {
    "HEIC": HEIC,
    "HEIC of a burst": HEIC.replace(b"heic", b"hevc", 1),
    "HEIC by its compatible brand": b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heic" + b"\x00" * 40,
    "AVIF": b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00mif1avif" + b"\x00" * 40,
    "a film": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + b"\x00" * 40,
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00" * 40,
    "JPEG XL": b"\xff\x0a" + b"\x00" * 40,
    "SVG": b'\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "SVG with a declaration": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "PPM": b"P6 1 1 255\n\x00\x00\x00",
    "PDF": b"%PDF-1.7",
    "GIF": b"GIF89a" + b"\x00" * 40,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_image_of_another_format_is_415_and_the_format_is_named(name: str) -> None:
    url = f"data:image/jpeg;base64,{base64.b64encode(FOREIGN[name]).decode()}"
    with pytest.raises(ApiError, match="send JPEG, PNG or WebP") as refused:
        of_data_url(url, LIMITS)
    assert refused.value.status == 415
    assert name.partition(" of ")[0].partition(" by ")[0].partition(" with ")[0] in str(refused.value)


# --- files below media_path -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory with an image, and with every way out of it that a file system has."""
    media = tmp_path / "media"
    (media / "images").mkdir(parents=True)
    (media / "images" / "demo.jpg").write_bytes(PNG)
    (media / "images" / "a b%20c.png").write_bytes(PNG)
    (media / "images" / "notes.txt").write_text("SECRET")
    (media / "images" / "huge.png").write_bytes(PNG)
    os.truncate(media / "images" / "huge.png", 10**9)
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    (media / "link.png").symlink_to(secret)
    (media / "out").symlink_to(tmp_path)
    (media / "loop").symlink_to(media / "loop")
    os.mkfifo(media / "fifo.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(media / "socket.png"))
        yield media


@pytest.mark.parametrize(
    "url",
    ["images/demo.jpg", "file://images/demo.jpg", "FILE://images/demo.jpg", "./images//demo.jpg",
     " images/demo.jpg\n", "images/a b%20c.png"],
)  # fmt: skip
def test_a_path_below_media_path_is_an_image(folder: Path, url: str) -> None:
    assert source_of(url) == "file"
    assert MediaDirectory(str(folder)).read(url, LIMITS) == PNG


WAYS_OUT = [
    "../secret.png", "images/../../secret.png", "images/..", "..", "/etc/passwd", "//etc/passwd", "file:///etc/passwd",
    "file:////etc/passwd", "file://../secret.png", "file://localhost/etc/passwd", "link.png", "out/secret.png", "loop",
    "loop/x", "fifo.png", "socket.png", "images", "images/", "", "file://", ".", "images/demo.jpg\0.png",
    "images/demo.jpg/x", "%2e%2e/secret.png", "..%2fsecret.png", "images/%2e%2e/%2e%2e/secret.png",
    "..\\secret.png", "~/secret.png", "x" * 5000, "a/" * 5000 + "b", "\udcff.png", "images/notes.txt",
]  # fmt: skip


@pytest.mark.parametrize("url", WAYS_OUT)
def test_nothing_else_on_this_machine_is_read(folder: Path, url: str) -> None:
    with pytest.raises(ApiError) as refused:
        MediaDirectory(str(folder)).read(url, LIMITS)
    assert refused.value.status == 400
    assert "SECRET" not in str(refused.value)


def test_a_file_too_large_is_413_and_not_read_to_its_end(folder: Path) -> None:
    with pytest.raises(ApiError) as refused:
        MediaDirectory(str(folder)).read("images/huge.png", LIMITS)
    assert refused.value.status == 413


@given(
    st.lists(st.sampled_from(["..", ".", "", "out", "in", "link.png", "secret.png", "%2e%2e", "..\0", "/"]), max_size=6)
)
def test_no_path_leads_out_of_media_path(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        media = Path(place) / "media"
        (media / "in").mkdir(parents=True)
        (Path(place) / "secret.png").write_bytes(PNG)
        (media / "out").symlink_to(place)
        (media / "in" / "out").symlink_to("../..")
        (media / "link.png").symlink_to("../secret.png")
        for url in ("/".join(steps), f"file://{'/'.join(steps)}"):
            with pytest.raises(ApiError):
                MediaDirectory(str(media)).read(url, LIMITS)


def test_a_media_path_that_is_no_directory_is_a_sentence_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("none", "file"):
        with pytest.raises(SettingsError, match="media_path"), serving(media_path=str(tmp_path / path)):
            pass


def test_a_client_may_name_an_image_below_media_path(folder: Path) -> None:
    with serving(media_path=str(folder)) as server, server.client() as http:
        for url in ("images/demo.jpg", {"url": "file://images/demo.jpg"}):
            assert http.post(CHAT, json=image(url)).status_code == 200
            assert bytes(server.backend.next_asked().goal.compressed_images[0].data) == PNG
        refused = http.post(CHAT, json=image("images/nothing.jpg"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_image_url")


@pytest.mark.parametrize("url", ["images/demo.jpg", "file://images/demo.jpg", "/etc/passwd", "file:///etc/passwd"])
def test_without_media_path_no_file_is_read_and_the_error_names_the_parameter(url: str) -> None:
    with serving() as server, server.client() as http:
        error = http.post(CHAT, json=image(url)).json()["error"]
    assert "media_path" in error["message"]
    assert error["code"] == "invalid_image_url"


@pytest.mark.parametrize(
    "url", ["ftp://host/a.png", "gs://a/b.png", "javascript:alert(1)", "", " ", "C:\\a.png", "blob:x"]
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="data:image/jpeg"):
        source_of(url)


# --- images without text ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def http(running: Server) -> Iterator[httpx.Client]:
    running.backend.rewrite()
    with running.client() as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [question(image_file()), question(image_file(), " "), question(image_file(), image_file()),
     question("", camera="front"), {"camera": "front", "messages": [{"role": "user", "content": []}]}],
)  # fmt: skip
def test_an_image_without_text_is_described(running: Server, http: httpx.Client, body: Any) -> None:
    reply = http.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    assert running.backend.next_asked().prompt == "Describe the image."
    (note,) = reply.json()["qwen3vl_ros"]["notes"]
    assert "Describe the image." in note


@pytest.mark.parametrize("form", [{}, {"prompt": ""}, {"prompt": " ", "max_tokens": ""}])
def test_a_form_without_a_prompt_has_its_image_described(
    running: Server, http: httpx.Client, form: dict[str, str]
) -> None:
    assert http.post(CHAT, files={"image": ("a.png", PNG)}, data=form).status_code == 200
    assert running.backend.next_asked().prompt == "Describe the image."


def test_an_image_after_its_question_in_a_message_of_its_own_is_asked_that(running: Server, http: httpx.Client) -> None:
    turns = [{"role": "user", "content": "Is there a ball?"}, *question(image_file())["messages"]]
    assert http.post(CHAT, json={"messages": turns}).json()["qwen3vl_ros"]["notes"] == []
    goal = running.backend.next_asked().goal
    assert (goal.prompt, list(goal.history[0].content), goal.text_only) == ("", ["Is there a ball?"], False)
