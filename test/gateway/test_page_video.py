"""Videos on the web page: a real Chromium and the real gateway; what the node answers is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import videos
from browser import Tabs, drop
from gateway_server import Asked, Server
from page_user import DESK, ask, by, check_accessibility, drawing, place, wait_answer, with_status
from qwen3vl_ros.client.answer import Box, Region

pytest_plugins = ["gateway_fixtures", "page_fixtures"]


def frames(count: int, width: int, height: int) -> Iterator[tuple[int, videos.Pixels]]:
    return ((100 * number, videos.grey(30 + 4 * number, width, height)) for number in range(count))


@pytest.fixture
def page(server: Server, tabs: Tabs) -> Page:
    opened = tabs.open(server.url, **DESK)
    wait_camera(opened)
    return opened


def wait_camera(page: Page) -> None:
    expect(page.locator("#caption")).to_contain_text("Camera front, live")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s in a format that every browser shows."""
    folder = tmp_path_factory.mktemp("videos")
    return videos.write_timed(folder / "street.webm", frames(41, 320, 240), codec="libvpx", b_frames=0)


def open_file(page: Page, *paths: Path) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Open file…").click()
    chosen.value.set_files(paths)


def test_a_video_is_shown_and_a_question_about_it_sends_it_as_a_clip(server: Server, page: Page, street: Path) -> None:
    open_file(page, street)
    expect(page.locator("#caption")).to_contain_text(f"street.webm · {by(320, 240)} · 4.")
    expect(page.locator("#subject")).to_have_text("Questions are about this video.")
    clip = page.get_by_label("The video of the question")
    expect(clip).to_be_visible()
    expect(page.locator("#frame")).to_be_hidden()
    assert page.evaluate("document.querySelector('#clip').videoWidth") == 320
    check_accessibility(page)
    assert wait_answer(ask(page, "What happened?")).inner_text() == "red"
    goal = server.backend.next_asked().goal
    assert (goal.prompt, goal.images_are_clip, len(goal.compressed_images)) == ("What happened?", True, 8)
    last = goal.compressed_images[-1].header.stamp
    assert (last.sec, last.nanosec) == (4, 0)
    wait_answer(ask(page, "How quickly?"))
    goal = server.backend.next_asked().goal
    assert (goal.prompt, goal.images_are_clip, len(goal.compressed_images)) == ("How quickly?", True, 8)
    said = [(turn.role, list(turn.content)) for turn in goal.history]
    assert said == [("user", ["What happened?"]), ("assistant", ["red"])]
    expect(clip).to_be_visible()


def test_a_video_can_be_dropped_and_comes_back_from_the_history(server: Server, page: Page, street: Path) -> None:
    drop(page, street.read_bytes(), "street.webm", "video/webm")
    expect(page.locator("#caption")).to_contain_text("street.webm")
    wait_answer(ask(page, "What happened?"))
    page.get_by_role("button", name="Live").click()
    wait_camera(page)
    expect(page.locator("#clip")).to_be_hidden()
    page.reload()
    wait_camera(page)
    page.get_by_role("button", name="History").click()
    page.locator("#past li .open").first.click()
    expect(page.get_by_label("The video of the question")).to_be_visible()
    expect(page.locator("#caption")).to_contain_text("street.webm")


def test_places_are_shown_in_the_frame_that_they_are_in_and_in_the_pixels_of_the_video(
    server: Server, page: Page, tmp_path: Path
) -> None:
    def finds_a_ball(asked: Asked) -> None:
        headers = tuple(image.header for image in asked.goal.compressed_images)
        ball = Region("ball", image_index=len(headers) - 1, box=Box(320, 360, 320, 180))  # of 1280x720
        asked.answer("[]", regions=(ball,), image_headers=headers)

    server.backend.rewrite(finds_a_ball)
    large = videos.write_timed(tmp_path / "large.webm", frames(11, 1920, 1080), codec="libvpx", b_frames=0)
    open_file(page, large)
    expect(page.locator("#caption")).to_contain_text(by(1920, 1080))
    expect(ask(page, "Where is the ball?").locator(".state")).to_contain_text("scripted")
    assert place(page) == [480, 270, 480, 540]  # width, height, left, top
    page.wait_for_function("!document.querySelector('#clip').seeking")
    assert abs(page.evaluate("document.querySelector('#clip').currentTime") - 1.0) < 0.01
    expect(page.locator("#overlay .region")).to_have_count(1)
    page.evaluate("document.querySelector('#clip').play()")
    expect(page.locator("#overlay .region")).to_have_count(0)


def test_what_cannot_be_asked_about_is_a_sentence(page: Page, street: Path, tmp_path: Path) -> None:
    picture = tmp_path / "table.png"
    picture.write_bytes(drawing())
    open_file(page, street, picture)
    expect(page.locator("#note")).to_have_text("A question is about one video: open it by itself.")
    drop(page, b"no video at all", "notes.mp4", "video/mp4")
    expect(page.locator("#note")).to_contain_text("notes.mp4 is no video that this browser can show: use MP4 with")
    sound = videos.write_sound(tmp_path / "sound.mp4")
    drop(page, sound.read_bytes(), "sound.mp4", "video/mp4")
    expect(page.locator("#note")).to_contain_text("sound.mp4 is no video that this browser can show")


def test_a_video_that_the_gateway_would_not_take_is_not_sent(page: Page, street: Path) -> None:
    with_status(page, max_video_bytes=1000)
    page.reload()
    wait_camera(page)
    open_file(page, street)
    expect(page.locator("#note")).to_contain_text("MB, and the gateway takes 0.0: cut out a part of it, or raise")
