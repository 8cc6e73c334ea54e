"""`qwen3vl-ros model`, from servers that behave as the Hub and ModelScope do."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qwen3vl_ros.srv import SetEngine
from rcl_interfaces.srv import GetParameters

import child_process
from fake_hub import MMPROJ, MODEL, REPO, Hub, cached, serving
from qwen3vl_ros.cli import hubs
from qwen3vl_ros.client.exceptions import EngineFailure, ServerUnavailable
from qwen3vl_ros.engines.catalogue import catalogue
from qwen3vl_ros.engines.openvino.files import MODEL_FILES
from ros_client import RosClient
from scripted_vlm import WAIT

OPENVINO_REPO = "OpenVINO/Qwen3-VL-4B-Instruct-int4-ov"
LONG = ("--wait", str(WAIT))
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    with serving(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Runs `qwen3vl-ros model` as users do; ``answer`` is typed on a terminal of its own, "" = there is none."""

    def model(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        command = child_process.command("qwen3vl_ros.cli.main", "model", *arguments)
        ours, theirs = pty.openpty() if answer else (os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY))
        try:
            if answer:
                os.write(ours, answer.encode())
            return subprocess.run(
                command, stdin=theirs, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
            )
        finally:
            os.close(ours)
            os.close(theirs)

    return model


def test_what_will_happen_is_said_and_asked_once_then_the_two_commands_are_printed(hub, run, tmp_path: Path) -> None:
    done = run("use", "2b", answer="y\n")
    assert done.returncode == 0, done.stderr
    for part in (MODEL, MMPROJ, REPO, "of memory", "are free", "Go on? [y/N]"):
        assert part in done.stderr
    assert cached(tmp_path, MODEL).read_bytes() == hub.files[MODEL]
    model, mmproj = cached(tmp_path, MODEL), cached(tmp_path, MMPROJ)
    assert done.stdout.splitlines() == [
        f"qwen3vl-ros node --ros-args -r image:=/camera/image_raw -p engine:=llama -p llama.model:={model} "
        f"-p llama.mmproj:={mmproj}",
        f"qwen3vl-ros demo --keep --model {model} --mmproj {mmproj}",
    ]


@pytest.mark.parametrize("answer", ["n\n", "\n", "what?\n"])
def test_without_a_yes_nothing_is_downloaded(hub, run, answer: str) -> None:
    done = run("use", "2b", answer=answer)
    assert done.returncode == 1
    assert "Nothing was done." in done.stderr
    assert hub.downloads == []


@pytest.mark.parametrize("command", ["use", "remove"])
def test_without_a_terminal_nothing_happens_but_with_yes(hub, run, command: str) -> None:
    done = run(command, "2b")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert hub.downloads == []


def test_another_quantisation_is_taken_from_the_same_repository(hub, run, tmp_path: Path) -> None:
    assert run("use", "2b", "--quant", "Q8_0", "--yes").returncode == 0
    assert [name for name, _ in hub.downloads] == ["Qwen3VL-2B-Instruct-Q8_0.gguf", MMPROJ]


def test_a_disk_without_room_ends_it_before_the_question_and_the_first_byte(hub, run) -> None:
    hub.sizes[MMPROJ] = 10**18
    done = run("use", "2b", answer="y\n")
    assert done.returncode == 1
    assert "set HF_HOME to another place" in done.stderr
    assert "Go on?" not in done.stderr
    assert hub.downloads == []


def test_a_model_larger_than_the_machines_memory_is_refused(hub, run) -> None:
    repo = "Qwen/Qwen3-VL-235B-A22B-Instruct-GGUF"
    hub.repos[repo] = {"Qwen3VL-235B-A22B-Instruct-F16.gguf": b"model", MMPROJ: b"projector"}
    done = run("use", "235b-a22b", "--quant", "F16", "--yes")
    assert done.returncode == 1
    assert "needs about 474 GB of memory" in done.stderr
    assert hub.downloads == []


