"""Every engine keeps the contract: the conformance suite on the engines of this package, and on the example of one."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import broken_engines
from qwen3vl_ros.engines import registry
from qwen3vl_ros.engines.base import Chunk, Engine, EngineError, Message, Request
from qwen3vl_ros.engines.conformance import EngineConformance
from qwen3vl_ros.engines.llama import LlamaEngine
from qwen3vl_ros.engines.process import EngineProcess, EngineSpec, Health, State

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "engine_package"
sys.path.append(str(EXAMPLE))
from mean_colour import MeanColourEngine  # noqa: E402


class TestLlama(EngineConformance):
    """With the shipped model. It answers in one word, so a grammar makes it speak longer."""

    engine_class = LlamaEngine

    @pytest.fixture(scope="class")
    def config(self, share: Path) -> Mapping[str, Any]:
        # One thread: two that wait for each other crawl when something else has the second core.
        return {"model": str(share / "models" / "tabletop"), "n_threads": 1}

    def long_request(self, engine: Engine) -> Request:
        return self.request(engine, "Say it.", schema={"const": "Œuvre: 猫 und 🦊, ½ Żółw in the blue box"})

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


class TestMeanColour(EngineConformance):
    """The example of a third party's engine."""

    engine_class = MeanColourEngine

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.request(engine)


def test_example_package_is_found_by_its_entry_point_and_answers_in_the_engine_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install examples/engine_package`, whose metadata this writes."""
    metadata = tmp_path / "mean_colour_engine-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-colour-engine\nVersion: 1\n")
    project = (EXAMPLE / "pyproject.toml").read_text()
    found = re.search(rf'^\[project\.entry-points\."{registry.GROUP}"\]\n(\w+) = "([\w.:]+)"$', project, re.MULTILINE)
    assert found is not None
    (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{found[1]} = {found[2]}\n")
    for path in (EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(str(path))

    assert registry.load("mean_colour") is MeanColourEngine
    changes: queue.Queue[Health] = queue.Queue()
    items: queue.Queue[Chunk | EngineError] = queue.Queue()
    process = EngineProcess(EngineSpec("mean_colour", {"max_side": 8}), changes.put)
    try:
        while (health := changes.get(timeout=60)).state is not State.READY:
            assert health.state is not State.FAILED, health.message
        red = np.full((8, 8, 3), (200, 30, 30), np.uint8)
        process.submit(Request((Message("user", (red, "Which colour?")),)), items.put)
        text = ""
        while not isinstance(item := items.get(timeout=60), EngineError) and item.finish_reason is None:
            text += item.text
        assert not isinstance(item, EngineError), item
        assert "red" in text + item.text
    finally:
        process.close()


def test_suite_notices_every_broken_promise(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    tests = [f"broken_engines.py::{name}" for name in broken_engines.MUST_FAIL]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=line", f"--junitxml={report}", "-p", "no:cacheprovider", *tests],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    cases = ElementTree.parse(report).findall(".//testcase")
    assert len(cases) == len(tests), run.stdout
    passed = [case.attrib for case in cases if case.find("failure") is None and case.find("error") is None]
    assert not passed, run.stdout
