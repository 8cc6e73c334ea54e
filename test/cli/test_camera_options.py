"""`qwen3vl-ros camera`: its options reach the node, and wrong ones are told before anything starts."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import child_process
from qwen3vl_ros.cli import main as cli
from qwen3vl_ros.cli.camera import ros_arguments

PATIENCE = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / 'my "best" photos: 1'
    folder.mkdir()
    PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "a.png")
    return folder


def test_options_become_parameters_and_those_for_ros_go_on(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.touch()
    given = ["--video", str(video), "--loop", "--rate", "5", "--calibration", "c.yaml", "--ros-args", "-r", "a:=b"]
    assert ros_arguments(given) == [
        *("--ros-args", "-p", f'source:="{video}"', "-p", "loop:=true", "-p", "rate:=5.0"),
        *("-p", 'calibration:="c.yaml"', "--", "--ros-args", "-r", "a:=b"),
    ]


def test_without_a_source_all_goes_to_the_simulated_camera() -> None:
    assert ros_arguments([]) == []
    assert ros_arguments(["--ros-args", "-p", "world:=x.sdf"]) == ["--ros-args", "-p", "world:=x.sdf"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "77"], "camera: There is no video device /dev/video77; "),
        (["--video", "/nowhere.mp4"], "camera: There is no video file /nowhere.mp4."),
        (["--images", "/nowhere"], "camera: There is no folder /nowhere."),
        (["--stream", "10.0.0.5"], "camera: 10.0.0.5 is no address of a stream, such as rtsp://HOST/PATH."),
        (["--video", "a.mp4", "--device", "0"], "argument --device: not allowed with argument --video"),
        (["--images", "/", "--loop"], "--loop is for --video"),
        (["--stream", "rtsp://h/p", "--period", "2"], "--period is for --images"),
        (["--calibration", "c.yaml"], "--loop, --period and --calibration are for --device, --video, --stream"),
        (["clip.mp4"], "unrecognized arguments: clip.mp4"),
    ],
)
def test_wrong_usage_is_a_sentence_and_status_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["camera", *arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_help_names_every_kind_of_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["camera", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--device", "--video", "--stream", "--images", "--ros-args"))


@pytest.mark.ros
def test_a_folder_of_whatever_name_is_published_until_a_signal(folder: Path) -> None:
    command = child_process.command("qwen3vl_ros.cli.main", "camera", "--images", str(folder), "--period", "0.1")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert f"Images of {folder}, 64x48, on /camera/image_raw, png also on" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (0, "")
