"""Answers on the page: Markdown, code, tables; and that nothing in them can run. Over real DDS."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from browser import Tabs
from page_robot import FOUND, Robot
from page_user import DESK, ask, check_accessibility, locate, wait_answer, wait_live

pytestmark = pytest.mark.ros
pytest_plugins = ["page_fixtures"]

# --- Markdown --------------------------------------------------------------------------------------------------------

REPORT = """## What I see

There is a **green box**:

| thing | colour |
|---|---|
| box | green |

1. First
2. See [here](https://example.org/a)

```python
def ask():  # a comment
    return "yes"
```

Done."""


def test_markdown_is_shown_as_headings_tables_lists_links_and_code(robot: Robot, page: Page) -> None:
    robot.story.tell({"": REPORT})
    answer = wait_answer(ask(page, "What do you see?"))
    expect(answer.locator("pre")).to_have_text('def ask():  # a comment\n    return "yes"\n')
    expect(answer.get_by_role("heading", name="What I see")).to_be_visible()
    expect(answer.get_by_role("cell")).to_have_text(["box", "green"])
    expect(answer.get_by_role("listitem")).to_have_count(2)
    expect(answer.get_by_role("link")).to_have_attribute("href", "https://example.org/a")
    plain, keyword = (
        answer.locator(place).evaluate("e => getComputedStyle(e).color") for place in ("pre", "pre .k >> nth=0")
    )
    assert plain != keyword


def test_code_has_a_button_that_copies_it(robot: Robot, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    robot.story.tell({"": REPORT})
    answer = wait_answer(ask(page, "What do you see?"))
    answer.get_by_role("button", name="Copy code").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == 'def ask():  # a comment\n    return "yes"\n'


def test_lines_are_rendered_while_the_next_ones_come(robot: Robot, page: Page) -> None:
    robot.story.tell({"": "## Title\n\n- **one**\n- two and ..."})
    turn = ask(page, "What do you see?")
    expect(turn.locator(".answer strong")).to_have_text("one")
    expect(turn.locator(".line")).to_contain_text("two and ...")
    heights = turn.locator(".answer").evaluate("answer => answer.offsetHeight")
    page.get_by_role("button", name="Stop").click()
    expect(turn.get_by_role("listitem")).to_have_text(["one", "two and ..."])
    line = turn.get_by_role("listitem").first.evaluate("item => item.offsetHeight")
    assert abs(turn.locator(".answer").evaluate("answer => answer.offsetHeight") - heights) <= line  # nothing jumps


def test_nothing_that_an_answer_contains_runs_or_leads_anywhere_else(robot: Robot, page: Page) -> None:
    page.evaluate("() => { window.ran = []; window.alert = (what) => window.ran.push(what); }")
    hostile = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "[one](javascript:alert(3)) [two](data:text/html,<script>alert(4)</script>)",
        "![pixel](https://elsewhere.example/pixel.png)",
        "<svg onload=alert(5)></svg>",
        "<a href='javascript:alert(6)'>three</a>",
        '<p style="position:fixed;inset:0">four</p>',
        "> " * 300 + "deep",
        "[" * 500,
        "last words",
    ]
    robot.story.tell({"": "\n\n".join(hostile)})
    answer = wait_answer(ask(page, "What is it?"))
    expect(answer.get_by_text("last words")).to_be_visible()
    expect(answer.locator("p").first).to_have_text("<script>alert(1)</script>")
    assert answer.locator("script, img, svg, a, style, [style], [onerror], [onload]").count() == 0
    assert page.evaluate("window.ran") == []  # and Tabs sees that nobody else was talked to


def test_the_browser_itself_refuses_html_from_anywhere_else(page: Page, tabs: Tabs) -> None:
    script = """html => {
        try { document.querySelector("#subject").innerHTML = html; return "was put in"; }
        catch (error) { return error.name; }
    }"""
    assert page.evaluate(script, "<b>x</b>") == "TypeError"
    tabs.forget_complaints()


def test_an_answer_stays_readable_when_it_cannot_be_rendered(robot: Robot, page: Page, tabs: Tabs) -> None:
    tabs.refusals = True
    page.route("**/api/render", lambda route: route.fulfill(status=503, json={"error": {"message": "busy"}}))
    robot.story.tell({"": "**A** cube.\nAnd a ball."})
    turn = ask(page, "What is it?")
    assert wait_answer(turn).inner_text() == "**A** cube.\nAnd a ball."


def test_a_rendered_answer_is_accessible(robot: Robot, tabs: Tabs) -> None:
    robot.story.tell({"": REPORT})
    for scheme in ("light", "dark"):
        page = tabs.open(robot.url, color_scheme=scheme, **DESK)
        wait_live(page)
        expect(wait_answer(ask(page, "What do you see?")).get_by_role("button", name="Copy code")).to_be_visible()
        check_accessibility(page)


# --- values and places -----------------------------------------------------------------------------------------------


def test_values_are_shown_as_people_read_them_and_the_json_is_at_hand(robot: Robot, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    value = {"same": False, "unit": None, "differences": ["a cup", "a lid"], "in_parts": [{"name": "cup", "count": 2}]}
    robot.story.tell({"": json.dumps(value)})
    answer = wait_answer(ask(page, "What has changed? Answer in JSON."))
    expect(answer.get_by_role("term")).to_have_text(["same", "unit", "differences", "in parts"])
    expect(answer.get_by_role("definition").first).to_have_text("no")
    expect(answer.get_by_role("listitem")).to_have_text(["a cup", "a lid"])
    expect(answer.get_by_role("columnheader")).to_have_text(["name", "count"])
    expect(answer.get_by_role("cell")).to_have_text(["cup", "2"])
    expect(answer.locator("pre")).to_be_hidden()
    answer.get_by_text("JSON", exact=True).click()
    answer.get_by_role("button", name="Copy JSON").click()
    expect(answer.get_by_role("button", name="Copied")).to_be_visible()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == value
    check_accessibility(page)


def test_a_count_is_a_number(robot: Robot, page: Page) -> None:
    robot.story.tell({"": '{"count": 3}'})
    page.get_by_label("Task").select_option("count")
    page.get_by_label("What to count").fill("balls")
    page.get_by_role("button", name="Ask", exact=True).click()
    answer = wait_answer(page.locator(".turn"))
    expect(answer.get_by_role("term")).to_have_text("count")
    expect(answer.get_by_role("definition")).to_have_text("3")
    page.get_by_role("button", name="History").click()
    expect(page.locator("#past .answer")).to_have_text("count: 3")


def test_boxes_in_the_answer_to_a_free_question_are_names_and_not_json(robot: Robot, page: Page) -> None:
    robot.story.tell({"": json.dumps(FOUND)})
    answer = wait_answer(ask(page, "Where is everything?"))
    expect(answer.locator("p")).to_have_text("Found: orange ball, green box, blue ball.")
    expect(answer.locator("pre").first).to_be_hidden()
    expect(page.locator("button.region")).to_have_count(3)


def test_metres_have_directions_and_a_frame(robot: Robot, page: Page) -> None:
    robot.story.tell({"": json.dumps(FOUND[1:2])})
    wait_answer(locate(page, "green box"))
    expect(page.locator("button.region .place")).to_have_text(
        re.compile(r"^1\.50 m ahead, 0\.3\d m left, 0\.2\d m down in lens · 64 . 78 px at 160, 305$")
    )


def test_metres_in_another_frame_than_the_cameras_have_its_axes(page: Page) -> None:
    region = {"label": "cup", "image": 0, "box": [1, 2, 3, 4], "point": None, "polygon": [], "problem": ""}
    region |= {"position": [1.119, -0.27, 0.841], "frame_id": "map", "score": 0.87}
    header = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": "lens"}
    end = {"choices": [], "qwen3vl_ros": {"image_headers": [header], "regions": [region]}}
    stream = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    wait_answer(locate(page, "cup"))
    expect(page.locator("button.region .place")).to_contain_text("x 1.12, y -0.27, z 0.84 m in map")
    expect(page.locator("button.region .score")).to_have_text("score 0.87")


def test_of_a_thing_that_is_followed_through_a_clip_the_last_frame_is_shown(page: Page) -> None:
    headers = [{"stamp": {"sec": sec, "nanosec": 0}, "frame_id": "lens"} for sec in (1, 2, 3)]
    region = {"label": "cup", "point": None, "polygon": [], "position": None, "frame_id": None, "problem": ""}
    regions = [{**region, "image": image, "box": [10 * image, 2, 3, 4], "score": None} for image in (0, 1)]
    end = {"choices": [], "qwen3vl_ros": {"image_headers": headers, "regions": regions}}
    stream = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    answer = wait_answer(locate(page, "cup"))
    expect(answer.locator("p").first).to_have_text("Found: 2 \u00d7 cup.")
    expect(page.locator("button.region .place")).to_have_text("3 \u00d7 4 px at 10, 2")


def test_times_in_an_answer_about_a_clip_are_a_list(page: Page) -> None:
    headers = [{"stamp": {"sec": 9, "nanosec": 900_000_000}, "frame_id": "lens"}] * 2
    moments = [
        {"label": "It falls.", "stamp": {"sec": 14, "nanosec": 400_000_000}, "image": 1},
        {"label": "", "stamp": {"sec": 10, "nanosec": 900_000_000}, "image": 0},
    ]
    moments[0]["end_stamp"] = {"sec": 75, "nanosec": 0}
    moments[1]["end_stamp"] = moments[1]["stamp"]
    end = {
        "choices": [{"index": 0, "delta": {"content": "It falls."}, "finish_reason": "stop"}],
        "qwen3vl_ros": {"image_headers": headers, "moments": moments},
    }
    stream = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    wait_answer(ask(page, "When?"))
    times = page.get_by_role("list", name="Times in the answer").get_by_role("listitem")
    expect(times).to_have_text(["0:04.5 \u2013 1:05.1 It falls.", "0:01.0"])
