"""`qwen3vl-ros model use` and `download` from ModelScope: its own library, and a server that behaves as it does."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import child_process
import fake_modelscope
from fake_hub import MMPROJ, MODEL, NAMES, REPO
from fake_modelscope import ModelScopeServer
from qwen3vl_ros.engines.openvino.files import MODEL_FILES

pytest.importorskip("modelscope_hub")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelScopeServer]:
    with fake_modelscope.serving() as server:
        server.repos[REPO] = {name: hashlib.sha256(name.encode()).digest() * 30_000 for name in NAMES}
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@pytest.fixture
def run(modelscope: ModelScopeServer, tmp_path: Path) -> Run:
    def model(*arguments: str, command: str = "model") -> subprocess.CompletedProcess[str]:
        command_line = child_process.command("qwen3vl_ros.cli.main", command, *arguments)
        return subprocess.run(
            command_line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )

    return model


def test_model_and_projector_land_where_modelscopes_tools_look(modelscope, run, tmp_path: Path) -> None:
    done = run("use", "2b", "--from", "modelscope", "--yes")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "modelscope/models/Qwen/Qwen3-VL-2B-Instruct-GGUF"
    for name in (MODEL, MMPROJ):
        assert (folder / name).read_bytes() == modelscope.repos[REPO][name]
    assert f"-p llama.model:={folder / MODEL}" in done.stdout
    assert str(folder / MODEL) in run("show").stdout
    assert run("use", "2b", "--from", "modelscope", "--yes").returncode == 0
    assert len(modelscope.downloads) == 2  # what is there is not downloaded again
    assert run("remove", "2b", "--yes").returncode == 0
    assert not folder.exists()


def test_a_ready_made_openvino_model_comes_from_modelscope(modelscope, run, tmp_path: Path) -> None:
    repo = "OpenVINO/Qwen3-VL-4B-Instruct-int4-ov"
    modelscope.repos[repo] = {name: name.encode() for name in MODEL_FILES}
    done = run(repo, "--from", "modelscope", command="download")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "modelscope/models" / repo
    assert {name: (folder / name).read_bytes() for name in MODEL_FILES} == modelscope.repos[repo]
    assert f"-p openvino.model:={folder}" in done.stdout


def test_a_damaged_file_of_modelscope_is_a_sentence_and_no_model(modelscope, run, tmp_path: Path) -> None:
    modelscope.damaged.add(MMPROJ)
    done = run("use", "2b", "--from", "modelscope", "--yes")
    assert done.returncode == 1
    assert f"{MMPROJ} arrived damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob(f"modelscope/models/*/*/{MMPROJ}"))


def test_a_repository_that_modelscope_does_not_have_is_a_sentence(modelscope, run) -> None:
    modelscope.repos.clear()
    done = run("use", "2b", "--from", "modelscope", "--yes")
    assert done.returncode == 1
    assert f"ModelScope has no repository {REPO}" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_it_says_how_to_go_on(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    done = run("use", "2b", "--from", "modelscope", "--yes")
    assert done.returncode == 1
    assert "Run the same command again" in done.stderr and "MODELSCOPE_ENDPOINT" in done.stderr
    assert "Traceback" not in done.stderr
