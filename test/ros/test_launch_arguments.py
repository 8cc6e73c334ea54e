"""Arguments of launch files are checked before anything starts, and refused in sentences that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3vl_ros.ros.launch_arguments import (
    ArgumentError,
    check_vlm,
    file,
    flag,
    no_source,
    number,
    one_of,
    port,
    require_packages,
)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("", None)])
def test_a_flag_is_true_or_false_or_not_given(text: str, value: bool | None) -> None:
    assert flag({"web": text}, "web") is value
    assert flag({}, "web") is None


def test_numbers_and_ports_are_read() -> None:
    assert number({"rate": "2.5"}, "rate", 0.0, 120.0) == 2.5
    assert (port({"web_port": "8081"}, "web_port"), port({}, "web_port")) == (8081, None)


def test_a_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "here.yaml").touch()
    assert file({"params_file": str(tmp_path / "here.yaml")}, "params_file").endswith("here.yaml")
    assert file({}, "params_file") == ""


def test_whatever_vlm_launch_takes_passes() -> None:
    check_vlm({})
    check_vlm({"web": "true", "web_port": "0", "log_level": "warn", "depth_transport": "compressedDepth"})
    check_vlm({"engine": "openai", "base_url": "http://server:8000/v1"})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"web": "maybe"}, "web:=maybe: it is true or false"),
        ({"respawn": "yes"}, "respawn:=yes: it is true or false"),
        ({"web_port": "eighty"}, "web_port:=eighty: it is a number from 0 to 65535"),
        ({"web_port": "70000"}, "web_port:=70000: it is a number from 0 to 65535"),
        ({"web_port": "nan"}, "web_port:=nan: it is a number"),
        ({"web_port": "80.5"}, "web_port:=80.5: it is a whole number"),
        ({"log_level": "loud"}, "log_level:=loud: it is one of debug, info, warn, error, fatal"),
        ({"image_transport": "jpeg"}, "image_transport:=jpeg: it is one of raw, compressed"),
        ({"params_file": "/nope.yaml"}, "params_file:=/nope.yaml: there is no such file"),
        ({"base_url": "http://x"}, "add engine:=openai or engine:=maix_http"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ArgumentError, match=sentence.replace("/", "[/]")):
        check_vlm(given)


def test_a_simulation_takes_no_other_source_of_images() -> None:
    no_source({"source": ""})
    with pytest.raises(ArgumentError, match=r"source:=0: the images come from the simulation; use vlm.launch.py"):
        no_source({"source": "0"})


def test_a_package_that_is_missing_is_named_with_its_apt_package() -> None:
    require_packages(["qwen3vl_ros"], "anything")
    with pytest.raises(ArgumentError, match=r"ros_gz_nowhere is not installed.*ros-gz-nowhere"):
        require_packages(["ros_gz_nowhere"], "a world in Gazebo")


def test_one_of_a_few_may_be_left_out() -> None:
    assert one_of({"engine": ""}, "engine", ("a", "b")) == ""
