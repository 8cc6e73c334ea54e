"""What is special to the node ``vlm``: parameters that are checked further, engines of others, cameras of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rclpy.parameter import Parameter

from node_in_process import Start, nodes
from qwen3vl_ros.ros.parameters import ParameterError
from qwen3vl_ros.vlm import parameters

pytestmark = pytest.mark.ros


@pytest.fixture
def start(dds_profile: None) -> Iterator[Start]:
    with nodes() as start:
        yield start


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("tiles", "3", "tiles: '3' is no COLUMNSxROWS such as 2x1, with 9 of each at most"),
        ("tiles", "2x10", "tiles: '2x10' is no COLUMNSxROWS"),
        ("max_tokens", 0, "max_tokens: an answer has at least 1 token"),
        ("top_p", 0.0, "top_p: 0 makes no sense; use a negative number"),
        ("repetition_penalty", 0.0, "repetition_penalty: 0 makes no sense; use a negative number"),
        ("fit", "crop", "fit: 'crop' is none of (empty), contain, cover, fill"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_way_out(name: str, value: Any, says: str) -> None:
    result = parameters.check([Parameter(name, value=value)], configured=False)
    assert not result.successful and result.reason.startswith(says)


def test_what_is_not_live_waits_for_the_node_to_be_unconfigured() -> None:
    change = [Parameter("llama.n_ctx", value=512)]
    assert parameters.check(change, configured=False).successful
    assert parameters.check(change, configured=True).reason == (
        "llama.n_ctx is read when the node is configured: deactivate it and clean it up first, then set this and "
        "configure it again"
    )


def test_a_camera_has_what_was_set_for_it_and_else_what_all_have(start: Start) -> None:
    node = start("image_transport:=compressed", "camera.wrist.rotation:=180", "camera.wrist.tiles:=2x1")
    settings = parameters.declare(node)
    front, wrist = (parameters.declare_camera(node, name, settings) for name in ("front", "wrist"))
    assert (front.image_transport, front.rotation, front.tiles) == ("compressed", 0, "1x1")
    assert wrist == replace(front, rotation=180, tiles="2x1")
    assert parameters.declare_camera(node, "wrist", settings) == wrist, "as when the node is activated again"
    assert node.describe_parameter("camera.wrist.rotation").description.startswith("Degrees clockwise")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("camera.wrist.rotation:=45", "camera.wrist.rotation: 45 is none of 0, 90, 180, 270"),
        ("camera.wrist.rotation:=half", "camera.wrist.rotation: 'half' is not a whole number"),
        ("camera.wrist.tiles:=3x", "camera.wrist.tiles: '3x' is no COLUMNSxROWS"),
    ],
)
def test_what_a_camera_cannot_have_is_refused_by_its_full_name(start: Start, setting: str, says: str) -> None:
    node = start(setting)
    settings = parameters.declare(node)
    with pytest.raises(ParameterError) as refusal:
        parameters.declare_camera(node, "wrist", settings)
    assert str(refusal.value).startswith(says)
