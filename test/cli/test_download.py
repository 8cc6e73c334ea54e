"""`qwen3vl-ros download`, from a server that behaves as the Hub does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import MMPROJ, MODEL, NAMES, REPO, Hub, cached, serving
from qwen3vl_ros.cli.download import choose, memory_warning
from qwen3vl_ros.cli.hubs import DownloadError
from qwen3vl_ros.engines.openvino.files import MODEL_FILES


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> object:
    """Runs `qwen3vl-ros download` as users do: in a process of its own, with a cache of its own."""

    def download(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qwen3vl_ros.cli.main", "download", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)

    return download


def test_model_and_projector_land_in_the_cache_and_the_launch_command_is_printed(hub, run, tmp_path: Path) -> None:
    done = run(REPO)
    assert done.returncode == 0, done.stderr
    for name in (MODEL, MMPROJ):
        assert cached(tmp_path, name).read_bytes() == hub.files[name]
    assert f"qwen3vl-ros node --ros-args -p llama.model:={cached(tmp_path, MODEL)}" in done.stdout
    assert f"mmproj:={cached(tmp_path, MMPROJ)}" in done.stdout
    assert sorted(name for name, _ in hub.downloads) == sorted([MODEL, MMPROJ])


OPENVINO_REPO = "OpenVINO/Qwen3-VL-4B-Instruct-int4-ov"


def openvino_files() -> dict[str, bytes]:
    return {name: name.encode() for name in (*MODEL_FILES, "generation_config.json", "README.md", ".gitattributes")}


def test_a_ready_made_openvino_model_comes_whole_with_its_launch_command(hub, run, tmp_path: Path) -> None:
    hub.repos[OPENVINO_REPO] = openvino_files()
    done = run(OPENVINO_REPO, "--dir", "models")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / OPENVINO_REPO
    assert {file.name for file in folder.iterdir()} == {*MODEL_FILES, "generation_config.json"}
    assert done.stdout.splitlines() == [
        f"qwen3vl-ros node --ros-args -p engine:=openvino -p openvino.model:={folder}",
        f"ros2 launch qwen3vl_ros vlm.launch.py engine:=openvino model:={folder}",
    ]
    assert "pip install openvino-genai" in done.stderr
    assert "projector" not in done.stderr
    done = run(OPENVINO_REPO, "--quant", "Q8_0")
    assert (done.returncode, "leave --quant" in done.stderr) == (1, True)


def test_an_openvino_model_that_lacks_a_file_is_refused_before_the_first_byte(hub, run) -> None:
    hub.repos[OPENVINO_REPO] = openvino_files()
    del hub.repos[OPENVINO_REPO]["openvino_language_model.bin"]
    done = run(OPENVINO_REPO)
    assert (done.returncode, hub.downloads) == (1, [])
    assert "has no openvino_language_model.bin" in done.stderr


def test_what_is_there_is_not_downloaded_again(hub, run, tmp_path: Path) -> None:
    assert run(REPO).returncode == 0
    assert run(REPO).returncode == 0
    assert run(REPO, "--dir", "models").returncode == 0
    assert run(REPO, "--dir", "models").returncode == 0
    assert len(hub.downloads) == 4
    assert (tmp_path / "models" / REPO / MODEL).read_bytes() == hub.files[MODEL]


def test_repositories_in_one_directory_keep_their_own_projectors_of_the_same_name(hub, run, tmp_path: Path) -> None:
    projector = "mmproj-BF16.gguf"
    repos = ["unsloth/Qwen3-VL-2B-Instruct-GGUF", "unsloth/Qwen3-VL-4B-Instruct-GGUF"]
    for repo in repos:
        model = f"{repo[8:-5]}-Q4_K_M.gguf"
        hub.repos[repo] = {name: f"{repo} {name}".encode() for name in (model, projector)}
    said = [run(repo, "--dir", "models").stdout for repo in repos]
    for repo, commands in zip(repos, said, strict=True):
        for name, content in hub.repos[repo].items():
            place = tmp_path / "models" / repo / name
            assert place.read_bytes() == content
            assert str(place) in commands
        assert len(list((tmp_path / "models" / repo).iterdir())) == 2  # what llama finds beside the model


def test_a_repository_without_a_projector_is_said_to_have_none(hub, run) -> None:
    assert "projector" not in run(REPO).stderr
    hub.repos["someone/i1-GGUF"] = {"Qwen3-VL.i1-Q4_K_M.gguf": b"model", "Qwen3-VL.imatrix.gguf": b"matrix"}
    done = run("someone/i1-GGUF")
    assert done.returncode == 0
    assert "someone/i1-GGUF has no projector (mmproj), without which the node refuses images" in done.stderr
    assert [name for name, _ in hub.downloads[2:]] == ["Qwen3-VL.i1-Q4_K_M.gguf"]


def test_sizes_are_told_and_must_fit_the_disk_before_the_first_byte(hub, run, tmp_path: Path) -> None:
    hub.sizes[MMPROJ] = 10**18
    done = run(REPO)
    assert done.returncode == 1
    assert f"{MODEL}: {len(hub.files[MODEL]) / 1e9:.2f} GB" in done.stderr
    assert f"{MMPROJ}: 1000000000.00 GB" in done.stderr
    assert "of memory and some for its context" in done.stderr
    assert f"{REPO} needs 1000000000.01 GB more in {tmp_path}" in done.stderr
    assert "set HF_HOME to another place" in done.stderr
    assert hub.downloads == []


def test_a_model_that_memory_does_not_hold_is_warned_of(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n")
    assert memory_warning(2_048_000_000, meminfo) == ""
    warning = memory_warning(5_000_000_000, meminfo)
    assert "takes 5.00 GB of memory" in warning and "2.05 GB are available" in warning
    assert memory_warning(5_000_000_000, tmp_path / "no such file") == ""


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(hub, run, tmp_path: Path) -> None:
    hub.cut[MODEL] = 11_000_000
    done = run(REPO)
    assert done.returncode == 0, done.stderr
    assert cached(tmp_path, MODEL).read_bytes() == hub.files[MODEL]
    assert [wanted for name, wanted in hub.downloads if name == MODEL] == ["", f"bytes={10 * 2**20}-"]


@pytest.mark.parametrize("place", ["the cache", "a directory"])
def test_a_new_run_goes_on_where_a_killed_one_stopped(hub, run, tmp_path: Path, place: str) -> None:
    sha256 = hashlib.sha256(hub.files[MODEL]).hexdigest()
    blobs = tmp_path / "home/hub/models--Qwen--Qwen3-VL-2B-Instruct-GGUF/blobs"
    partial = blobs / f"{sha256}.incomplete" if place == "the cache" else tmp_path / f"models/{REPO}/{MODEL}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(hub.files[MODEL][:700_000])
    done = run(REPO, *([] if place == "the cache" else ["--dir", "models"]))
    assert done.returncode == 0, done.stderr
    where = cached(tmp_path, MODEL) if place == "the cache" else tmp_path / "models" / REPO / MODEL
    assert where.read_bytes() == hub.files[MODEL]
    assert [wanted for name, wanted in hub.downloads if name == MODEL] == ["bytes=700000-"]
    assert not partial.exists()


def test_a_damaged_file_is_deleted_and_the_next_run_gets_it_right(hub, run, tmp_path: Path) -> None:
    hub.damaged.add(MODEL)
    done = run(REPO)
    assert done.returncode == 1
    assert f"{MODEL} arrived damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("home/hub/*/blobs/*"))
    hub.damaged.clear()
    assert run(REPO).returncode == 0


def test_a_repository_that_does_not_exist_is_a_sentence(run) -> None:
    done = run("Qwen/Qwen9-VL")
    assert done.returncode == 1
    assert "There is no repository Qwen/Qwen9-VL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no repository name" in run("a/b/c").stderr


def test_without_a_network_the_sentence_says_how_to_go_on(hub, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = run(REPO)
    assert done.returncode == 1
    assert "Run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_right_files_are_picked_out_of_the_official_repository() -> None:
    assert choose(REPO, NAMES) == ([MODEL], MMPROJ)
    assert choose(REPO, NAMES, "q8_0", "q8_0") == (["Qwen3VL-2B-Instruct-Q8_0.gguf"], NAMES[6])
    with pytest.raises(DownloadError, match=r"nothing in Q2_K\. It has: .*Q4_K_M"):
        choose(REPO, NAMES, "Q2_K")
    for names in (["model.safetensors"], ["Qwen3-VL.imatrix.gguf"]):
        with pytest.raises(DownloadError, match="no GGUF model"):
            choose(REPO, names)


def test_the_projector_is_the_one_that_this_processor_is_fast_with() -> None:
    names = ["m-Q4_K_M.gguf", *(f"mmproj-{quant}.gguf" for quant in ("BF16", "F16", "Q8_0"))]
    assert choose("x/y", names, bf16=True)[1] == "mmproj-BF16.gguf"
    assert choose("x/y", names, bf16=False)[1] == "mmproj-F16.gguf"
    assert choose("x/y", [names[0], names[2], names[3]], bf16=True)[1] == "mmproj-F16.gguf"
    assert choose("x/y", [names[0], names[3]], bf16=False)[1] == "mmproj-Q8_0.gguf"


def test_other_ways_to_name_files_are_understood() -> None:
    assert choose("x/y", ["a.Q4_K_M.gguf", "a.Q4_K_S.gguf"]) == (["a.Q4_K_M.gguf"], None)
    assert choose("x/y", ["UD-Q4_K_XL.gguf", "mmproj-BF16.gguf", "mmproj-F32.gguf"]) == (
        ["UD-Q4_K_XL.gguf"], "mmproj-BF16.gguf",
    )  # fmt: skip
    parts = [f"Q4_K_M/big-Q4_K_M-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    assert choose("x/y", [*parts, "big-Q8_0-00001-of-00002.gguf"]) == (parts, None)
    with pytest.raises(DownloadError, match="2 of the 00003 parts"):
        choose("x/y", parts[:2])
