"""What the fields of a dataclass promise as parameters of a node, for settings made up here and those of every node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.parameter import Parameter

import child_process
from node_in_process import Start, nodes
from qwen3vl_ros.gateway import settings as web
from qwen3vl_ros.ros.parameters import (
    ParameterError,
    as_markdown,
    as_yaml,
    check,
    choice,
    declare,
    described,
    flag,
    number,
    read,
    text,
    texts,
)
from qwen3vl_ros.sim import settings as camera
from qwen3vl_ros.vlm import parameters as vlm

pytestmark = pytest.mark.ros
NODES = {"vlm": vlm.Settings, "web": web.Settings, "camera": camera.Settings}
PATIENCE = 60.0  # seconds after which something that should have happened has not


@dataclass(frozen=True)
class Arm:
    """The arm that waves."""

    length: float = number(0.5, 0.1, 2.0, "Length in metres.")
    side: str = choice("left", ("left", "", "right"), "Where the arm is.", live=True)


@dataclass(frozen=True)
class Settings:
    """A robot that waves."""

    name: str = text("Robbie", "Name on the badge.")
    friends: tuple[str, ...] = texts(("",), "Names of whom it greets.")
    polite: bool = flag(True, "Bow, too.")
    waves: int = number(3, 0, 10, "How often | how long.", live=True, check=lambda value: "" if value != 7 else "no 7")
    gear: int = choice(1, (1, 2, 4), "Speed of the motor.")
    arm: Arm = field(default_factory=Arm)


@pytest.fixture
def start(dds_profile: None) -> Iterator[Start]:
    with nodes() as start:
        yield start


# --- at start ---------------------------------------------------------------------------------------------------------


def test_what_nobody_sets_is_at_its_default(start: Start) -> None:
    assert declare(start(), Settings) == Settings()


def test_what_the_command_line_sets_is_read(start: Start) -> None:
    node = start("name:=Marvin", "friends:=[Ford, Trillian]", "polite:=false", "waves:=0", "gear:=4", "arm.length:=2")
    settings = declare(node, Settings)
    assert settings == Settings("Marvin", ("Ford", "Trillian"), False, 0, 4, Arm(2.0))
    assert read(node, Settings) == settings


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("name:=5", "name: 5 is not text; put it between quotation marks"),
        ("name:=[]", "name: [] is not text; put it between quotation marks"),
        ("friends:=Ford", 'friends: \'Ford\' is not a list of texts, such as ["a", "b"]'),
        ("friends:=[1, 2]", 'friends: [1, 2] is not a list of texts, such as ["a", "b"]'),
        ("friends:=[]", 'friends: ROS cannot tell the type of an empty list; write [""], or leave it out'),
        ("polite:=1", "polite: 1 is not true or false"),
        ("waves:=often", "waves: 'often' is not a whole number"),
        ("waves:=true", "waves: True is not a whole number"),
        ("waves:=2.0", "waves: 2.0 is not a whole number"),
        ("waves:=11", "waves: 11 is not within 0 to 10"),
        ("waves:=7", "waves: no 7"),
        ("gear:=3", "gear: 3 is none of 1, 2, 4"),
        ("arm.length:=long", "arm.length: 'long' is not a number"),
        ("arm.length:=true", "arm.length: True is not a number"),
        ("arm.length:=3", "arm.length: 3.0 is not within 0.1 to 2"),
        ("arm.length:=0.0", "arm.length: 0.0 is not within 0.1 to 2"),
        ("arm.length:=.nan", "arm.length: nan is not within 0.1 to 2"),
        ("arm.side:=up", "arm.side: 'up' is none of left, (empty), right"),
    ],
)
def test_what_a_parameter_cannot_be_ends_the_start_with_a_sentence(start: Start, setting: str, sentence: str) -> None:
    with pytest.raises(ParameterError) as refusal:
        declare(start(setting), Settings)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("setting", "warning"),
    [
        ("polit:=true", "there is no parameter polit, so it has no effect; did you mean polite?"),
        ("length:=1.0", "there is no parameter length, so it has no effect; did you mean arm.length?"),
        ("arm.lenght:=1.0", "there is no parameter arm.lenght, so it has no effect; did you mean arm.length?"),
        ("xyz:=1", "there is no parameter xyz, so it has no effect\n"),
    ],
)
def test_what_is_no_parameter_is_logged_with_the_one_that_may_be_meant(
    start: Start, capfd: pytest.CaptureFixture[str], setting: str, warning: str
) -> None:
    assert declare(start(setting), Settings) == Settings()
    assert warning in capfd.readouterr().err


def test_what_ros_declares_itself_is_no_mistake(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    declare(start("use_sim_time:=true", "qos_overrides./image.publisher.depth:=3"), Settings)
    assert "no parameter" not in capfd.readouterr().err


def test_groups_that_nobody_describes_are_declared_as_they_are_set(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    node = start("stranger.size:=3", "stranger.deep.name:=x")
    declare(node, Settings, undescribed=("stranger",))
    values = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("stranger").items()}
    assert values == {"size": 3, "deep.name": "x"}
    assert "no parameter" not in capfd.readouterr().err
    with pytest.raises(ParameterError, match=r"^stranger\.list: ROS cannot tell"):
        declare(start("stranger.list:=[]"), Settings, undescribed=("stranger",))


def test_ros_describes_parameters_with_their_ranges(start: Start) -> None:
    node = start()
    declare(node, Settings)
    assert node.describe_parameter("gear").description == "Speed of the motor. One of: 1, 2, 4."
    whole, real = node.describe_parameter("waves").integer_range[0], node.describe_parameter("arm.length")
    assert (whole.from_value, whole.to_value) == (0, 10)
    assert (real.floating_point_range[0].from_value, real.floating_point_range[0].to_value) == (0.1, 2.0)


# --- while the node runs ----------------------------------------------------------------------------------------------


def test_of_read_only_parameters_only_live_ones_can_be_set(start: Start) -> None:
    node = start()
    declare(node, Settings, read_only=True)
    results = node.set_parameters([Parameter("waves", value=5), Parameter("gear", value=2)])
    assert [result.successful for result in results] == [True, False]
    assert results[1].reason == "Trying to set a read-only parameter: gear."
    assert read(node, Settings) == Settings(waves=5)
    assert node.describe_parameter("gear").read_only
    assert not node.describe_parameter("waves").read_only


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("waves", 5, ""),
        ("waves", 7, "waves: no 7"),
        ("arm.side", "up", "arm.side: 'up' is none of left, (empty), right"),
        ("gear", 2, "gear is welded"),
        ("gear", 3, "gear is welded"),
        ("of_somebody_else", 3, ""),
    ],
)
def test_a_change_is_refused_with_the_reason(name: str, value: Any, reason: str) -> None:
    result = check(Settings, [Parameter(name, value=value)], fixed="is welded")
    assert (result.successful, result.reason) == (not reason, reason)


def test_what_is_not_live_changes_while_nothing_keeps_it() -> None:
    assert check(Settings, [Parameter("gear", value=2)]).successful
    assert check(Settings, [Parameter("gear", value=3)]).reason == "gear: 3 is none of 1, 2, 4"


# --- written down -----------------------------------------------------------------------------------------------------


def test_a_parameter_file_has_every_parameter_at_its_default_under_its_description() -> None:
    written = as_yaml(Settings)
    assert "# How often | how long. Range 0 to 10. [live]\nwaves: 3\n" in written
    assert "# The arm that waves.\narm:\n  # Length in metres. Range 0.1 to 2.\n  length: 0.5\n" in written
    values = {"name": "Robbie", "friends": [""], "polite": True, "waves": 3, "gear": 1}
    assert yaml.safe_load(written) == values | {"arm": {"length": 0.5, "side": "left"}}


def test_a_table_has_a_row_for_each_parameter() -> None:
    rows = as_markdown(Settings).splitlines()
    assert r"| `waves` | `3` | 0 to 10 | yes | How often \| how long. |" in rows
    assert "| `gear` | `1` | 1, 2, 4 |  | Speed of the motor. |" in rows
    assert not any("length" in row for row in rows), "a group has a table of its own"


# --- of every node ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NODES)
def test_a_node_takes_its_parameter_file_and_has_the_defaults(
    start: Start, share: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    file = share / "config" / f"{name}.yaml"
    node = start(name=name, arguments=("--params-file", str(file)))
    assert declare(node, NODES[name]) == NODES[name]()
    assert "no parameter" not in capfd.readouterr().err
    (section,) = yaml.safe_load(file.read_text(encoding="utf-8")).values()
    assert set(section["ros__parameters"]) == {full_name.split(".")[0] for full_name in described(NODES[name])}


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_says_what_it_is_for(name: str) -> None:
    assert all(len(one.metadata["description"]) > 20 for one in described(NODES[name]).values())


@pytest.mark.parametrize(
    ("module", "setting", "sentence"),
    [
        ("vlm.node", "queue_size:=abc", "vlm: queue_size: 'abc' is not a whole number"),
        ("vlm.node", "llama.n_ctx:=1", "vlm: llama.n_ctx: 1 is not within 256 to 262144"),
        ("vlm.node", "engines:=[llama, 3]", "vlm: failed to initialize rcl: Couldn't parse parameter override rule"),
        ("gateway.node", "port:=abc", "web: port: 'abc' is not a whole number"),
        ("gateway.node", "port:=[a, 3]", "web: failed to initialize rcl: Couldn't parse parameter override rule"),
    ],
)
def test_what_a_node_cannot_start_with_is_named_in_one_sentence(module: str, setting: str, sentence: str) -> None:
    command = child_process.command(f"qwen3vl_ros.{module}", "--ros-args", "-p", setting)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith(sentence)
    assert "Traceback" not in ended.stderr
