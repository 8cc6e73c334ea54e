"""The live view of the page: how old it is, and whether it or the camera is asked about. Over real DDS."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect
from qwen3vl_ros.msg import Answer

from browser import Tabs
from page_robot import FRAME, Robot
from page_user import DESK, ask, by, check_accessibility, freeze, locate, wait_answer, wait_live
from ros_client import RosClient

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


# --- age -------------------------------------------------------------------------------------------------------------


def test_a_camera_that_stops_is_seen_within_a_second_and_its_age_goes_when_frames_come(
    robot: Robot, page: Page, tabs: Tabs
) -> None:
    tabs.refusals = True  # of a frame, on a machine so slow that the gateway gives up first
    age = page.locator("#age")
    expect(age).to_be_hidden()
    page.evaluate("""() => {
        window.ages = [];
        new MutationObserver(() => window.ages.push(document.querySelector("#age").textContent))
            .observe(document.querySelector("#age"), {childList: true});
    }""")
    robot.camera.stop()
    try:
        expect(age).to_be_visible()
        expect(page.locator("#frame")).to_be_visible()
        expect(age).to_have_text(re.compile(r"^[1-9]\.\d s old$"))  # it grows
    finally:
        robot.camera.go_on()
    first, *_ = page.evaluate("window.ages.filter(Boolean)")
    assert 0.5 <= float(first.removesuffix(" s old")) <= 1.0
    expect(age).to_be_hidden()
    wait_live(page)


def with_age(page: Page, seconds: float, jpeg: bytes = FRAME.read_bytes()) -> None:
    """Let every frame be this one of second 12, and so old as the gateway tells it."""

    def serve(route: Route) -> None:
        headers = {"X-Frame-Stamp": "12.000000000", "X-Frame-Age": f"{seconds:.3f}", "X-Frame-Size": "640x480"}
        route.fulfill(body=jpeg, content_type="image/jpeg", headers=headers)

    page.route("**/frame.jpg*", serve)


def test_the_age_is_the_robots_whatever_the_browsers_clock_says(page: Page) -> None:
    with_age(page, 120.0)
    expect(page.locator("#age")).to_have_text(re.compile(r"^12\d s old$"))
    page.unroute("**/frame.jpg*")
    expect(page.locator("#age")).to_be_hidden()


def test_an_old_image_is_told_with_enough_contrast_and_not_announced(robot: Robot, tabs: Tabs) -> None:
    for scheme in ("light", "dark"):
        page = tabs.open(robot.url, color_scheme=scheme, **DESK)
        wait_live(page)
        with_age(page, 1.2)
        expect(page.locator("#age")).to_be_visible()
        check_accessibility(page)
        announced = page.evaluate("document.querySelector('#age').closest('[aria-live], [role=status], [role=alert]')")
        assert announced is None
        page.unroute("**/frame.jpg*")


# --- what is asked about ---------------------------------------------------------------------------------------------


def note_questions(page: Page) -> list[dict[str, Any]]:
    """The questions that the page sends from now on."""
    questions: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            questions.append(request.post_data_json)

    page.on("request", note)
    return questions


def parts(question: dict[str, Any]) -> list[list[str]]:
    """The kinds of what each user turn of it has."""
    return [[part["type"] for part in turn["content"]] for turn in question["messages"] if turn["role"] == "user"]


def test_a_question_in_the_live_view_is_put_to_the_camera_and_each_one_looks_anew(robot: Robot, page: Page) -> None:
    questions = note_questions(page)
    robot.story.tell({"colour": "Green.", "shape": "A cube."})
    expect(page.locator("#subject")).to_have_text(re.compile("Each question looks through the camera default anew"))
    wait_answer(ask(page, "What colour is the box?"))
    wait_answer(ask(page, "And its shape?"))
    assert [question["camera"] for question in questions] == ["default", "default"]
    assert [parts(question) for question in questions] == [[["text"]], [["text"], ["text"]]]
    asked, told = ["user", ["What colour is the box?"]], ["assistant", ["Green."]]
    assert robot.story.heard[1] == [asked, told, ["user", ["<image>", "And its shape?"]]]
    shown = page.locator("#frame").get_attribute("src")
    page.locator(".turn").first.get_by_role("button", name="Show in image").click()
    assert page.locator("#frame").get_attribute("src") != shown  # each has its own


def test_the_image_beside_an_answer_is_the_frame_that_was_asked_about(robot: Robot, ros: RosClient, page: Page) -> None:
    page.evaluate("""() => {
        window.seen = {};
        const fetch = window.fetch;
        window.fetch = async (...request) => {
            const response = await fetch(...request);
            const stamp = response.headers.get("X-Frame-Stamp");
            if (stamp) {
                const reader = new FileReader();
                reader.onload = () => (window.seen[stamp] = reader.result);
                reader.readAsDataURL(await response.clone().blob());
            }
            return response;
        };
    }""")
    robot.story.tell({"": "Green, " * 300})  # long enough for a newer frame to come
    robot.camera.set_period(1.5)  # so slow that the page sees every frame
    try:
        known = page.evaluate("Object.keys(window.seen)")
        page.wait_for_function("known => Object.keys(window.seen).length > known.length", arg=known)
        with ros.listen(Answer, "/vlm/answers") as answers:
            wait_answer(ask(page, "What colour is the box?"))
            stamp = answers.wait_for(lambda answer: answer.prompt == "What colour is the box?").image_headers[0].stamp
    finally:
        robot.camera.set_period(0.1)
    expect(page.locator("#caption")).to_contain_text("the frame asked about")
    seen = page.evaluate("stamp => window.seen[stamp]", f"{stamp.sec}.{stamp.nanosec:09d}")
    assert page.locator("#frame").get_attribute("src") == seen


def test_where_the_page_has_not_seen_that_frame_the_image_says_how_far_it_is_from_it(robot: Robot, page: Page) -> None:
    with_age(page, 0.0)
    page.get_by_role("button", name="Live").click()
    wait_live(page)
    fulfil_questions(page, stamp=1)
    wait_answer(ask(page, "What is it?"))
    expect(page.locator("#caption")).to_contain_text("a frame 11.00 s after the one asked about")


def test_a_camera_without_stamps_is_shown_as_it_was_when_it_was_asked(robot: Robot, page: Page) -> None:
    fulfil_questions(page, stamp=0)
    wait_answer(ask(page, "What is it?"))
    expect(page.locator("#caption")).to_contain_text("seen when it was asked about")


def test_why_nothing_was_measured_is_said_once(robot: Robot, page: Page) -> None:
    region = {"label": "ball", "image": 0, "box": [1, 2, 3, 4], "point": None, "polygon": [], "position": None}
    fulfil_questions(page, 12, regions=[region | {"problem": "NO_DEPTH: nobody publishes /depth"}] * 2)
    turn = locate(page, "balls")
    wait_answer(turn)
    expect(page.locator("button.region")).to_have_text([f"{number}ball{by(3, 4)} px at 1, 2" for number in (1, 2)])
    expect(turn.locator(".state")).to_have_text(re.compile(r" s\nNO_DEPTH: nobody publishes /depth$"))


def fulfil_questions(page: Page, stamp: int, regions: Sequence[dict[str, Any]] = ()) -> None:
    """Answer with one word about a frame of second ``stamp``, without the node."""
    word = {"choices": [{"delta": {"content": "Green."}}]}
    header = {"stamp": {"sec": stamp, "nanosec": 0}, "frame_id": ""}
    end = {"choices": [], "qwen3vl_ros": {"image_headers": [header], "regions": list(regions)}}
    stream = f"data: {json.dumps(word)}\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))


def test_without_a_fresh_frame_the_question_ends_with_the_nodes_sentence(robot: Robot, page: Page, tabs: Tabs) -> None:
    tabs.refusals = True
    robot.camera.stop()
    try:
        expect(page.locator("#no-image")).to_contain_text("no frame")
        turn = ask(page, "What is it?")
        expect(turn).to_have_class(re.compile("failed"))
        expect(turn.locator(".state")).to_contain_text("no frame on /image younger than 2 s")
        expect(turn.locator(".answer")).to_be_empty()
    finally:
        robot.camera.go_on()
    wait_live(page)
    robot.story.tell({"": "A cube."})
    wait_answer(ask(page, "And now?"))


def test_a_frozen_view_is_asked_about_as_it_is_again_and_again(robot: Robot, page: Page) -> None:
    questions = note_questions(page)
    robot.story.tell({"colour": "Green.", "shape": "A cube."})
    freeze(page)
    expect(page.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("button", name="Live")).to_be_focused()
    expect(page.get_by_role("button", name="Freeze")).to_be_disabled()
    expect(page.locator("#subject")).to_have_text(re.compile(r"^Questions are about this image\b"))
    shown = page.locator("#frame").get_attribute("src")
    for text in ("What colour is the box?", "And its shape?"):
        wait_answer(ask(page, text))
        assert page.locator("#frame").get_attribute("src") == shown
    assert not any("camera" in question for question in questions)
    assert [parts(question) for question in questions] == [[["image_url", "text"]], [["image_url", "text"], ["text"]]]
    assert {question["messages"][0]["content"][0]["image_url"]["url"] for question in questions} == {shown}


def test_an_image_that_was_frozen_some_time_ago_says_so(robot: Robot, page: Page) -> None:
    with_age(page, 120.0)
    expect(page.locator("#age")).to_be_visible()
    freeze(page)
    subject = page.locator("#subject")
    expect(subject).to_have_text(
        re.compile(
            r"^Questions are about this image, \d min old\. What the camera sees may have changed: Live looks anew"
        )
    )
    expect(subject).to_have_class("warning")
    check_accessibility(page)
    page.unroute("**/frame.jpg*")
    page.get_by_role("button", name="Live").click()
    expect(subject).not_to_have_class("warning")


def test_the_frame_of_an_answer_can_be_frozen_to_ask_on_about_it(robot: Robot, page: Page) -> None:
    questions = note_questions(page)
    robot.story.tell({"colour": "Green.", "shape": "A cube."})
    wait_answer(ask(page, "What colour is the box?"))
    shown = page.locator("#frame").get_attribute("src")
    freeze(page)
    expect(page.locator(".turn")).to_have_count(0)
    wait_answer(ask(page, "What shape has the box?"))
    assert questions[1]["messages"][0]["content"][0]["image_url"]["url"] == shown


def test_a_question_that_is_stopped_lets_the_live_view_go_on(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "It is a ..."})
    turn = ask(page, "What is it?")
    expect(turn.locator(".answer")).to_have_text("It is a ...")
    expect(page.locator("#caption")).to_contain_text("pauses for the answer")
    expect(page.locator("#age")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(turn.locator(".state")).to_have_text("Stopped.")
    robot.story.wait_cancelled()
    wait_live(page)
