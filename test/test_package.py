"""What a package that depends on this one finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import qwen3vl_ros
from qwen3vl_ros import ISSUES, defect


def test_the_version_is_that_of_the_manifest() -> None:
    manifest = ElementTree.parse(Path(__file__).parents[1] / "package.xml")
    assert qwen3vl_ros.__version__ == manifest.findtext("version")


def test_a_defect_is_reported_where_the_manifest_says() -> None:
    manifest = ElementTree.parse(Path(__file__).parents[1] / "package.xml")
    assert manifest.findtext("url[@type='bugtracker']") == ISSUES
    assert ISSUES in defect("ValueError: x")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = qwen3vl_ros.nothing


def test_a_program_in_the_root_of_the_repository_finds_the_generated_interfaces() -> None:
    root = Path(__file__).parents[1]
    script = "import qwen3vl_ros; from qwen3vl_ros.client import VlmClient; print(qwen3vl_ros.__file__)"
    found = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60.0)
    assert found.stdout.strip() == str(root / "qwen3vl_ros" / "__init__.py"), found.stderr


def test_the_built_package_says_that_it_has_types() -> None:
    assert (Path(qwen3vl_ros.__file__).parent / "py.typed").exists()
