"""Nothing that was asked is lost: failed, stopped and interrupted questions, and the history. Over real DDS."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from browser import Tabs
from page_robot import Robot
from page_user import DESK, ask, check_accessibility, freeze, wait_answer, wait_live

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]


@pytest.fixture
def fail(page: Page, tabs: Tabs) -> Callable[[], None]:
    """Let the next questions fail with a sentence of the gateway, until the route is taken away."""
    tabs.refusals = True

    def refuse(route: Route) -> None:
        error = {"message": "the node is away", "type": "server_error", "param": None, "code": "server_unavailable"}
        route.fulfill(status=503, json={"error": error}, headers={"Retry-After": "5"})

    return lambda: page.route("**/v1/chat/completions", refuse)


# --- failed, stopped, interrupted ------------------------------------------------------------------------------------


def test_a_failed_question_stays_in_the_field_and_can_be_asked_again(
    robot: Robot, page: Page, fail: Callable[[], None]
) -> None:
    fail()
    turn = ask(page, "What is it?")
    expect(turn.locator(".state")).to_have_text("the node is away. Try again in 5 s.")
    expect(page.get_by_role("textbox", name="Question")).to_have_value("What is it?")
    page.unroute("**/v1/chat/completions")
    robot.story.tell({"": "A cube."})
    turn.get_by_role("button", name="Retry").click()
    expect(page.locator(".turn")).to_have_count(1)
    assert wait_answer(page.locator(".turn")).inner_text() == "A cube."
    expect(page.get_by_role("textbox", name="Question")).to_have_value("")
    assert robot.story.heard == [[["user", ["<image>", "What is it?"]]]]


def test_a_failed_task_is_asked_again_with_all_that_was_filled_in(
    robot: Robot, page: Page, fail: Callable[[], None]
) -> None:
    fail()
    page.get_by_label("Task").select_option("classify")
    page.get_by_label("The labels").fill("open, closed")
    page.get_by_label("What to judge").fill("the door")
    page.get_by_role("button", name="Ask", exact=True).click()
    turn = page.locator(".turn")
    expect(turn).to_have_class(re.compile("failed"))
    expect(page.get_by_label("The labels")).to_have_value("open, closed")
    page.unroute("**/v1/chat/completions")
    robot.story.tell({"": '{"label": "open"}'})
    turn.get_by_role("button", name="Retry").click()
    wait_answer(page.locator(".turn"))
    assert "the door best: open, closed" in robot.story.heard[0][0][1][1]


def test_what_is_being_written_is_not_replaced_by_a_question_that_fails(
    page: Page, fail: Callable[[], None], robot: Robot
) -> None:
    fail()
    field = page.get_by_role("textbox", name="Question")
    with page.expect_request("**/v1/chat/completions"):
        field.fill("What is it?")
        page.evaluate("""() => {
            document.querySelector("#composer").requestSubmit();
            queueMicrotask(() => setTimeout(() => (document.querySelector("#prompt").value = "And"), 0));
        }""")
    expect(page.locator(".turn.failed")).to_be_visible()
    expect(field).to_have_value(re.compile("^(And|What is it\\?)$"))


def test_arrow_up_recalls_what_was_asked_before(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "A cube."})
    wait_answer(ask(page, "What is it?"))
    wait_answer(ask(page, "And its colour?"))
    field = page.get_by_role("textbox", name="Question")
    field.press("ArrowUp")
    expect(field).to_have_value("And its colour?")
    field.press("ArrowUp")
    field.press("ArrowUp")
    expect(field).to_have_value("What is it?")
    field.press("ArrowDown")
    field.press("ArrowDown")
    expect(field).to_have_value("")
    field.fill("Written now")
    field.press("ArrowUp")
    expect(field).to_have_value("Written now")


def test_a_reload_while_an_answer_comes_keeps_the_question_and_what_came(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "It is a ..."})
    turn = ask(page, "What is it?")
    expect(turn.locator(".answer")).to_have_text("It is a ...")
    page.evaluate("""async () => {
        const result = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
        const database = await result(indexedDB.open("qwen3vl_ros"));
        for (let texts = []; !texts.includes("It is a ..."); ) {
            const kept = await result(database.transaction("conversations").objectStore("conversations").getAll());
            texts = kept.map(({turns}) => turns[0].answer.text);
        }
        database.close();
    }""")
    page.reload()
    robot.story.wait_cancelled()
    expect(page.locator(".turn .question")).to_have_text("What is it?")
    expect(page.locator(".turn .answer")).to_have_text("It is a ...")
    expect(page.locator(".turn .state")).to_have_text("The page was closed or reloaded before the answer was complete.")
    expect(page.get_by_role("textbox", name="Question")).to_have_value("What is it?")
    robot.story.tell({"": "A cube."})
    page.get_by_role("button", name="Retry").click()
    assert wait_answer(page.locator(".turn")).inner_text() == "A cube."


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_waiting_moves_and_tells_seconds_and_what_is_usual(robot: Robot, page: Page) -> None:
    robot.story.tell({"long": "It is a ...", "": "Green. " * 20})
    turn = ask(page, "A long one?")
    expect(turn.locator(".waiting")).to_contain_text(re.compile(r"Answering… · [1-9]\d* s$"))
    expect(turn.get_by_role("progressbar")).not_to_have_attribute("value", re.compile(""))  # nothing is known yet
    page.get_by_role("button", name="Stop").click()
    expect(turn.get_by_role("progressbar")).to_be_hidden()
    wait_answer(ask(page, "What colour is the box?"))
    page.reload()  # what is usual is kept
    wait_live(page)
    turn = ask(page, "Another long one?")
    expect(turn.locator(".waiting")).to_contain_text(re.compile(r"Answering… · \d+ s · usually (less than 1|\d+) s$"))
    expect(turn.get_by_role("progressbar")).to_have_attribute("value", re.compile(r"0\.\d"))
    check_accessibility(page)


# --- the history -----------------------------------------------------------------------------------------------------


def test_conversations_survive_a_closed_tab_and_are_found_by_their_words(robot: Robot, page: Page) -> None:
    robot.story.tell({"colour": "Green.", "shape": "A cube."})
    freeze(page)
    wait_answer(ask(page, "What colour is the box?"))
    page.get_by_role("button", name="New conversation").click()
    wait_answer(ask(page, "What shape is it?"))
    context = page.context
    page.close()
    page = context.new_page()
    page.goto(robot.url)
    wait_live(page)
    page.get_by_role("button", name="History").click()
    entries = page.locator("#past .open")
    expect(entries).to_have_count(2)
    page.get_by_role("searchbox").fill("CUBE shape")
    expect(entries).to_have_count(1)
    entries.click()
    expect(page.locator("#past")).to_be_hidden()
    expect(page.locator(".turn .answer")).to_have_text("A cube.")
    page.get_by_role("button", name="History").click()
    page.get_by_role("searchbox").fill("sphere")
    expect(page.get_by_text("Nothing has these words.")).to_be_visible()


def test_the_history_can_be_exported_as_json(robot: Robot, page: Page, tmp_path: Path) -> None:
    robot.story.tell({"": "Green."})
    wait_answer(ask(page, "What colour is the box?"))
    page.get_by_role("button", name="History").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export JSON").click()
    assert re.fullmatch(r"qwen3vl_ros-\d{4}-\d\d-\d\d\.json", download.value.suggested_filename)
    download.value.save_as(tmp_path / "history.json")
    [conversation] = json.loads((tmp_path / "history.json").read_text())
    [turn] = conversation["turns"]
    assert (turn["title"], turn["answer"]["text"]) == ("What colour is the box?", "Green.")
    assert turn["image"]["url"].startswith("data:image/jpeg;base64,")


def test_one_conversation_or_all_can_be_forgotten_for_good(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "Green."})
    for text in ("First?", "Second?", "Third?"):
        wait_answer(ask(page, text))
        page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Forget: Second?").click()
    expect(page.locator("#past .question")).to_have_text(["Third?", "First?"])
    page.reload()
    wait_live(page)
    page.get_by_role("button", name="History").click()
    expect(page.locator("#past .question")).to_have_text(["Third?", "First?"])
    page.get_by_role("button", name="Forget all").click()
    expect(page.locator("#past .question")).to_have_count(2)  # one click is too few
    page.get_by_role("button", name="Really forget all?").click()
    expect(page.get_by_text("Nothing was asked yet.")).to_be_visible()
    page.reload()
    wait_live(page)
    page.get_by_role("button", name="History").click()
    expect(page.get_by_text("Nothing was asked yet.")).to_be_visible()


def test_a_browser_that_keeps_nothing_says_so(robot: Robot, tabs: Tabs) -> None:
    page = tabs.open("about:blank", **DESK)
    page.add_init_script("""IDBFactory.prototype.open = function () {
        const request = {};
        setTimeout(() => request.onerror(), 0);
        request.error = new DOMException("no", "SecurityError");
        return request;
    }""")
    page.goto(robot.url)
    wait_live(page)
    robot.story.tell({"": "Green."})
    wait_answer(ask(page, "What colour is the box?"))
    page.get_by_role("button", name="History").click()
    expect(page.locator("#past-note")).to_contain_text("did not keep the last conversation (SecurityError)")
    expect(page.locator("#past .question")).to_have_text("What colour is the box?")


def test_the_history_and_a_failed_question_are_accessible(
    robot: Robot, tabs: Tabs, page: Page, fail: Callable[[], None]
) -> None:
    fail()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        turn = ask(page, "What is it?")
        expect(turn).to_have_class(re.compile("failed"))
        check_accessibility(page)
        page.get_by_role("button", name="History").click()
        check_accessibility(page)
        page.get_by_role("button", name="Close").click()
