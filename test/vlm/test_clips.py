"""Questions about clips: which frames the model gets, of what size, with which times, and what is said about them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import ChatMessage
from sensor_msgs.msg import Image

import child_process
import third_party
from qwen3vl_ros.vlm.clips import nanoseconds
from ros_client import PATIENCE, SENSOR_DATA, RosClient, noise_image
from vlm_process import SharedVlm, VlmProcess

Code = AskImage.Result

CUP = r"[{\"bbox_2d\": [250, 500, 500, 1000], \"label\": \"cup\"}]"
"""With the quotation marks as YAML has them."""

StartWitness = Callable[..., VlmProcess]


@pytest.fixture
def start_witness(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]
) -> StartWitness:
    """Start the node with an engine that answers with what it was shown."""
    _install(tmp_path_factory, monkeypatch)
    return lambda **parameters: start_vlm(engine="witness", **parameters).wait_connected()


@pytest.fixture
def witness(
    ros: RosClient,
    shared_vlm: SharedVlm,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> VlmProcess:
    """A node with that engine, which the tests share."""
    _install(tmp_path_factory, monkeypatch)
    return shared_vlm.get(engine="witness", history__rate=10.0, history__max_side=64, witness__says=CUP)


def _install(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    package = third_party.install(
        tmp_path_factory.mktemp("witness") / "installed", third_party.WITNESS, {"witness": "Witness"}
    )
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)


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


def test_images_of_a_goal_are_one_clip_with_the_times_of_their_stamps(ros: RosClient, witness: VlmProcess) -> None:
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


def test_a_clip_of_many_images_is_thinned_evenly_or_to_where_it_changed(ros: RosClient, witness: VlmProcess) -> None:
    many = [frame(10 if number < 7 else 200, number) for number in range(10)]
    even = ros.ask(images=many, images_are_clip=True, clip_frames=4).result()
    assert answered(even)[0]["times"] == [0.0, 3.0, 6.0, 9.0]
    assert len(even.image_headers) == 4
    assert "4 of the clip's 10 images" in even.notes[0]
    assert len(answered(ros.ask(images=many, images_are_clip=True).result())[0]["times"]) == 8  # the parameter
    long = [frame(number, number / 10, 640, 480) for number in range(40)]
    with ros.listen(Image, "/vlm/annotated", 50) as annotated:
        assert len(ros.ask(images=long, images_are_clip=True, clip_frames=40).result().image_headers) == 40
        sizes = {(image.width, image.height) for image in (annotated.wait_for() for _ in range(40))}
    assert len(sizes) == 1
    changed = ros.ask(images=many, images_are_clip=True, clip_frames=3, clip_pick="change").result()
    assert answered(changed)[0]["times"] == [0.0, 7.0, 9.0]


def test_frames_of_a_clip_are_small_unless_the_goal_says_otherwise(ros: RosClient, witness: VlmProcess) -> None:
    frames = [frame(10, 0.0, 640, 480), frame(20, 0.5, 640, 480)]
    sizes = {}
    for tokens in (0, 200):
        shown = answered(ros.ask(images=frames, images_are_clip=True, max_image_tokens=tokens).result())[0]
        sizes[tokens] = shown["size"][0] * shown["size"][1] // 32**2
    assert 60 <= sizes[0] <= 80 < 160 <= sizes[200] <= 200


def test_places_in_a_clip_are_of_its_last_frame(ros: RosClient, witness: VlmProcess) -> None:
    frames = [frame(10, 0.0), frame(20, 1.0), frame(30, 2.0)]
    result = ros.ask("cup", task="locate", images=frames, images_are_clip=True).result()
    assert result.error_code == Code.NONE, result.error_msg
    (region,) = result.regions
    assert region.image_index == 2
    assert (region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height) == (24, 32, 24, 32)


def test_fields_of_a_clip_that_make_no_sense_are_refused_by_name(ros: RosClient, witness: VlmProcess) -> None:
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
        (
            {"clip_duration": Duration(sec=1), "clip_end": Time(sec=1), "not_before": Time(sec=2)},
            Code.BAD_REQUEST,
            "clip_",
        ),
        ({"images": two, "clip_duration": Duration(sec=1)}, Code.BAD_REQUEST, "clip_duration: "),
        ({"text_only": True, "clip_duration": Duration(sec=1)}, Code.BAD_REQUEST, "clip_duration: "),
    ):
        result = ros.ask(**fields).result()
        assert result.error_code == code, fields
        assert result.error_msg.startswith(name), result.error_msg


# --- a camera's history -----------------------------------------------------------------------------------------------

SECOND = 1_000_000_000


class Lamp:
    """A camera that looks at a lamp, 40 times a second: how bright it is says when the image was taken."""

    def __init__(self, ros: RosClient) -> None:
        self._ros = ros
        self._publisher = ros.node.create_publisher(Image, "/image", SENSOR_DATA)
        self._timer = ros.node.create_timer(0.025, self._publish)

    @staticmethod
    def brightness(stamp: int) -> int:
        """10 more each 50 ms, from 10 to 240."""
        return 10 + stamp // (SECOND // 20) % 24 * 10

    def _publish(self) -> None:
        now = self._ros.node.get_clock().now().nanoseconds
        image = frame(self.brightness(now), 0.0, 160, 120)
        image.header.stamp = Time(sec=now // SECOND, nanosec=now % SECOND)
        self._publisher.publish(image)

    def close(self) -> None:
        def close() -> None:
            self._ros.node.destroy_timer(self._timer)
            self._ros.node.destroy_publisher(self._publisher)

        self._ros.on_executor(close)


@pytest.fixture
def lamp(ros: RosClient) -> Iterator[Lamp]:
    lamp = Lamp(ros)
    yield lamp
    lamp.close()


def seconds(duration: float) -> Duration:
    return Duration(sec=int(duration), nanosec=round(duration % 1 * SECOND))


def time_of(stamp: int) -> Time:
    return Time(sec=stamp // SECOND, nanosec=stamp % SECOND)


def checked_clip(result: AskImage.Result, duration: float) -> list[int]:
    """The stamps of the frames that the model saw, which are those of the result, and not older than the clip."""
    clip = answered(result)[0]
    stamps = [nanoseconds(header.stamp) for header in result.image_headers]
    assert stamps == sorted(stamps)
    assert stamps[0] >= stamps[-1] - duration * SECOND
    assert clip["times"] == pytest.approx([(stamp - stamps[0]) / SECOND for stamp in stamps])
    assert all(abs(mean - Lamp.brightness(stamp)) <= 3 for mean, stamp in zip(clip["means"], stamps, strict=True))
    assert [nanoseconds(stamp) for stamp in result.pixel_stamps] == stamps
    return stamps


def test_a_clip_without_a_camera_is_no_frame_with_the_reason(ros: RosClient, witness: VlmProcess) -> None:
    assert ros.set_parameter("frame_timeout", 0.3).successful
    try:
        for fields in ({}, {"clip_end": Time(sec=5)}):
            result = ros.ask(clip_duration=seconds(1.0), **fields).result()
            assert result.error_code == Code.NO_FRAME
            assert "nobody publishes it" in result.error_msg
            assert "for 0.3 s" in result.error_msg
    finally:
        ros.set_parameter("frame_timeout", 5.0)


@pytest.mark.parametrize("clip", [{}, {"clip_duration": Duration(sec=1)}], ids=["frame", "clip"])
def test_a_time_out_while_a_frame_is_waited_for_says_so_and_why_none_came(
    ros: RosClient, witness: VlmProcess, clip: dict[str, Any]
) -> None:
    result = ros.ask(timeout=seconds(0.3), **clip).result()
    assert result.error_code == Code.TIMEOUT
    assert "it was waiting for a frame on /image: " in result.error_msg
    assert "nobody publishes it" in result.error_msg


def test_a_time_out_while_the_history_is_waited_for_says_so(ros: RosClient, lamp: Lamp, witness: VlmProcess) -> None:
    result = ros.ask(timeout=seconds(1.5), clip_duration=seconds(30.0)).result()
    assert result.error_code == Code.TIMEOUT
    assert "it was waiting until the history of /image reaches back 30 s" in result.error_msg


def test_the_first_clip_waits_until_it_is_there_and_later_ones_ask_the_past(
    ros: RosClient, lamp: Lamp, witness: VlmProcess
) -> None:
    goal = ros.ask(clip_duration=seconds(1.0), clip_frames=4)
    goal.wait_for_stage(AskImage.Feedback.STAGE_WAITING_FRAME)
    now = checked_clip(goal.result(), 1.0)
    assert len(now) == 4
    assert now[-1] - now[0] > 0.6 * SECOND
    assert list(goal.result().notes) == []

    past = now[-1] - SECOND // 2
    earlier = ros.ask(clip_duration=seconds(0.4), clip_end=time_of(past)).result()
    stamps = checked_clip(earlier, 0.4)
    assert past - 0.4 * SECOND <= stamps[0] < stamps[-1] <= past

    status = witness.wait_status(lambda status: status.histories and status.histories[0].frames > 5)
    (history,) = status.histories
    assert history.camera == ""
    assert nanoseconds(history.oldest) <= now[0]
    assert 0 < history.bytes < 64_000_000

    command = child_process.command("qwen3vl_ros.cli.main", "status")
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert re.search(r"^history +\d+ frames over \d+\.\d s, \d+\.\d MB$", said.stdout, re.MULTILINE), said.stdout

    outside = time_of(nanoseconds(history.oldest) - 100 * SECOND)
    refused = ros.ask(clip_duration=seconds(1.0), clip_end=outside).result()
    assert refused.error_code == Code.NO_FRAME
    for sec in (outside.sec, history.oldest.sec):
        assert str(sec) in refused.error_msg
    future = ros.ask(clip_duration=seconds(1.0), clip_end=time_of(now[-1] + 1000 * SECOND)).result()
    assert future.error_code == Code.NO_FRAME
    assert str(now[-1] // SECOND + 1000) in future.error_msg

    changed = ros.ask(clip_duration=seconds(0.8), clip_frames=3, clip_pick="change").result()
    assert len(checked_clip(changed, 0.8)) == 3
    response = ros.ask_service(prompt="What?", clip_duration=seconds(0.5))
    assert response.error_code == Code.NONE, response.error_msg
    assert "times" in response.text

    located = ros.ask("cup", task="locate", clip_duration=seconds(0.5)).result()
    assert located.error_code == Code.NONE, located.error_msg
    (region,) = located.regions
    assert region.image_index == len(located.image_headers) - 1
    assert (region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height) == (40, 60, 40, 60)


def test_a_clip_longer_than_what_is_kept_has_what_there_is_and_a_note(
    ros: RosClient, lamp: Lamp, start_witness: StartWitness
) -> None:
    start_witness(history__rate=10.0, history__seconds=1.0)
    result = ros.ask(clip_duration=seconds(30.0)).result()
    stamps = checked_clip(result, 30.0)
    assert stamps[-1] - stamps[0] <= SECOND
    assert any("of the 30 s: history.seconds is 1" in note for note in result.notes), result.notes


def test_the_model_reads_two_frames_as_one_image_and_knows_a_clip_again(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    start_vlm().wait_connected()
    frames = [noise_image(seed=seed) for seed in range(4)]
    for number, image in enumerate(frames):
        image.header.stamp = Time(sec=5, nanosec=number * 250_000_000)
    asked = {"images": frames, "options": {"max_tokens": 2}}
    clip, again = (ros.ask("What is it?", images_are_clip=True, **asked).result() for _ in range(2))
    assert clip.error_code == Code.NONE, clip.error_msg
    single = ros.ask("What is it?", images=frames[:1], options={"max_tokens": 2}).result()
    assert clip.usage.image_tokens == 2 * single.usage.image_tokens
    assert (again.text, again.usage.encode_time) == (clip.text, 0.0)


def test_an_engine_without_clips_refuses_by_name(ros: RosClient, start_witness: StartWitness) -> None:
    start_witness(witness__video=False)
    clip = ros.ask(images=[frame(10, 0.0), frame(20, 1.0)], images_are_clip=True).result()
    assert clip.error_code == Code.UNSUPPORTED
    assert clip.error_msg.startswith("images_are_clip: engine 'witness' takes no clips")