def test_a_name_that_is_not_in_the_list_is_refused_with_those_that_are(hub, run) -> None:
    done = run("use", "4b-thinkin", "--yes")
    assert done.returncode == 2
    assert "did you mean '4b-thinking'" in done.stderr
    assert "qwen3vl-ros download OWNER/NAME" in done.stderr


def test_an_interrupted_download_goes_on_where_it_stopped(hub, run, tmp_path: Path) -> None:
    hub.cut[MODEL] = 11_000_000
    assert run("use", "2b", "--yes").returncode == 0
    assert cached(tmp_path, MODEL).read_bytes() == hub.files[MODEL]


def test_a_damaged_file_is_no_model(hub, run) -> None:
    hub.damaged.add(MODEL)
    done = run("use", "2b", "--yes")
    assert done.returncode == 1
    assert "arrived damaged" in done.stderr
    assert "is not downloaded" in run("remove", "2b", "--yes").stderr or "2b" not in run("show").stdout


def openvino_files() -> dict[str, bytes]:
    return {name: name.encode() for name in (*MODEL_FILES, "generation_config.json", "README.md", ".gitattributes")}


def test_an_openvino_model_is_a_directory_with_all_that_the_engine_needs(hub, run, tmp_path: Path) -> None:
    hub.repos[OPENVINO_REPO] = openvino_files()
    done = run("use", "4b", "--engine", "openvino", "--yes")
    assert done.returncode == 0, done.stderr
    folder = cached(tmp_path, "config.json", OPENVINO_REPO).parent
    assert {file.name for file in folder.iterdir()} == {*MODEL_FILES, "generation_config.json"}
    assert done.stdout.splitlines() == [
        f"qwen3vl-ros node --ros-args -r image:=/camera/image_raw -p engine:=openvino -p openvino.model:={folder}"
    ]
    shown = run("show").stdout
    assert "openvino" in shown and str(folder) in shown


def test_an_openvino_repository_that_lacks_a_file_is_refused_before_the_first_byte(hub, run) -> None:
    hub.repos[OPENVINO_REPO] = openvino_files()
    del hub.repos[OPENVINO_REPO]["openvino_language_model.bin"]
    done = run("use", "4b", "--engine", "openvino", "--yes")
    assert done.returncode == 1
    assert "has no openvino_language_model.bin" in done.stderr
    assert hub.downloads == []


def test_show_has_what_is_downloaded_with_the_card_and_the_commands(hub, run, tmp_path: Path) -> None:
    assert "No model of the list is downloaded" in run("show").stderr
    assert run("show", "2b").returncode == 1
    assert run("use", "2b", "--yes").returncode == 0
    (line,) = run("show").stdout.splitlines()
    size = (len(hub.files[MODEL]) + len(hub.files[MMPROJ])) / 1e9
    assert line.split() == ["2b", "llama", "Q4_K_M", f"{size:.1f}", "GB", str(cached(tmp_path, MODEL))]
    details = run("show", "2b").stdout
    for part in ("Apache-2.0", "en, zh", str(cached(tmp_path, MMPROJ)), "qwen3vl-ros demo --keep"):
        assert part in details


def test_remove_asks_and_deletes_that_model_alone(hub, run, tmp_path: Path) -> None:
    assert "is not downloaded" in run("remove", "2b", "--yes").stderr
    other = tmp_path / "home/hub/models--someone--else/blobs/file"
    other.parent.mkdir(parents=True)
    other.write_text("not ours")
    assert run("use", "2b", "--yes").returncode == 0
    refused = run("remove", "2b", answer="n\n")
    assert refused.returncode == 1 and MODEL in refused.stderr
    assert cached(tmp_path, MODEL).exists()
    done = run("remove", "2b", answer="y\n")
    assert (done.returncode, done.stdout) == (0, f"Deleted {REPO}.\n")
    assert list((tmp_path / "home/hub").glob("models--*")) == [other.parents[1]]


