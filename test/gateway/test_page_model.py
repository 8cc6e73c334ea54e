"""The page and what the model is for: its card, the tasks it can do, questions to begin with. Over real DDS."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from browser import Tabs, drop
from page_robot import FOUND, Robot
from page_user import DESK, ask, check_accessibility, drawing, freeze, locate, wait_answer, wait_live, with_status

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]

DOMAIN = "It knows coloured boxes, balls and cylinders only."
TOY = {"demonstration": True, "domain": DOMAIN, "tasks": ["locate", "count", "yes_no"], "conversation": False}

# --- the card --------------------------------------------------------------------------------------------------------


def test_a_demonstration_model_is_called_one_and_the_way_to_a_real_one_is_told(page: Page) -> None:
    expect(page.locator("#demonstration")).to_be_hidden()
    with_status(page, TOY)
    banner = page.get_by_text("This is a demonstration model.")
    expect(banner).to_contain_text(DOMAIN)
    expect(banner).to_contain_text("qwen3vl-ros model use 2b")
    page.unroute("**/api/status")
    expect(banner).to_be_hidden()


def test_a_task_that_the_model_does_not_know_cannot_be_chosen_and_says_why(page: Page) -> None:
    page.get_by_label("Task").select_option("ocr")
    with_status(page, TOY)
    expect(page.locator("#task option[value=ocr]")).to_be_disabled()
    expect(page.locator("#task option[value=ocr]")).to_contain_text("not with this model")
    expect(page.locator("#task option[value=locate]")).to_be_enabled()
    expect(page.get_by_label("Task")).to_have_value("")


def test_a_model_without_conversation_is_asked_each_question_afresh(robot: Robot, page: Page) -> None:
    with_status(page, TOY)
    robot.story.tell({"colour": "Green.", "shape": "A cube."})
    expect(page.locator("#subject")).to_contain_text("This model answers each question by itself")
    freeze(page)
    wait_answer(ask(page, "What colour is the box?"))
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
    wait_answer(ask(page, "And its shape?"))
    assert robot.story.heard[-1] == [["user", ["<image>", "And its shape?"]]]


def test_a_model_that_cannot_answer_is_told(page: Page) -> None:
    with_status(page, state="failed", message="The file is not there.")
    expect(page.locator("#problems")).to_contain_text("The engine cannot answer; it is tried again. The file is not")
    expect(page.locator("#health-engine")).to_have_attribute("data-level", "bad")


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_sent_with_every_question_kept_and_reset(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "A cube."})
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("System prompt").fill("Answer like a pirate.")
    page.get_by_label("Image detail").select_option("low")
    page.get_by_label("Think before answering").select_option("off")
    check_accessibility(page)
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Settings (4)")).to_be_visible()
    page.reload()
    wait_live(page)
    with page.expect_request("**/v1/chat/completions") as asked:
        wait_answer(ask(page, "What is it?"))
    sent = asked.value.post_data_json
    assert (sent["temperature"], sent["max_image_tokens"], sent["thinking"]) == (0.2, 64, False)
    assert robot.story.heard[0][0] == ["system", ["Answer like a pirate."]]
    page.get_by_role("button", name="Settings (4)").click()
    page.get_by_label("Temperature").fill("7")  # out of its range: not sent
    page.get_by_role("button", name="Reset").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings", exact=True)).to_be_visible()
    with page.expect_request("**/v1/chat/completions") as asked:
        wait_answer(ask(page, "What is it?"))
    assert not {"temperature", "max_image_tokens", "thinking"} & set(asked.value.post_data_json)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_have_names_for_people_in_groups(robot: Robot, page: Page) -> None:
    groups = page.locator("#task optgroup")
    assert groups.evaluate_all("groups => groups.map(({label}) => label)") == [
        *("Describe", "Decide", "Find", "Read text", "Over time", "Make")
    ]
    names = page.locator("#task option").all_inner_texts()
    assert not any("_" in name for name in names), names
    page.get_by_label("Task").select_option("Find: what fits a description")
    expect(page.get_by_label("What to find")).to_be_visible()


def test_a_task_is_asked_and_does_not_follow_up(robot: Robot, page: Page) -> None:
    robot.story.tell({"colour": "Green.", "": json.dumps(FOUND)})
    wait_answer(ask(page, "What colour is the box?"))
    expect(page.get_by_role("button", name="Follow up")).to_be_visible()
    page.get_by_label("Task").select_option("locate")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
    turn = locate(page, "everything")
    wait_answer(turn)
    expect(turn.locator(".question")).to_have_text("Find: what fits a description everything")


# --- questions to begin with -----------------------------------------------------------------------------------------


def test_a_question_to_begin_with_is_asked_by_a_click_and_they_go_then(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "Boxes."})
    page.get_by_role("button", name="What do you see?").click()
    wait_answer(page.locator(".turn"))
    assert robot.story.heard == [[["user", ["<image>", "What do you see?"]]]]
    expect(page.locator("#examples")).to_be_hidden()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#examples")).to_be_visible()


def test_questions_to_begin_with_fit_the_model(page: Page) -> None:
    expect(page.get_by_role("button", name="Read the text")).to_be_visible()
    with_status(page, TOY)
    expect(page.get_by_role("button", name="Is there a cylinder?")).to_be_visible()
    expect(page.get_by_role("button", name="Read the text")).to_be_hidden()
    with_status(page, {"tasks": ["caption"]})
    expect(page.get_by_role("button", name="What do you see?")).to_be_visible()
    expect(page.get_by_role("button", name="Read the text")).to_be_hidden()


def test_questions_to_begin_with_are_about_what_was_found_there(robot: Robot, page: Page) -> None:
    robot.story.tell({"": json.dumps(FOUND)})
    wait_answer(locate(page, "everything"))
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="What colour is the orange ball?")).to_be_visible()
    drop(page, drawing(), "a.png", "image/png")  # another image
    expect(page.get_by_role("button", name="What do you see?")).to_be_visible()
    expect(page.get_by_role("button", name="What colour is the orange ball?")).to_be_hidden()


def test_the_banner_and_the_questions_to_begin_with_are_accessible(robot: Robot, tabs: Tabs) -> None:
    for scheme in ("light", "dark"):
        page = tabs.open(robot.url, color_scheme=scheme, **DESK)
        with_status(page, TOY)
        wait_live(page)
        expect(page.get_by_role("button", name="Is there a cylinder?")).to_be_visible()
        check_accessibility(page)
