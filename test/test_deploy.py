"""What a container runs: environment variables become the node's parameters and topics."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from qwen3vl_ros.ros.parameters import described
from qwen3vl_ros.vlm import parameters as vlm

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def words(tmp_path: Path) -> object:
    """Runs the entry point with a program in place of qwen3vl-ros that prints its arguments."""
    program = tmp_path / "qwen3vl-ros"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    program.chmod(0o755)

    def run(*arguments: str, **environment: str) -> list[str]:
        command = [str(ROOT / "deploy" / "entrypoint.sh"), *arguments]
        variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | environment
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout.splitlines()

    return run


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"QWEN3VL_MODEL": "/data/it's 2e3.gguf"}, ["-p", "llama.model:='/data/it''s 2e3.gguf'"]),
        (
            {"QWEN3VL_ENGINE": "openai", "QWEN3VL_MODEL": "2e3", "QWEN3VL_BASE_URL": "http://gpu:8000/v1"},
            ["-p", "engine:='openai'", "-p", "openai.model:='2e3'", "-p", "openai.base_urls:=['http://gpu:8000/v1']"],
        ),
        (
            {"QWEN3VL_ENGINE": "maix_http", "QWEN3VL_BASE_URL": "http://10.0.0.7:12346"},
            ["-p", "engine:='maix_http'", "-p", "maix_http.base_url:='http://10.0.0.7:12346'"],
        ),
        ({"QWEN3VL_IMAGE": "/a/b", "QWEN3VL_DEPTH": "/c"}, ["-r", "image:=/a/b", "-r", "depth:=/c"]),
        ({"QWEN3VL_PARAMS_FILE": "/data/vlm.yaml"}, ["--params-file", "/data/vlm.yaml"]),
    ],
)
def test_variables_become_arguments(words: object, environment: dict[str, str], expected: list[str]) -> None:
    assert words(**environment) == ["node", "--ros-args", *expected, "--"]
    names = {word.partition(":=")[0] for flag, word in itertools.pairwise(expected) if flag == "-p"}
    assert names <= set(described(vlm.Settings))


def test_other_commands_and_further_arguments_are_left_alone(words: object) -> None:
    assert words("ask", "Is it open?", QWEN3VL_IMAGE="/a") == ["ask", "Is it open?"]
    assert words("node", "--ros-args", "-p", "timeout:=3.0") == [
        "node",
        "--ros-args",
        "--",
        "--ros-args",
        "-p",
        "timeout:=3.0",
    ]
