"""Questions about clips: which frames the model gets, of what size, with which times, and what is said about them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import ChatMessage
from sensor_msgs.msg import Image

import third_party
from ros_client import RosClient
from vlm_process import VlmProcess

Code = AskImage.Result

StartWitness = Callable[..., VlmProcess]


@pytest.fixture
def start_witness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]
) -> StartWitness:
    """Start the node with an engine that answers with what it was shown."""
    package = third_party.install(tmp_path / "installed", third_party.WITNESS, {"witness": "Witness"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return lambda **parameters: start_vlm(engine="witness", **parameters).wait_connected()


def frame(level: int, seconds: float, width: int = 96, height: int = 64) -> Image:
    """A grey image that was taken ``seconds`` after 1000 s."""
    image = Image(height=height, width=width, encoding="mono8", step=width)
    image.data = np.full(height * width, level, np.uint8).tobytes()
    whole, part = divmod(round(seconds * 1e9), 10**9)
    image.header.stamp, image.header.frame_id = Time(sec=1000 + whole, nanosec=part), "lens"
    return image


def answered(result: AskImage.Result) -> Any:
    """What the model was shown in the question's own message."""
    assert result.error_code == Code.NONE, result.error_msg
    return json.loads(result.text)[-1]


# --- images of the goal ----------------------------------------------------------------------------------------------


def test_images_of_a_goal_are_one_clip_with_the_times_of_their_stamps(
    ros: RosClient, start_witness: StartWitness
) -> None:
    start_witness()
    frames = [frame(10, 0.0), frame(20, 0.5), frame(30, 2.25)]
    result = ros.ask("What happened?", images=frames, images_are_clip=True).result()
    assert answered(result) == [{"times": [0.0, 0.5, 2.25], "size": [96, 64], "means": [10, 20, 30]}, "What happened?"]
    assert [header.stamp for header in result.image_headers] == [image.header.stamp for image in frames]
    assert result.pixel_stamps == [image.header.stamp for image in frames]

    turns = [ChatMessage(role="user", content=["", "Look."]), ChatMessage(role="assistant", content=["Yes."])]
    later = ros.ask(
        "And then?", images=[frame(99, 0.0, 640, 480), *frames], images_are_clip=True, history=turns
    ).result()
    assert answered(later)[0]["means"] == [10, 20, 30]
    earlier = json.loads(later.text)[0][0]
    assert earlier["means"] == [99]
    assert earlier["size"][0] * earlier["size"][1] > 80 * 32 * 32  # an image is not made as small as a clip's frames


def test_a_clip_of_many_images_is_thinned_evenly_or_to_where_it_changed(
    ros: RosClient, start_witness: StartWitness
) -> None:
    start_witness(clip_frames=4)
    many = [frame(10 if number < 7 else 200, number) for number in range(10)]
    even = ros.ask(images=many, images_are_clip=True).result()
    assert answered(even)[0]["times"] == [0.0, 3.0, 6.0, 9.0]
    assert len(even.image_headers) == 4
    assert "4 of the clip's 10 images" in even.notes[0]
    changed = ros.ask(images=many, images_are_clip=True, clip_frames=3, clip_pick="change").result()
    assert answered(changed)[0]["times"] == [0.0, 7.0, 9.0]


def test_frames_of_a_clip_are_small_unless_the_goal_says_otherwise(ros: RosClient, start_witness: StartWitness) -> None:
    start_witness()
    frames = [frame(10, 0.0, 640, 480), frame(20, 0.5, 640, 480)]
    sizes = {}
    for tokens in (0, 200):
        shown = answered(ros.ask(images=frames, images_are_clip=True, max_image_tokens=tokens).result())[0]
        sizes[tokens] = shown["size"][0] * shown["size"][1] // 32**2
    assert 60 <= sizes[0] <= 80 < 160 <= sizes[200] <= 200


def test_places_in_a_clip_are_of_its_last_frame(ros: RosClient, start_witness: StartWitness) -> None:
    start_witness(witness__says='[{\\"bbox_2d\\": [250, 500, 500, 1000], \\"label\\": \\"cup\\"}]')
    frames = [frame(10, 0.0), frame(20, 1.0), frame(30, 2.0)]
    result = ros.ask("cup", task="locate", images=frames, images_are_clip=True).result()
    assert result.error_code == Code.NONE, result.error_msg
    (region,) = result.regions
    assert region.image_index == 2
    assert (region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height) == (24, 32, 24, 32)


def test_fields_of_a_clip_that_make_no_sense_are_refused_by_name(ros: RosClient, start_witness: StartWitness) -> None:
    start_witness()
    two = [frame(10, 0.0), frame(20, 1.0)]
    for fields, code, name in (
        ({"images": two[::-1], "images_are_clip": True}, Code.BAD_REQUEST, "images_are_clip: image 2 "),
        ({"images": [two[0], two[0]], "images_are_clip": True}, Code.BAD_REQUEST, "images_are_clip: image 2 "),
        ({"images": [two[0], frame(20, 1.0, 32)], "images_are_clip": True}, Code.BAD_REQUEST, "images_are_clip: frame"),
        ({"images_are_clip": True}, Code.BAD_REQUEST, "images_are_clip: "),
        ({"images": two, "clip_frames": 3}, Code.BAD_REQUEST, "clip_frames: "),
        ({"images": two, "clip_pick": "even"}, Code.BAD_REQUEST, "clip_pick: "),
        ({"images": two, "images_are_clip": True, "clip_pick": "odd"}, Code.BAD_REQUEST, "clip_pick: 'odd'"),
        ({"images": two, "clip_end": Time(sec=1)}, Code.BAD_REQUEST, "clip_end: "),
        ({"images": two, "clip_duration": Duration(sec=1)}, Code.BAD_REQUEST, "clip_duration: "),
        ({"text_only": True, "clip_duration": Duration(sec=1)}, Code.BAD_REQUEST, "clip_duration: "),
    ):
        result = ros.ask(**fields).result()
        assert result.error_code == code, fields
        assert result.error_msg.startswith(name), result.error_msg


def test_an_engine_without_clips_refuses_by_name(ros: RosClient, start_witness: StartWitness) -> None:
    start_witness(witness__video=False)
    clip = ros.ask(images=[frame(10, 0.0), frame(20, 1.0)], images_are_clip=True).result()
    assert clip.error_code == Code.UNSUPPORTED
    assert clip.error_msg.startswith("images_are_clip: engine 'witness' takes no clips")
