"""Fixtures of the page's tests, a plugin that they load: a browser, a robot, and a tab with the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from browser import Tabs, chromium
from page_robot import Robot, robot_in
from page_user import DESK, wait_live
from ros_client import RosClient


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def robot(browser: Browser, ros: RosClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """What a module's tests share; they leave it as they found it."""
    with robot_in(tmp_path_factory.mktemp("robot"), ros) as running:
        yield running


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    opened = Tabs(browser)
    yield opened
    opened.close()


@pytest.fixture
def page(robot: Robot, tabs: Tabs) -> Page:
    """The page on a desk, with the live view."""
    opened = tabs.open(robot.url, **DESK)
    wait_live(opened)
    return opened
