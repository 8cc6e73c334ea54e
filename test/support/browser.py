"""A real headless Chromium for the tests of the page, which fail on whatever it complains about."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PATIENCE = 60_000.0
"""Milliseconds after which something that should have happened in the page has not."""

_SWITCHES = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a green image with a moving clock
    "--use-fake-ui-for-media-stream",  # and a user who allows its use
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_REFUSED = "Failed to load resource"
"""How Chromium's console begins to report a response that is an error."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Without one the tests are skipped, but never in CI."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sentence = "there is no Chromium to test the page with: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_SWITCHES))
        try:
            yield browser
        finally:
            browser.close()


class Tabs:
    """Opens tabs, each with a session of its own, and notes what goes wrong in them and whom they talk to.

    ``refusals``: whether responses may be errors, which the browser complains about.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._complaints: list[str] = []
        self._hosts: set[str] = set()
        self.refusals = False

    def open(self, url: str, **options: Any) -> Page:
        """A tab with the page at ``url``; ``options`` are those of ``Browser.new_context``."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("request", self._on_request)
        page.goto(url)
        return page

    def close(self) -> None:
        """Close the tabs. Fails with what went wrong."""
        for context in self._browser.contexts:
            for page in context.pages:
                page.unroute_all(behavior="ignoreErrors")  # a routed request may be on its way
            context.close()
        wrong = [line for line in self._complaints if not (self.refusals and line.startswith(_REFUSED))]
        assert not wrong, wrong
        assert self._hosts <= {"127.0.0.1"}, "the page talks to others"

    def forget_complaints(self) -> None:
        """Of what went wrong so far nothing counts: a test has provoked it."""
        self._complaints.clear()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._complaints.append(message.text)

    def _on_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob"):
            self._hosts.add(address.hostname or "")


def drop(page: Page, file: bytes, name: str, kind: str) -> None:
    """Let a file of type ``kind`` be dropped onto the image."""
    page.evaluate(
        """([base64, name, type]) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name, {type}));
            const dropped = new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer});
            document.querySelector("#stage").dispatchEvent(dropped);
        }""",
        [base64.b64encode(file).decode(), name, kind],
    )


def paste(page: Page, png: bytes) -> None:
    """Put an image into the clipboard and press the keys that paste it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const image = new Blob([bytes], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": image})]);
        }""",
        base64.b64encode(png).decode(),
    )
    page.keyboard.press("Control+V")
