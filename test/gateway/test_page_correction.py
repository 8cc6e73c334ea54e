"""Correcting an answer on the page, which the node writes into its recording. Over real DDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from browser import Tabs
from page_robot import Robot, robot_in
from page_user import ask, check_accessibility, wait_answer, with_status
from qwen3vl_ros.vlm.recorded_answers import read_answers
from ros_client import RosClient

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recording") / "rec"


@pytest.fixture(scope="module")
def robot(
    browser: Browser, ros: RosClient, directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Robot]:
    """One whose node records."""
    with robot_in(tmp_path_factory.mktemp("robot"), ros, record__directory=str(directory)) as running:
        yield running


def test_an_answer_is_corrected_and_recorded(robot: Robot, page: Page, tabs: Tabs, directory: Path) -> None:
    robot.story.tell({"": "A red box."})
    turn = ask(page, "What do you see?")
    wait_answer(turn)
    turn.get_by_role("button", name="Correct").click()
    field = turn.get_by_role("textbox", name="The right answer")
    expect(field).to_have_value("A red box.")
    expect(field).to_be_focused()
    check_accessibility(page)
    field.fill(" ")
    turn.get_by_role("button", name="Save").click()
    expect(turn.get_by_text("Write what the model should have answered.")).to_be_visible()
    field.fill("A green box.")
    turn.get_by_role("button", name="Save").click()
    expect(turn.get_by_text("Corrected: A green box.")).to_be_visible()
    expect(field).to_be_hidden()
    (answer,) = read_answers(directory)
    assert (answer.entry["text"], answer.correction) == ("A red box.", "A green box.")
    (image,) = answer.entry["images"]
    assert (image["width"], image["height"], image["frame_id"]) == (640, 480, "lens")

    tabs.refusals = True
    page.route("**/api/corrections", lambda route: route.fulfill(status=503, json={"error": {"message": "Full."}}))
    turn.get_by_role("button", name="Correct").click()
    expect(field).to_have_value("A green box.")
    field.fill("A blue box.")
    turn.get_by_role("button", name="Save").click()
    expect(turn.get_by_text("Full.")).to_be_visible()
    field.press("Escape")
    expect(field).to_be_hidden()
    expect(turn.get_by_text("Corrected: A green box.")).to_be_visible()

    with_status(page, records=False)
    expect(turn.get_by_role("button", name="Correct")).to_be_hidden()