def test_the_list_without_a_measurement_has_every_size_and_no_time(hub, run) -> None:
    done = run("list", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    for name in {entry.name for entry in catalogue() if not entry.name.endswith("thinking")}:
        assert f"\n{name} " in done.stdout
    assert "Not measured" in done.stdout and " s " not in done.stdout.split("NAME", 1)[1].split("Not measured")[0]
    everything = run("list", "--no-benchmark", "--all").stdout
    for entry in catalogue():
        assert f"\n{entry.name} " in everything


def test_the_list_for_programs_is_json(hub, run) -> None:
    found = json.loads(run("list", "--no-benchmark", "--json").stdout)
    assert len(found["models"]) == len(catalogue())
    assert found["measured"] is False


@pytest.mark.model
@pytest.mark.slow
def test_the_machine_is_measured_once_and_then_known(hub, run, tmp_path: Path) -> None:
    first = run("list", "--json")
    assert first.returncode == 0, first.stderr
    models = json.loads(first.stdout)["models"]
    smallest = next(model for model in models if model["name"] == "2b")
    assert smallest["first_token"] > 0 and smallest["tokens_per_second"] > 0
    kept = (tmp_path / "cache/qwen3vl_ros/speed.json").read_bytes()
    again = json.loads(run("list", "--json").stdout)["models"]
    assert [model["first_token"] for model in again if model["name"] == "2b"] == [
        model["first_token"] for model in models if model["name"] == "2b"
    ]
    assert (tmp_path / "cache/qwen3vl_ros/speed.json").read_bytes() == kept
    assert "Estimated" in run("list").stdout


@contextlib.contextmanager
def node_that(ros: RosClient, name: str, serve: Callable[..., Any]) -> Iterator[None]:
    """The services of a node whose engine ``serve`` changes; every node serves its parameters."""

    def make() -> list[Any]:
        parameters = ros.node.create_service(GetParameters, f"{name}/get_parameters", lambda _, response: response)
        return [parameters, ros.node.create_service(SetEngine, f"{name}/set_engine", serve)]

    services = ros.on_executor(make)
    yield
    ros.on_executor(lambda: [ros.node.destroy_service(service) for service in services])


@pytest.mark.ros
def test_a_running_node_is_switched_to_the_model_after_the_same_question(hub, run, ros, tmp_path: Path) -> None:
    asked = []

    def serve(request: SetEngine.Request, response: SetEngine.Response) -> SetEngine.Response:
        asked.append((request.engine, request.model, request.mmproj))
        response.success, response.engine, response.model = True, "llama", "Qwen3-VL 2B"
        return response

    with node_that(ros, "/vlm", serve):
        done = run("use", "2b", *LONG, answer="y\n")
        assert done.returncode == 0, done.stderr
        assert "Then the node /vlm loads it" in done.stderr
        assert done.stdout == "llama  Qwen3-VL 2B\n"
        assert run("use", "2b", "--yes").stdout.startswith("qwen3vl-ros node")  # not told to: left alone
        assert run("use", "2b", "--yes", "--node", *LONG).returncode == 0
    expected = ("llama", str(cached(tmp_path, MODEL)), str(cached(tmp_path, MMPROJ)))
    assert asked == [expected, expected]


@pytest.mark.ros
def test_a_node_that_refuses_is_quoted(hub, run, ros) -> None:
    def serve(_: SetEngine.Request, response: SetEngine.Response) -> SetEngine.Response:
        response.success, response.message = False, "no memory"
        return response

    with node_that(ros, "/robot/vlm", serve):
        done = run("use", "2b", "--yes", "--node", "/robot/vlm", *LONG)
    assert done.returncode == EngineFailure.exit_status
    assert "no memory" in done.stderr


@pytest.mark.ros
def test_a_node_that_is_not_there_leaves_the_model_and_says_what_to_do(hub, run, ros, tmp_path: Path) -> None:
    done = run("use", "2b", "--yes", "--node", "/nobody")
    assert done.returncode == ServerUnavailable.exit_status
    assert "/nobody" in done.stderr and "qwen3vl-ros model show" in done.stderr
    assert cached(tmp_path, MODEL).exists()


def test_every_hub_says_where_it_keeps_models(hub) -> None:
    assert {name: hub.cache_variable for name, hub in hubs.HUBS.items()} == {
        "huggingface": "HF_HOME", "modelscope": "MODELSCOPE_CACHE",
    }  # fmt: skip
