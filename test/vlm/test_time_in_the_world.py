"""What the node knows of the past is true in the built-in world: real camera, real node, DDS; a model that can see."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration, Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Watch, WatchEvent
from qwen3vl_ros.srv import AddWatch, RemoveWatch
from rclpy.qos import DurabilityPolicy, QoSProfile

import third_party
from qwen3vl_ros.client import image_of_bag
from qwen3vl_ros.vision.compressed import pixels_of
from ros_client import RosClient
from table_world import SECOND, Film, TableWorld, nanoseconds, shows_ball
from vlm_process import SharedVlm, VlmProcess

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")
pytestmark = pytest.mark.ros
pytest_plugins = ["table_world_fixtures"]

PERIOD = SECOND // 2
"""Of the history, with the default history.rate, in nanoseconds."""

CAMERA_PERIOD = SECOND // 10

EYE = """
    import json
    import numpy as np
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Eye:
        '''Sees the blue ball: whether it is there, in a clip when it left, in an event that describes every frame
        ("1110": three with it), or where it is.'''

        def __init__(self, progress):
            pass

        def describe(self):
            return Description("eye", "none", image_input=ImageInput(28, 1000), supports=frozenset(
                {"video", "max_tokens", "temperature"}))

        def _box(self, frame):
            red, green, blue = np.moveaxis(frame.astype(int), 2, 0)
            rows, columns = np.nonzero((blue > 90) & (blue > 2 * red) & (blue > 1.5 * green))
            height, width = red.shape
            if len(rows) < 0.002 * red.size:
                return None
            corners = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
            return [round(1000 * corner) for corner in corners]

        def generate(self, request, cancel):
            *_, seen, prompt = request.messages[-1].content
            if not isinstance(seen, Clip):
                yield Chunk(Stage.DECODE, "Yes" if self._box(seen) else "No", completion_tokens=1)
                yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=1, completion_tokens=1))
                return
            boxes = list(map(self._box, seen.frames))
            if "bbox" in prompt:
                every = [{"time": time, "bbox_2d": box, "label": "ball"} for time, box in zip(seen.times, boxes) if box]
                answer = every if '"time"' in prompt else [{"bbox_2d": boxes[-1], "label": "ball"}]
            else:
                shown = [box is not None for box in boxes]
                left = next((at for at in range(1, len(shown)) if shown[at - 1] and not shown[at]), None)
                answer = [] if left is None else [{"start": seen.times[left], "end": seen.times[left],
                                                   "description": "".join(str(int(one)) for one in shown)}]
            yield Chunk(Stage.DECODE, json.dumps(answer), completion_tokens=1)
            yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=1, completion_tokens=1))

        def close(self):
            pass
