"""The web page when something is missing, on a phone, to a screen reader, and with the shipped model. Over real DDS."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from qwen3vl_ros.srv import SetEngine

from browser import Tabs, drop
from page_robot import FOUND, Robot
from page_user import (
    CARD,
    DESK,
    PHONE,
    ask,
    check_accessibility,
    drawing,
    keep_for_the_documentation,
    locate,
    wait_answer,
    wait_live,
)
from qwen3vl_ros.gateway.settings import TOKEN_VARIABLE
from ros_client import RosClient
from web_process import WebProcess

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_camera_that_stops_is_told_instead_of_an_old_image(robot: Robot, page: Page, tabs: Tabs) -> None:
    tabs.refusals = True
    robot.camera.stop()
    try:
        expect(page.locator("#no-image")).to_contain_text("no frame")
        expect(page.locator("#frame")).to_be_hidden()
        expect(page.locator("#health-camera")).to_have_attribute("data-level", "bad")
        expect(page.locator("#problems")).to_contain_text("Camera")
        expect(page.locator("#age")).to_be_hidden()
    finally:
        robot.camera.go_on()
    wait_live(page)


def test_a_node_that_takes_no_questions_is_told(robot: Robot, ros: RosClient, page: Page, tabs: Tabs) -> None:
    tabs.refusals = True  # an inactive node has no cameras
    assert ros.lifecycle("deactivate")
    try:
        expect(page.locator("#problems")).to_contain_text("inactive. Activate it to ask")
        expect(page.locator("#health-engine")).to_have_attribute("data-level", "wait")
    finally:
        assert ros.lifecycle("activate")
    expect(page.locator("#problems")).to_be_empty()


def test_what_a_node_remarks_that_answers_is_no_problem(page: Page) -> None:
    chosen = {"node": True, "state": "ready", "message": "openai is not used: run `up`", "engine": "llama"}
    rest = {"model": "Tabletop", "model_card": CARD, "queue_length": 0, "cameras": []}
    page.route("**/api/status", lambda route: route.fulfill(json=chosen | rest))
    page.get_by_text("A remark of the node").click()
    expect(page.get_by_text("openai is not used: run up")).to_be_visible()
    with page.expect_response("**/api/status"):  # a new status leaves it open
        pass
    expect(page.get_by_text("openai is not used: run up")).to_be_visible()
    expect(page.locator("#remark code")).to_have_text("up")
    expect(page.locator("#problems")).to_be_empty()


def test_the_live_view_goes_on_when_the_node_comes_back(page: Page) -> None:
    gone = {"node": False, "state": "absent", "message": "nothing was heard of /vlm", "model_card": CARD, "cameras": []}
    page.route("**/api/status", lambda route: route.fulfill(json=gone))
    expect(page.locator("#no-image")).to_contain_text("No camera is known")
    page.unroute("**/api/status")
    wait_live(page)
    expect(page.locator("#frame")).to_be_visible()


def test_a_token_is_asked_for_once_and_a_missing_node_is_told(ros: RosClient, tabs: Tabs, tmp_path: Path) -> None:
    tabs.refusals = True
    token = "sesame-open-please-42"
    with closing(WebProcess(tmp_path, {"node_name": "nobody"}, os.environ | {TOKEN_VARIABLE: token})) as web:
        page = tabs.open(web.wait_url(), **DESK)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#token-note")).to_contain_text("refused")
        page.get_by_label("Access token").fill(token)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#health-node")).to_have_text(re.compile("missing"))
        expect(page.locator("#problems")).to_contain_text("Start it: qwen3vl-ros node")
        expect(page.locator("#no-image")).to_contain_text("No camera is known")
        page.reload()
        expect(page.locator("#health-node")).to_have_text(re.compile("missing"))
        expect(page.locator("#token-form")).to_be_hidden()
        drop(page, drawing(), "a.png", "image/png")
        turn = ask(page, "What is it?")
        expect(turn).to_have_class(re.compile("failed"))
        expect(turn.locator(".state")).to_contain_text("nobody")
    expect(page.locator("#problems")).to_contain_text("The gateway does not answer")


# --- everybody -------------------------------------------------------------------------------------------------------


SIZES = {
    "phone": PHONE,
    "small phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
    "landscape": {"viewport": {"width": 844, "height": 390}, "has_touch": True, "is_mobile": True},
    "desk at 200 %": {"viewport": {"width": 640, "height": 400}},
    "desk": DESK,
    "large desk": {"viewport": {"width": 2560, "height": 1300}},
}


@pytest.mark.parametrize("size", SIZES)
def test_image_answer_and_question_are_on_the_screen_together(robot: Robot, tabs: Tabs, size: str) -> None:
    page = tabs.open(robot.url, **SIZES[size])
    wait_live(page)
    robot.story.tell({"many": "Three: a green box, an orange ball and a blue ball.", "": json.dumps(FOUND)})
    wait_answer(ask(page, "How many objects are there, and which?"))
    turn = locate(page, "everything")
    wait_answer(turn)
    expect(page.locator("button.region")).to_have_count(3)
    width, height = SIZES[size]["viewport"]["width"], SIZES[size]["viewport"]["height"]
    for part in (
        page.locator("#frame"),
        turn.locator(".answer p").first,
        page.locator("#prompt"),
        page.locator("#ask"),
    ):
        expect(part).to_be_in_viewport(ratio=1)
    expect(turn.get_by_role("button", name="Copy", exact=True)).to_be_in_viewport(ratio=1)  # the end of the answer
    assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
        *(width, height)
    ]
    assert page.locator("#frame").bounding_box()["height"] >= min(0.2 * height, 400)
    if size == "phone":
        keep_for_the_documentation(page, "page-phone.png")
        for button in page.get_by_role("button").all():
            if button.is_visible():
                assert button.bounding_box()["height"] >= 32, button.inner_text()


def test_with_the_least_room_the_page_scrolls_and_begins_at_its_top(robot: Robot, tabs: Tabs) -> None:
    page = tabs.open(robot.url, viewport={"width": 320, "height": 256})  # a desk at 400 %
    wait_live(page)
    assert page.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, 320]
    expect(page.locator("#status")).to_be_in_viewport()


def test_many_fields_of_a_task_leave_the_newest_answer_in_sight(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "line\n" * 60})
    turn = ask(page, "What is it?")
    wait_answer(turn)
    expect(turn.get_by_role("button", name="Copy", exact=True)).to_be_in_viewport(ratio=1)
    page.get_by_label("Task").select_option("read_gauge")
    expect(page.get_by_label("Highest normal value")).to_be_in_viewport()
    expect(turn.get_by_role("button", name="Copy", exact=True)).to_be_in_viewport(ratio=1)


def test_the_first_useful_image_comes_fast(robot: Robot, tabs: Tabs) -> None:
    page = tabs.open(robot.url, **DESK)
    wait_live(page)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    status = page.evaluate("performance.getEntriesByName('status shown')[0].startTime")
    print(f"first contentful paint {paint:.0f} ms, status of the robot {status:.0f} ms")
    assert max(paint, status) < 5000  # a status that is quick is in the very first paint


def test_everything_has_a_name_and_a_role_and_enough_contrast(robot: Robot, tabs: Tabs) -> None:
    robot.story.tell({"": json.dumps(FOUND)})
    for scheme in ("light", "dark"):
        page = tabs.open(robot.url, color_scheme=scheme, **DESK)
        wait_live(page)
        check_accessibility(page)
        wait_answer(locate(page, "everything"))
        check_accessibility(page)
        page.get_by_role("button", name="Live").click()
        wait_live(page)
        check_accessibility(page)


# --- the shipped model -----------------------------------------------------------------------------------------------


def test_the_shipped_model_answers_and_a_change_of_engine_shows(robot: Robot, ros: RosClient, page: Page) -> None:
    expect(page.locator("#health-engine")).to_have_text(re.compile("storyteller · ready"))
    try:
        assert ros.call(SetEngine, "/vlm/set_engine", SetEngine.Request(engine="llama")).success
        expect(page.locator("#health-engine")).to_have_text(re.compile("llama · ready"))
        expect(page.locator("#health-model")).to_have_text(re.compile("Tabletop"))
        turn = ask(page, "What colour is the box?")
        assert wait_answer(turn).inner_text() == "green"
        expect(turn.locator(".state")).to_have_text(re.compile(r"^\d+ tokens? · \d+\.\d s · llama$"))
    finally:
        assert ros.call(SetEngine, "/vlm/set_engine", SetEngine.Request(engine="storyteller")).success
