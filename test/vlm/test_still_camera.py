"""A camera that stands still is read once: the same pixels again while nothing changes, new ones as soon as it does."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer
from sensor_msgs.msg import CameraInfo, Image

import third_party
from qwen3vl_ros.engines.base import Chunk, Description, ImageInput, Stage, Usage
from qwen3vl_ros.vision.fit import plan_fit
from qwen3vl_ros.vlm.pipeline import _has_read
from qwen3vl_ros.vlm.still_camera import FittedFrame, StillCamera
from ros_client import SENSOR_DATA, Goal, RosClient
from vlm_process import VlmProcess

Code = AskImage.Result
SECOND = 1_000_000_000
ENGINE = Description("llama", "a model")
FIT = plan_fit(64, 64, ImageInput(32, 4))


def fitted(level: float, at: float = 0.0, *, parts: int = 1, fits: tuple[Any, ...] = ()) -> FittedFrame:
    """A grey frame that was taken ``at`` this second; the level of its last part is given."""
    levels = [100.0] * (parts - 1) + [level]
    pixels = tuple(np.full((64, 64, 3), round(one), np.uint8) for one in levels)
    stamp = Time(sec=int(at), nanosec=int(at % 1 * SECOND))
    return FittedFrame(pixels, fits or (FIT,) * parts, int(at * SECOND), at, stamp)


def pixels_for(camera: StillCamera, frame: FittedFrame, **goal: Any) -> tuple[FittedFrame, float | None]:
    """What the engine is given for a frame, and the change against what it read before."""
    chosen = camera.choose(frame, ENGINE, goal.get("not_before", 0), new_pixels=goal.get("new_pixels", False))
    return chosen.pixels, chosen.change


def read(camera: StillCamera, frame: FittedFrame, **goal: Any) -> FittedFrame:
    """Ask about a frame; the engine reads what it is given."""
    pixels, _ = pixels_for(camera, frame, **goal)
    camera.remember(pixels, ENGINE)
    return pixels


# --- which pixels -----------------------------------------------------------------------------------------------------


def test_the_pixels_that_were_read_are_given_again_while_the_change_is_within_the_tolerance() -> None:
    camera = StillCamera(3.0, 60.0)
    first = fitted(100, 1.0)
    assert pixels_for(camera, first) == (first, None)
    camera.remember(first, ENGINE)
    assert pixels_for(camera, fitted(103, 2.0)) == (first, 3.0)
    changed = fitted(104, 3.0)
    assert pixels_for(camera, changed) == (changed, 4.0)


def test_without_a_tolerance_the_new_pixels_are_read_and_the_change_is_measured() -> None:
    camera = StillCamera(0.0, 60.0)
    read(camera, fitted(100, 1.0))
    for level, change in ((100, 0.0), (102, 2.0)):
        new = fitted(level, 2.0)
        assert pixels_for(camera, new) == (new, change)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=60))
def test_a_slow_drift_is_noticed_however_small_its_steps(steps: list[int]) -> None:
    """What is read is never further from the new frame than the tolerance."""
    camera, level = StillCamera(3.0, 1e6), 120
    for at, step in enumerate([0, *steps]):
        level += step
        pixels = read(camera, fitted(level, at))
        assert abs(int(pixels.parts[0][0, 0, 0]) - level) <= 3


def test_pixels_are_given_again_for_reuse_max_age_and_no_longer() -> None:
    camera = StillCamera(3.0, 10.0)
    first = read(camera, fitted(100, 1.0))
    assert read(camera, fitted(100, 11.0)) is first  # which makes them no younger
    late = fitted(100, 11.5)
    assert read(camera, late) is late
    assert read(camera, fitted(100, 21.0)) is late


def test_time_that_goes_back_has_new_pixels_read() -> None:
    camera = StillCamera(3.0, 10.0)
    read(camera, fitted(100, 5.0))
    again = fitted(100, 1.0)  # a bag that is played again
    assert pixels_for(camera, again) == (again, 0.0)


def test_a_goal_that_says_so_has_new_pixels_and_later_ones_have_those() -> None:
    camera = StillCamera(3.0, 60.0)
    read(camera, fitted(100, 1.0))
    new = fitted(101, 2.0)
    assert pixels_for(camera, new, new_pixels=True) == (new, 1.0)
    assert read(camera, new, new_pixels=True) is new
    assert read(camera, fitted(102, 3.0)) is new


def test_no_pixels_from_before_not_before_are_given() -> None:
    camera = StillCamera(3.0, 60.0)
    first = read(camera, fitted(100, 2.0))
    assert pixels_for(camera, fitted(100, 3.0), not_before=2 * SECOND)[0] is first
    new = fitted(100, 3.0)
    assert pixels_for(camera, new, not_before=2 * SECOND + 1) == (new, 0.0)


def test_pixels_that_were_not_read_are_not_given() -> None:
    camera = StillCamera(3.0, 60.0)
    pixels_for(camera, fitted(100, 1.0))
    new = fitted(101, 2.0)
    assert pixels_for(camera, new) == (new, None)


def test_a_change_in_one_part_of_an_image_has_all_of_them_read_anew() -> None:
    camera = StillCamera(3.0, 60.0)
    read(camera, fitted(100, 1.0, parts=3))
    new = fitted(140, 2.0, parts=3)
    assert pixels_for(camera, new) == (new, 40.0)


def test_frames_of_another_fit_engine_or_model_are_not_compared() -> None:
    camera = StillCamera(3.0, 60.0)
    first = read(camera, fitted(100, 1.0))
    cropped = (plan_fit(64, 64, ImageInput(32, 4), part=(0.0, 0.0, 64.0, 32.0)),)
    for frame, engine in (
        (fitted(100, 2.0, fits=cropped), ENGINE),
        (fitted(100, 2.0), Description("openvino", "a model")),
        (fitted(100, 2.0), Description("llama", "another model")),
    ):
        chosen = camera.choose(frame, engine, 0, new_pixels=False)
        assert (chosen.pixels, chosen.change) == (frame, None)
        camera.remember(frame, engine)
    assert pixels_for(camera, fitted(100, 3.0))[0] is first


def test_few_frames_are_kept_and_those_that_are_in_use() -> None:
    camera = StillCamera(3.0, 60.0)
    sizes = [(plan_fit(64 + number, 64, ImageInput(32, 4)),) for number in range(1, 7)]
    used = read(camera, fitted(100, 1.0))
    for fits in sizes:
        read(camera, fitted(100, 1.0, fits=fits))
        assert read(camera, fitted(100, 2.0)) is used
    assert pixels_for(camera, fitted(100, 2.0, fits=sizes[0]))[1] is None


def test_of_two_questions_at_once_the_newer_frame_stays() -> None:
    camera = StillCamera(3.0, 60.0)
    older, newer = fitted(100, 1.0), fitted(140, 2.0)
    camera.remember(newer, ENGINE)
    camera.remember(older, ENGINE)
    assert pixels_for(camera, fitted(140, 3.0)) == (newer, 0.0)


@pytest.mark.parametrize(
    ("chunk", "read"),
    [
        (Chunk(Stage.ENCODE), False),
        (Chunk(Stage.PREFILL), False),
        (Chunk(Stage.ENCODE, finish_reason="cancelled", usage=Usage()), False),
        (Chunk(Stage.DECODE, finish_reason="cancelled", usage=Usage()), False),
        (Chunk(Stage.DECODE, "a", completion_tokens=1), True),
        (Chunk(Stage.PREFILL, finish_reason="stop", usage=Usage()), True),
    ],
)
def test_an_engine_has_read_its_images_once_it_writes(chunk: Chunk, read: bool) -> None:
    assert _has_read(chunk) == read


# --- over DDS ---------------------------------------------------------------------------------------------------------

SIZE = 160
OPTIONS = {"options": {"max_tokens": 4}}


class Room:
    """A noisy camera that looks at a wall, ten times a second; ``spot``: whether a thing of 12x12 pixels is in it."""

    def __init__(self, ros: RosClient, prefix: str = "") -> None:
        self._ros = ros
        self._random = np.random.default_rng(0)
        self._image = Image(height=SIZE, width=SIZE, encoding="rgb8", step=3 * SIZE)
        self._depth = Image(height=SIZE, width=SIZE, encoding="32FC1", step=4 * SIZE)
        k = [SIZE, 0.0, SIZE / 2, 0.0, SIZE, SIZE / 2, 0.0, 0.0, 1.0]
        self._info = CameraInfo(width=SIZE, height=SIZE, k=[float(one) for one in k], distortion_model="plumb_bob")
        self._info.d = [0.0] * 5
        kinds = {"image": Image, "depth": Image, "camera_info": CameraInfo}
        self._publishers = {
            name: ros.node.create_publisher(kind, f"/{prefix}{name}", SENSOR_DATA) for name, kind in kinds.items()
        }
        self.spot = False
        self.distance = 2.0
        self._timer = ros.node.create_timer(0.1, self._publish)

    def _publish(self) -> None:
        wall = np.full((SIZE, SIZE, 3), 120.0)
        wall[:, SIZE // 2 :] = (90.0, 140.0, 180.0)
        if self.spot:
            wall[101:113, 50:62] += 40.0
        wall += self._random.normal(0.0, 3.0, wall.shape)
        self._image.data = np.rint(wall).astype(np.uint8).tobytes()
        self._depth.data = np.full((SIZE, SIZE), self.distance, np.float32).tobytes()
        stamp = self._ros.node.get_clock().now().to_msg()
        messages = {"image": self._image, "depth": self._depth, "camera_info": self._info}
        for name, message in messages.items():
            message.header.stamp, message.header.frame_id = stamp, "lens"
            self._publishers[name].publish(message)

    def change(self, **what: Any) -> Time:
        """Change the room; returns a time from which on every frame shows that."""

        def change() -> Time:
            for name, value in what.items():
                setattr(self, name, value)
            return self._ros.node.get_clock().now().to_msg()

        changed: Time = self._ros.on_executor(change)
        return changed

    def close(self) -> None:
        def close() -> None:
            self._ros.node.destroy_timer(self._timer)
            for publisher in self._publishers.values():
                self._ros.node.destroy_publisher(publisher)

        self._ros.on_executor(close)


@pytest.fixture
def room(ros: RosClient) -> Iterator[Room]:
    room = Room(ros)
    yield room
    room.close()


def nanoseconds(stamp: Time) -> int:
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def answered(goal: Goal) -> AskImage.Result:
    result = goal.result()
    assert result.error_code == Code.NONE, result.error_msg
    assert len(result.pixel_stamps) == len(result.image_headers)
    return result


def ask_later(ros: RosClient, since: Time, prompt: str = "What is it?", **fields: Any) -> AskImage.Result:
    """About frames that were stamped after ``since``, which ``not_before`` would have the model read anew."""
    for _ in itertools.count():
        result = answered(ros.ask(prompt, **{**OPTIONS, **fields}))
        if all(nanoseconds(header.stamp) > nanoseconds(since) for header in result.image_headers):
            return result
    raise AssertionError


def test_a_noisy_still_camera_is_encoded_once_and_a_thing_that_comes_is_seen(
    ros: RosClient, room: Room, start_vlm: Callable[..., VlmProcess]
) -> None:
    start_vlm(reuse_tolerance=4.0, reuse_max_age=3600.0).wait_connected()
    first = answered(ros.ask("What colour is the wall?", **OPTIONS))
    assert first.usage.image_change == -1.0
    assert first.usage.encode_time > 0.0
    assert first.pixel_stamps == [first.image_headers[0].stamp]

    second = ask_later(ros, first.image_headers[0].stamp, "How many objects are there?")
    assert second.usage.encode_time == 0.0
    assert second.usage.cached_tokens >= second.usage.image_tokens > 0
    assert second.pixel_stamps == first.pixel_stamps
    assert 0.0 < second.usage.image_change <= 4.0

    third = ask_later(ros, room.change(spot=True))
    assert third.usage.encode_time > 0.0
    assert third.usage.image_change > 4.0
    assert third.pixel_stamps == [third.image_headers[0].stamp]
    gone = ask_later(ros, room.change(spot=False))
    assert nanoseconds(gone.pixel_stamps[0]) > nanoseconds(third.pixel_stamps[0])


def test_the_change_that_a_thing_makes_is_in_the_result_and_in_the_log_of_answers(
    ros: RosClient, room: Room, start_vlm: Callable[..., VlmProcess]
) -> None:
    """Also where nothing is reused, which is so by default."""
    start_vlm().wait_connected()
    with ros.listen(Answer, "/vlm/answers") as answers:
        first = answered(ros.ask(**OPTIONS))
        again = ask_later(ros, first.image_headers[0].stamp)
        assert again.usage.encode_time > 0.0
        assert again.pixel_stamps == [again.image_headers[0].stamp]
        assert 0.0 < again.usage.image_change < 4.0
        room.change(spot=True)
        logged = None
        while logged is None or logged.usage.image_change < 30.0:  # the first one that shows the thing
            answered(ros.ask(**OPTIONS))
            logged = answers.wait_for()
    assert 30.0 <= logged.usage.image_change <= 50.0


def test_a_goal_may_demand_new_pixels_and_so_does_not_before(
    ros: RosClient, room: Room, start_vlm: Callable[..., VlmProcess]
) -> None:
    start_vlm(reuse_tolerance=4.0, reuse_max_age=3600.0).wait_connected()
    first = answered(ros.ask(**OPTIONS))
    assert ask_later(ros, first.image_headers[0].stamp).pixel_stamps == first.pixel_stamps
    new = ask_later(ros, first.image_headers[0].stamp, new_pixels=True)
    assert new.pixel_stamps == [new.image_headers[0].stamp]
    assert 0.0 < new.usage.image_change <= 4.0
    since = ros.on_executor(lambda: ros.node.get_clock().now().to_msg())
    late = answered(ros.ask(not_before=since, **OPTIONS))
    assert nanoseconds(late.pixel_stamps[0]) >= nanoseconds(since)
    assert answered(ros.ask(not_before=since, **OPTIONS)).pixel_stamps == late.pixel_stamps
    response = ros.ask_service(prompt="What is it?", new_pixels=True)
    assert response.error_code == Code.NONE, response.error_msg
    assert response.pixel_stamps == [response.image_headers[0].stamp]
    assert nanoseconds(response.pixel_stamps[0]) > nanoseconds(late.pixel_stamps[0])


@pytest.fixture
def reciter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Any:
    """Start the node with an engine that says what a test wants, and change that: it has no images of its own."""
    package = third_party.install(tmp_path / "installed", third_party.RECITER, {"reciter": "Reciter"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    started: list[VlmProcess] = []

    def say(answer: str, **parameters: object) -> None:
        (tmp_path / "says").write_text(json.dumps([answer]))
        if not started:
            files = {f"reciter__{name}": str(tmp_path / name) for name in ("says", "heard")}
            started.append(start_vlm(engine="reciter", **files, **parameters).wait_connected())

    return say


def test_a_frame_that_no_engine_has_read_is_not_reused(ros: RosClient, room: Room, reciter: Any) -> None:
    reciter("TOO LONG", reuse_tolerance=4.0)
    refused = ros.ask(**OPTIONS).result()
    assert (refused.error_code, len(refused.pixel_stamps)) == (Code.PROMPT_TOO_LONG, 1)
    reciter("WAIT")
    waits = ros.ask("What?", **OPTIONS)
    waits.wait_for_stage(AskImage.Feedback.STAGE_PREFILL)
    waits.cancel()
    assert waits.result().error_code == Code.CANCELLED
    reciter("yes")
    first = answered(ros.ask(**OPTIONS))
    assert (first.usage.image_change, first.pixel_stamps) == (-1.0, [first.image_headers[0].stamp])
    assert ask_later(ros, first.image_headers[0].stamp).pixel_stamps == first.pixel_stamps


def test_positions_are_of_the_new_frames_header_and_depth(ros: RosClient, room: Room, reciter: Any) -> None:
    reciter('[{"bbox_2d": [250, 250, 500, 750], "label": "wall"}]', reuse_tolerance=4.0)
    first = ask_later(ros, Time(), "wall", task="locate")
    assert first.regions[0].position.point.z == pytest.approx(2.0, abs=0.01)
    later = ask_later(ros, room.change(distance=3.0), "wall", task="locate")
    assert later.pixel_stamps == first.pixel_stamps != [later.image_headers[0].stamp]
    assert later.regions[0].position.header == later.image_headers[0]
    assert later.regions[0].position.point.z == pytest.approx(3.0, abs=0.01)


def test_each_camera_has_its_own_tolerance_and_images_of_a_goal_have_none(
    ros: RosClient, room: Room, reciter: Any
) -> None:
    reciter("yes", cameras=["", "side"], reuse_tolerance=4.0, camera__side__reuse_tolerance=0.0)
    side = Room(ros, "side/")
    try:
        both = ["", "side"]
        first = ask_later(ros, Time(), cameras=both)
        later = ask_later(ros, first.image_headers[1].stamp, cameras=both)
    finally:
        side.close()
    assert later.pixel_stamps[0] == first.pixel_stamps[0]
    assert later.pixel_stamps[1] == later.image_headers[1].stamp != first.pixel_stamps[1]
    image = Image(height=8, width=8, encoding="rgb8", step=24, data=bytes(192))
    image.header.stamp.sec = 7
    for _ in range(2):
        own = answered(ros.ask(images=[image], new_pixels=True, **OPTIONS))
        assert (own.usage.image_change, own.pixel_stamps) == (-1.0, [image.header.stamp])
