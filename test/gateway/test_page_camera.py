"""The camera of the machine that the browser runs on. Chromium's own fake camera; over real DDS."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from browser import Tabs
from page_robot import Robot
from page_user import DESK, ask, check_accessibility, freeze, locate, wait_answer, wait_live

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


@pytest.fixture
def sent(page: Page) -> list[dict[str, Any]]:
    """The questions that the page has sent."""
    questions: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            questions.append(request.post_data_json)

    page.on("request", note)
    return questions


def own_camera(page: Page) -> None:
    page.get_by_role("button", name="My camera").click()
    expect(page.locator("#own-view")).to_be_visible()
    expect(page.get_by_role("button", name="My camera")).to_have_attribute("aria-pressed", "true")


def images(question: dict[str, Any]) -> list[list[str]]:
    """The images of each of its user's turns."""
    return [
        [part["image_url"]["url"] for part in turn["content"] if part["type"] == "image_url"]
        for turn in question["messages"]
        if turn["role"] == "user"
    ]


def camera_is_on(page: Page) -> bool:
    return bool(page.evaluate("document.querySelector('#own-view').srcObject?.active ?? false"))


def test_each_question_sends_one_new_frame_of_the_browsers_camera(
    robot: Robot, page: Page, sent: list[dict[str, Any]]
) -> None:
    robot.story.tell({"": "A face."})
    own_camera(page)
    check_accessibility(page)
    expect(page.locator("#subject")).to_have_text("Each question sends one new frame of this machine's camera.")
    assert not sent  # nothing goes out before a question
    wait_answer(ask(page, "Who is there?"))
    expect(page.locator("#caption")).to_contain_text("Camera of this machine")
    wait_answer(ask(page, "And now?"))
    [[first]], [none, [second]] = images(sent[0]), images(sent[1])
    assert none == []
    assert first.startswith("data:image/jpeg;base64,")
    assert first != second
    assert not any("camera" in question for question in sent)


def test_boxes_lie_in_the_frame_of_the_browsers_camera(robot: Robot, page: Page) -> None:
    robot.story.tell({"": json.dumps([{"bbox_2d": [250, 250, 500, 500], "label": "face"}])})
    own_camera(page)
    wait_answer(locate(page, "face"))
    width, height = page.locator("#frame").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    box = page.locator("#overlay .box")
    placed = [float(box.get_attribute(name) or "nan") for name in ("x", "y", "width", "height")]
    assert placed == pytest.approx([width / 4, height / 4, width / 4, height / 4], abs=2)


def test_the_browsers_camera_goes_off_when_another_image_is_looked_at(robot: Robot, page: Page) -> None:
    own_camera(page)
    assert camera_is_on(page)
    page.get_by_role("button", name="Live").click()
    wait_live(page)
    assert not camera_is_on(page)
    own_camera(page)
    freeze(page)
    assert not camera_is_on(page)


def test_a_camera_that_is_not_allowed_is_told_with_a_way_out(page: Page) -> None:
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
    }""")
    page.get_by_role("button", name="My camera").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("was not allowed to use its camera: allow it"))
    expect(page.locator("#caption")).to_contain_text("live")


def test_where_a_page_may_not_use_a_camera_it_says_why(robot: Robot, tabs: Tabs) -> None:
    page = tabs.open("about:blank", **DESK)
    page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")  # as without https
    page.goto(robot.url)
    wait_live(page)
    page.get_by_role("button", name="My camera").click()
    expect(page.get_by_role("alert")).to_contain_text("only over https, or on the very machine that serves it")
