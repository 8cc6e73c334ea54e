"""What a package that depends on this one finds."""

from __future__ import annotations

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


def test_the_built_package_says_that_it_has_types() -> None:
    assert (Path(qwen3vl_ros.__file__).parent / "py.typed").exists()
