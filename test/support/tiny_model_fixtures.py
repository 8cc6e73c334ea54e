"""Fixtures of what runs the tiny Qwen3-VL, a plugin that its tests load. All share the files: none may change them."""

from __future__ import annotations

from pathlib import Path

import pytest

import openvino_export
import tiny_qwen3vl
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference


@pytest.fixture(scope="session")
def tiny(pytestconfig: pytest.Config) -> TinyModel:
    assert pytestconfig.cache is not None
    return tiny_qwen3vl.make(pytestconfig.cache.mkdir("tiny"))


@pytest.fixture(scope="session")
def reference(tiny: TinyModel) -> Reference:
    return Reference(tiny.hf_dir)


@pytest.fixture(scope="session")
def exported(tiny: TinyModel, pytestconfig: pytest.Config) -> Path:
    """The directory of its OpenVINO IR."""
    assert pytestconfig.cache is not None
    return openvino_export.export(tiny.hf_dir, pytestconfig.cache.mkdir("openvino"))
