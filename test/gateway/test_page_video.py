"""Videos on the web page: a real Chromium opens a file, shows it and asks about it. Over real DDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import videos
from browser import drop
from page_robot import Robot
from page_user import ask, by, check_accessibility, drawing, locate, place, wait_answer, wait_live, with_status

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


def frames(count: int, width: int, height: int) -> Iterator[tuple[int, videos.Pixels]]:
    return ((100 * number, videos.grey(30 + 4 * number, width, height)) for number in range(count))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s in a format that every browser shows."""
    folder = tmp_path_factory.mktemp("videos")
    return videos.write_timed(folder / "street.webm", frames(41, 320, 240), codec="libvpx", b_frames=0)


def open_file(page: Page, *paths: Path) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Open file…").click()
    chosen.value.set_files(paths)


def test_a_video_is_shown_and_a_question_about_it_sends_it_as_a_clip(robot: Robot, page: Page, street: Path) -> None:
    robot.story.tell({"happened": "It became brighter.", "quickly": "Slowly."})
    open_file(page, street)
    expect(page.locator("#caption")).to_contain_text(f"street.webm · {by(320, 240)} · 4.")
    expect(page.locator("#subject")).to_have_text("Questions are about this video.")
    clip = page.get_by_label("The video of the question")
    expect(clip).to_be_visible()
    expect(page.locator("#frame")).to_be_hidden()
    assert page.evaluate("document.querySelector('#clip').videoWidth") == 320
    check_accessibility(page)
    assert wait_answer(ask(page, "What happened?")).inner_text() == "It became brighter."
    asked = ["<clip of 8 frames, 4.0 s>", "What happened?"]
    assert robot.story.heard == [[["user", asked]]]
    assert wait_answer(ask(page, "How quickly?")).inner_text() == "Slowly."
    assert robot.story.heard[1] == [
        ["user", ["What happened?"]],
        ["assistant", ["It became brighter."]],
        ["user", ["<clip of 8 frames, 4.0 s>", "How quickly?"]],
    ]
    expect(clip).to_be_visible()


def test_a_video_can_be_dropped_and_comes_back_from_the_history(robot: Robot, page: Page, street: Path) -> None:
    robot.story.tell({"happened": "It became brighter."})
    drop(page, street.read_bytes(), "street.webm", "video/webm")
    expect(page.locator("#caption")).to_contain_text("street.webm")
    wait_answer(ask(page, "What happened?"))
    page.get_by_role("button", name="Live").click()
    wait_live(page)
    expect(page.locator("#clip")).to_be_hidden()
    page.reload()
    wait_live(page)
    page.get_by_role("button", name="History").click()
    page.locator("#past li .open").first.click()
    expect(page.get_by_label("The video of the question")).to_be_visible()
    expect(page.locator("#caption")).to_contain_text("street.webm")


def test_places_are_shown_in_the_frame_that_they_are_in_and_in_its_pixels(
    robot: Robot, page: Page, tmp_path: Path
) -> None:
    robot.story.tell({"ball": json.dumps([{"bbox_2d": [250, 500, 500, 750], "label": "ball"}])})
    large = videos.write_timed(tmp_path / "large.webm", frames(11, 1920, 1080), codec="libvpx", b_frames=0)
    open_file(page, large)
    wait_answer(locate(page, "ball"))
    width, height, left, top = place(page)
    assert [abs(found - wanted) <= 3 for found, wanted in ((width, 480), (height, 270), (left, 480), (top, 540))]
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
    wait_live(page)
    open_file(page, street)
    expect(page.locator("#note")).to_contain_text("MB, and the gateway takes 0.0: cut out a part of it, or raise")
