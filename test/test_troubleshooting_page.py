"""The page is found by the words of a sentence: each heading is in the code as it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def headings() -> list[str]:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^### `(.+)`$", page, re.MULTILINE)


def strings(node: ast.AST) -> Iterator[str]:
    """What is written in the code, with … for what is put in; a sentence may be made of several strings."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value
        elif isinstance(inner, ast.FormattedValue):
            yield "…"
        elif not isinstance(inner, ast.Constant):
            yield from strings(inner)


@pytest.fixture(scope="module")
def sentences() -> str:
    sources = sorted((ROOT / "qwen3vl_ros").rglob("*.py"))
    return "\n".join("".join(strings(ast.parse(path.read_text(encoding="utf-8")))) for path in sources)


@pytest.mark.parametrize("heading", headings())
def test_a_heading_is_what_the_code_says(heading: str, sentences: str) -> None:
    parts = [part.strip() for part in heading.split("…")]
    assert any(len(part) > 12 for part in parts)
    missing = [part for part in parts if part not in sentences]
    assert not missing
