"""Correcting an answer on the page, which the node writes into its recording. Over real DDS."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser import Tabs
from page_robot import robot_in
from page_user import DESK, ask, check_accessibility, wait_answer, wait_live
from qwen3vl_ros.vlm.recorded_answers import read_answers
from ros_client import RosClient

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


def test_an_answer_is_corrected_and_recorded(browser: Browser, tabs: Tabs, ros: RosClient, tmp_path: Path) -> None:
    directory = tmp_path / "rec"
    with robot_in(tmp_path, ros, record__directory=str(directory)) as robot:
        page = tabs.open(robot.url, **DESK)
        wait_live(page)
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

        page.route("**/api/corrections", lambda route: route.fulfill(status=503, json={"error": {"message": "Full."}}))
        turn.get_by_role("button", name="Correct").click()
        expect(field).to_have_value("A green box.")
        field.fill("A blue box.")
        turn.get_by_role("button", name="Save").click()
        expect(turn.get_by_text("Full.")).to_be_visible()
        field.press("Escape")
        expect(field).to_be_hidden()
        expect(turn.get_by_text("Corrected: A green box.")).to_be_visible()
