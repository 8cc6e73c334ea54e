"""What the pages tell people to type is understood: commands, launch arguments, parameters, make targets, programs."""

from __future__ import annotations

import ast
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen3vl_ros.cli import main as cli
from qwen3vl_ros.gateway import settings as web
from qwen3vl_ros.ros.parameters import described
from qwen3vl_ros.sim import settings as camera
from qwen3vl_ros.vlm import parameters as vlm

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NODES = {"node": vlm.Settings, "vlm": vlm.Settings, "web": web.Settings, "camera": camera.Settings}
OF_ROS = {"use_sim_time"}
THIRD_PARTIES = {"mean_colour"}  # examples/engine_package


def blocks(*languages: str) -> list[Any]:
    """The code blocks of every page in these languages, for parametrize."""
    found = []
    for page in PAGES:
        for number, (language, text) in enumerate(
            re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        ):
            if language in languages:
                found.append(pytest.param(text, id=f"{page.name}-{number}"))
    return found


def commands(program: str) -> list[Any]:
    """What follows these words in every command line of every page that begins with them."""
    return [
        pytest.param(shlex.split(match[1] or "", comments=True), id=f"{block.id}: {line}"[:90])
        for block in blocks("sh", "bash", "")
        for line in block.values[0].replace("\\\n", " ").splitlines()
        if (match := re.match(rf"(?:\$ )?(?:\S*/)?{program}(?: (.*))?$", line))
    ]


def until_pipe(words: list[str]) -> list[str]:
    return words[: words.index("|")] if "|" in words else words


def check_parameters(node: str, words: list[str]) -> None:
    """Every ``-p NAME:=VALUE`` is a parameter of the node that may have the value."""
    known = described(NODES[node])
    for flag, setting in pairwise(words):
        if flag != "-p":
            continue
        name, separator, _ = setting.partition(":=")
        assert separator, setting
        assert name in known or name in OF_ROS or name.split(".")[0] in THIRD_PARTIES, f"{node} has no parameter {name}"


@pytest.mark.parametrize("words", commands("qwen3vl-ros"))
def test_a_command_of_ours_is_understood(words: list[str]) -> None:
    words = until_pipe(words)
    if words[0] in NODES or words[0] == "engines":
        check_parameters("node" if words[0] == "engines" else words[0], words)
        if words[0] == "camera":
            assert cli._parser().parse_args(words[: words.index("--ros-args") if "--ros-args" in words else None])
    else:
        assert cli._parser().parse_args([word for word in words if word != "&"])


@pytest.mark.parametrize("words", commands("ros2 run qwen3vl_ros"))
def test_a_node_that_is_run_has_the_parameters(words: list[str]) -> None:
    if words[0] != "qwen3vl-ros":
        check_parameters(words[0], words)


@pytest.mark.parametrize("words", commands("ros2 launch qwen3vl_ros"))
def test_a_launch_file_takes_the_arguments(words: list[str]) -> None:
    file, *arguments = words
    taken: set[str] = set()
    for name in {file, "vlm.launch.py"}:  # the others pass theirs on
        tree = ast.parse((ROOT / "launch" / name).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS":
                assert isinstance(node.value, ast.Dict)
                taken |= {ast.literal_eval(key) for key in node.value.keys if key}
    for argument in arguments:
        name, separator, _ = argument.partition(":=")
        assert separator and name in taken, f"{file} takes no {argument}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_needs_ros2_is_said_without_it_too(page: Path) -> None:
    """In the same code block or in the one before: the wheels from PyPI have no ros2."""
    before = ""
    for _, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if re.search(r"^(\$ )?ros2 (action|service|param|lifecycle|topic|run) ", text, re.MULTILINE):
            assert "qwen3vl-ros " in before + text, text
        before = text


@pytest.mark.parametrize("words", commands("make"))
def test_a_target_of_make_exists(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [word for word in words if "=" not in word]
    assert set(named) <= set(targets)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_parameter_file_has_parameters_that_are_there(text: str) -> None:
    for node, content in (yaml.safe_load(text) or {}).items():
        if not isinstance(content, dict) or "ros__parameters" not in content:
            continue
        known = described(NODES[node.rpartition("/")[2]])
        for name in flat(content["ros__parameters"]):
            of_camera = name.startswith("camera.") and name.split(".")[2] in vlm.CameraSettings.__slots__
            assert name in known or of_camera or name.split(".")[0] in THIRD_PARTIES, f"{node} has no parameter {name}"


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """The full names of the parameters in a part of a parameter file."""
    names = []
    for key, value in tree.items():
        names += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names


@pytest.mark.parametrize("text", blocks("python", "py"))
def test_a_program_is_python(text: str) -> None:
    compile(text, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