"""


@pytest.fixture
def eye(
    ros: RosClient, shared_vlm: SharedVlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: TableWorld
) -> VlmProcess:
    """A node with that engine, which the tests share; frames of its history are smaller than those of the camera."""
    package = third_party.install(tmp_path / "installed", EYE, {"eye": "Eye"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return shared_vlm.get(engine="eye", history__max_side=224)


def ask(ros: RosClient, prompt: str, task: str, **fields: Any) -> AskImage.Result:
    result = ros.ask(prompt, task=task, **fields).result()
    assert result.error_code == AskImage.Result.NONE, result.error_msg
    return result


def stamps(result: AskImage.Result) -> list[int]:
    return [nanoseconds(header.stamp) for header in result.image_headers]


def test_a_clip_that_ends_with_an_event_of_a_watch_has_the_frame_of_the_event_and_those_before(
    ros: RosClient, world: TableWorld, eye: VlmProcess
) -> None:
    """The watch keeps the history: nobody has asked for a clip before."""
    world.move_ball(1.08, -0.18)
    watch = Watch(prompt="Is there a blue ball?", kinds=Watch.KIND_OFF)
    watch.min_period.nanosec = 100_000_000
    latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with ros.listen(WatchEvent, "/vlm/watch_events", latched) as events, Film(ros) as film:
        assert ros.call(AddWatch, "/vlm/add_watch", AddWatch.Request(watch=watch)).success
        film.wait_seconds(1.5)
        world.take_ball_away()
        event = events.wait_for()
    assert ros.call(RemoveWatch, "/vlm/remove_watch", RemoveWatch.Request()).success
    clip = {"clip_duration": Duration(sec=1), "clip_end": event.header.stamp}
    result = ask(ros, "the ball leaves the table", "when", **clip)
    assert result.image_headers[-1].stamp == event.header.stamp
    assert re.fullmatch("1+0+", json.loads(result.json)[0]["description"])


def test_a_clip_has_the_frames_before_and_after_the_ball_left_and_a_bag_of_them_gives_the_same_answer(
    ros: RosClient, world: TableWorld, eye: VlmProcess, tmp_path: Path
) -> None:
    bags = pytest.importorskip("bags", reason="rosbags, which reads bags, is not installed here")
    world.move_ball(1.08, -0.18)
    question = {"clip_duration": Duration(sec=2, nanosec=500_000_000), "clip_frames": 16}
    ask(ros, "the ball leaves the table", "when", clip_duration=Duration(sec=1))  # from then on frames are kept
    with Film(ros) as film:
        film.wait_seconds(2.7)  # more than the clip is long: it has nothing of what was before
        world.take_ball_away()
        film.wait_seconds(1.5)
        live = ask(ros, "the ball leaves the table", "when", **question)
        film.wait_until(live.image_headers[-1].stamp)
    last_with, left = film.ball_left()
    frames = {nanoseconds(frame.header.stamp): frame for frame in film.frames}
    seen = [stamp for stamp in stamps(live) if stamp in frames]  # the film began later than the history
    shown = "".join(str(int(shows_ball(pixels_of(frames[stamp])))) for stamp in seen)
    assert "10" in shown
    ((event, moment),) = zip(json.loads(live.json), live.moments, strict=True)
    assert event["description"].endswith(shown)
    assert left <= nanoseconds(moment.stamp) <= left + PERIOD + CAMERA_PERIOD
    assert stamps(live)[moment.image_index - 1] <= last_with

    before = Time(sec=last_with // SECOND, nanosec=last_with % SECOND)
    assert json.loads(ask(ros, "the ball leaves the table", "when", clip_end=before, **question).json) == []

    bag = bags.write_bag(tmp_path / "live", (("/image", stamp, frame) for stamp, frame in frames.items()))
    again = [image_of_bag(bag, time=Time(sec=stamp // SECOND, nanosec=stamp % SECOND)) for stamp in seen]
    recorded = ask(ros, "the ball leaves the table", "when", images=again, images_are_clip=True, clip_frames=16)
    ((recorded_event, recorded_moment),) = zip(json.loads(recorded.json), recorded.moments, strict=True)
    assert recorded_event["description"] == shown
    assert recorded_moment.stamp == moment.stamp


@pytest.mark.parametrize("pick", ["even", "change"])
def test_a_place_in_the_last_frame_of_a_clip_is_measured_and_those_in_earlier_ones_say_why_not(
    ros: RosClient, world: TableWorld, eye: VlmProcess, pick: str
) -> None:
    truth = world.move_ball(0.95, 0.40)
    with Film(ros) as film:
        film.wait_seconds(1.5)
    clip = {"clip_duration": Duration(sec=1), "clip_frames": 2, "clip_pick": pick}
    *earlier, last = ask(ros, "the blue ball", "track", **clip).regions
    (located,) = ask(ros, "the blue ball", "locate", **clip).regions
    for region in (last, located):
        assert region.has_position, region.position_error
        point = region.position.point
        assert np.linalg.norm([point.x, point.y, point.z] - truth) < 0.05
    assert earlier and all("depth images are kept of no earlier frame" in region.position_error for region in earlier)
