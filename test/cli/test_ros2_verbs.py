"""`ros2 vlm`, where ROS 2's command line is installed."""

from __future__ import annotations

import argparse
import importlib.metadata

import pytest

pytest.importorskip("ros2cli", reason="ROS's command line is not on PyPI; a machine with ROS 2 runs this")


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    (command,) = importlib.metadata.entry_points(group="ros2cli.command", name="vlm")
    parser = argparse.ArgumentParser("ros2 vlm")
    command.load()().add_arguments(parser, "ros2")
    return parser


def test_every_verb_describes_itself(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("ask", "watch", "status", "tasks", "engine", "find"):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([verb, "--help"])
        assert ended.value.code == 0
        assert f"usage: ros2 vlm {verb}" in capsys.readouterr().out


def test_a_verb_takes_what_the_command_takes_and_says_what_is_wrong(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = parser.parse_args(["ask", "Is the door open?", "--camera", "front", "--node", "/robot/vlm"])
    assert (parsed.prompt, parsed.camera, parsed.node) == ("Is the door open?", ["front"], "/robot/vlm")
    parsed = parser.parse_args(["ask"])
    with pytest.raises(SystemExit) as ended:
        parsed.run(parsed)
    assert ended.value.code == 2
    assert "ros2 vlm ask: error: ask needs a PROMPT" in capsys.readouterr().err
