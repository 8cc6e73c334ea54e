"""The page of the architecture names functions that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = " ".join((REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").split())
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:: (\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_is_in_the_code(file: str, name: str) -> None:
    source = (REPOSITORY / "qwen3vl_ros" / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", source, re.MULTILINE)


def test_the_page_names_much_of_the_code() -> None:
    assert len(NAMED) > 30
