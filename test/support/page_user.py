"""What somebody does with the page, and what they read there."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from browser import PATIENCE

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DESK = {"viewport": {"width": 1280, "height": 800}}
expect.set_options(timeout=PATIENCE)


def by(width: int, height: int) -> str:
    """A size as the page writes it."""
    return f"{width} \N{MULTIPLICATION SIGN} {height}"


def wait_live(page: Page) -> None:
    expect(page.locator("#caption")).to_contain_text(f"live · {by(640, 480)}")
    expect(page.locator("#task option[value=locate]")).to_be_attached()


def ask(page: Page, text: str) -> Locator:
    """Type a question and press Enter; the turn that it becomes."""
    page.get_by_role("textbox", name="Question").fill(text)
    page.get_by_role("textbox", name="Question").press("Enter")
    return page.locator(".turn").last


def freeze(page: Page) -> None:
    """Stay at the image on the screen."""
    page.get_by_role("button", name="Freeze").click()
    expect(page.locator("#caption")).to_contain_text("frozen: questions are about this image")


def wait_answer(turn: Locator) -> Locator:
    """The answer, once it is complete."""
    expect(turn).not_to_have_class(re.compile("running"))
    assert "failed" not in (turn.get_attribute("class") or ""), turn.locator(".state").inner_text()
    return turn.locator(".answer")


def locate(page: Page, what: str) -> Locator:
    page.get_by_label("Task").select_option("locate")
    page.get_by_label("What to find").fill(what)
    page.get_by_role("button", name=re.compile("^(Ask|Follow up)$")).click()
    return page.locator(".turn").last


def place(page: Page) -> list[float]:
    """Where the only region is, as its row says: metres where known, then width, height, left and top in pixels."""
    return [float(number) for number in re.findall(r"-?\d[\d.]*", page.locator("button.region .place").inner_text())]


def png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawing(size: tuple[int, int] = (400, 600), box: tuple[int, int, int, int] = (80, 60, 159, 299)) -> bytes:
    """A grey PNG with a magenta box; (left, top, right, bottom) are its outermost pixels."""
    image = PIL.Image.new("RGB", size, (90, 90, 90))
    PIL.ImageDraw.Draw(image).rectangle(box, fill=(255, 0, 255))
    return png(image)


CARD = {
    "domain": "",
    "demonstration": False,
    "tasks": [],
    "conversation": True,
    "languages": [],
    "license": "",
    "grounding_image_tokens": 0,
}
"""The model card of a model without limits, as /api/status has it."""


def with_status(page: Page, card: Mapping[str, Any] | None = None, **fields: Any) -> None:
    """Let the page see the gateway's own status with other fields; ``card``: other fields of its model card."""

    def serve(route: Route) -> None:
        status = route.fetch().json()
        route.fulfill(json=status | fields | {"model_card": status["model_card"] | (card or {})})

    page.route("**/api/status", serve)


def check_accessibility(page: Page) -> None:
    """What axe-core, the checker that browsers' own tools use, has to say."""
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def keep_for_the_documentation(page: Page, name: str) -> None:
    """Write docs/NAME anew where the environment's QWEN3VL_ROS_SCREENSHOTS says where docs/ is."""
    if folder := os.environ.get("QWEN3VL_ROS_SCREENSHOTS"):
        screen = page.screenshot(full_page=True, scale="css", animations="disabled")
        PIL.Image.open(io.BytesIO(screen)).convert("RGB").save(Path(folder) / name, optimize=True)
