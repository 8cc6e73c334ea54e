"""Watches on the page: added, seen to happen, muted, ended. A Chromium, over real DDS."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from browser import Tabs
from page_robot import Robot
from page_user import check_accessibility

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


def test_a_watch_is_added_shows_what_it_saw_is_muted_and_ended(robot: Robot, page: Page) -> None:
    robot.story.tell({"ball": "Yes", "": "No"})
    page.get_by_role("button", name="Watches").click()
    expect(page.get_by_text("Nothing is watched.")).to_be_visible()
    page.get_by_role("textbox", name="Question to watch").fill("Is there a ball?")
    page.get_by_role("button", name="Watch", exact=True).click()
    watch = page.get_by_role("list", name="What is watched").get_by_role("listitem")
    expect(watch).to_contain_text("Is there a ball?")
    expect(watch).to_contain_text("now: Yes")
    expect(page.get_by_role("textbox", name="Question to watch")).to_have_value("")
    event = page.get_by_role("list", name="What was seen").get_by_role("listitem")
    expect(event).to_contain_text("Is there a ball?")
    expect(event).to_contain_text("it is so · Yes")
    expect(event.get_by_role("img")).to_have_js_property("naturalWidth", 640)
    check_accessibility(page)
    mute = watch.get_by_role("button", name=re.compile("^Mute"))
    mute.click()
    expect(mute).to_have_attribute("aria-pressed", "true")
    watch.get_by_role("button", name=re.compile("^End")).click()
    expect(page.get_by_text("Nothing is watched.")).to_be_visible()
    page.get_by_role("button", name="Close").click()


def test_what_the_node_refuses_is_said(page: Page, tabs: Tabs) -> None:
    tabs.refusals = True
    page.get_by_role("button", name="Watches").click()
    page.get_by_role("textbox", name="Question to watch").fill(" ")
    page.get_by_role("button", name="Watch", exact=True).click()
    expect(page.locator("#watches-note")).to_contain_text("prompt")
    expect(page.get_by_text("Nothing is watched.")).to_be_visible()
