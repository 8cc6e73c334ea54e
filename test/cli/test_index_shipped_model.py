"""An index that the shipped model makes says when something was seen: a real node, a real model, a real video."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import videos
from qwen3vl_ros.cli import arguments
from qwen3vl_ros.cli.main import main
from vlm_process import VlmProcess

FRAMES = Path(__file__).parents[1] / "support" / "data" / "gazebo_frames"


def test_things_are_found_at_the_times_when_they_were_there(
    vlm: VlmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments, "interrupt_on_signals", lambda: None)
    scenes = [cv2.imread(str(FRAMES / name))[..., ::-1] for name in ("0000.jpg", "0002.jpg", "0003.jpg")]
    video = videos.write_h264(tmp_path / "scenes.mp4", (scene for scene in scenes for _ in range(8)), 2)
    index = str(tmp_path / "scenes.db")
    assert main(["index", str(video), "--index", index, "--window", "4"]) == 0
    told = capfd.readouterr().err
    assert "the middle frame of each window" in told and "an hour of this video takes" in told
    for words, start in (("blue box", 0.0), ("orange box", 4.0), ("purple ball", 8.0)):
        assert main(["search", words, "--index", index, "--json"]) == 0
        (line,) = capfd.readouterr().out.splitlines()
        found = json.loads(line)
        assert found["start"] == start
        assert any(thing["name"] == words and min(thing["box"]) > 0 for thing in found["things"])
    assert main(["ask", "When was the orange box there?", "--index", index]) == 0
    assert capfd.readouterr().out.startswith("0:04.0 - 0:08.0")
    assert main(["summarize", "--index", index]) == 1
    assert "single tasks only" in capfd.readouterr().err
