"""What an answer about a clip says about time is stamped: moments, and boxes of one thing over the frames."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer, ChatMessage
from sensor_msgs.msg import Image

import third_party
from ros_client import SENSOR_DATA, RosClient
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
Code = AskImage.Result


class Scripted:
    """The node with an engine that takes clips and says what a test chose."""

    def __init__(self, folder: Path, start_vlm: Callable[..., VlmProcess]) -> None:
        self._folder = folder
        files = {f"reciter__{name}": str(folder / name) for name in ("says", "heard")}
        start_vlm(engine="reciter", reciter__clips=True, frame_timeout=1.5, **files).wait_connected()

    def say(self, answer: object) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        (self._folder / "says").write_text(json.dumps([text]))
        (self._folder / "heard").write_text("")

    @property
    def heard(self) -> str:
        """The question that it was asked."""
        return str(json.loads((self._folder / "heard").read_text().splitlines()[-1]))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Scripted:
    package = third_party.install(tmp_path / "installed", third_party.RECITER, {"reciter": "Reciter"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return Scripted(tmp_path, start_vlm)


def frame(tenths: int, width: int = 200, height: int = 100) -> Image:
    """A frame of ``tenths`` of a second after 99.9 s."""
    image = Image(height=height, width=width, encoding="mono8", step=width)
    image.data = np.full(height * width, 10, np.uint8).tobytes()
    image.header.stamp, image.header.frame_id = stamp(tenths), "lens"
    return image


def stamp(tenths: int) -> Time:
    return Time(sec=(999 + tenths) // 10, nanosec=(999 + tenths) % 10 * 100_000_000)


CLIP = [frame(0), frame(10), frame(20), frame(45)]


def test_times_in_an_answer_are_stamps_of_the_cameras_clock(ros: RosClient, model: Scripted) -> None:
    model.say("At 0:02.5 the cup falls. It lies there for 1 second.\n- 1 to 4.5 seconds: a hand moves\nIt is 12:30.")
    with ros.listen(Answer, "/vlm/answers") as answers:
        result = ros.ask("What happened?", images=CLIP, images_are_clip=True).result()
        published = answers.wait_for(lambda message: message.text == result.text)
    assert result.error_code == Code.NONE, result.error_msg
    fall, hand = result.moments
    assert (fall.label, fall.stamp, fall.end_stamp) == ("At 0:02.5 the cup falls.", stamp(25), stamp(25))
    assert (hand.label, hand.stamp, hand.end_stamp) == ("a hand moves", stamp(10), stamp(45))
    assert (fall.image_index, hand.image_index) == (2, 1)
    assert result.image_headers[fall.image_index].stamp == stamp(20)
    assert result.notes == ["times outside of the clip, which is 4.5 s long, are left out: 12:30"]
    assert published.moments == result.moments

    turns = [ChatMessage(role="user", content=["", "Look."]), ChatMessage(role="assistant", content=["Yes."])]
    later = ros.ask("And then?", images=[frame(-50), *CLIP], images_are_clip=True, history=turns).result()
    assert [moment.stamp for moment in later.moments] == [stamp(25), stamp(10)]
    assert later.image_headers[later.moments[0].image_index].stamp == stamp(20)


def test_a_time_in_an_answer_about_a_single_image_is_no_moment(ros: RosClient, model: Scripted) -> None:
    model.say("The clock shows 0:02, and it ticks at 1 second.")
    result = ros.ask(images=CLIP[:1]).result()
    assert (result.error_code, result.moments, result.notes) == (Code.NONE, [], [])


def test_the_tasks_about_time_answer_with_events_and_their_moments(ros: RosClient, model: Scripted) -> None:
    event = {"start": 1.0, "end": 2.5, "description": "The door opens."}
    answers = {"what_happened": [event], "when": [event], "count_events": {"events": [event], "count": 1}}
    for task, said in answers.items():
        model.say(said)
        result = ros.ask("the door opens", task=task, images=CLIP, images_are_clip=True).result()
        assert result.error_code == Code.NONE, result.error_msg
        assert json.loads(result.json) == said
        (moment,) = result.moments
        assert (moment.label, moment.stamp, moment.end_stamp) == ("The door opens.", stamp(10), stamp(25))
    for count, listed, note in ((3, 1, "counts 3 and lists 1 in events"), (0, 0, "")):
        model.say({"events": [event] * listed, "count": count})
        result = ros.ask("it opens", task="count_events", images=CLIP, images_are_clip=True).result()
        assert (json.loads(result.json)["count"], len(result.moments)) == (count, listed)
        assert [note in said for said in result.notes] == ([True] if note else [])
    difference = {"same": False, "differences": ["The door is open."]}
    model.say(difference)
    result = ros.ask(task="before_after", images=CLIP, images_are_clip=True).result()
    assert json.loads(result.json) == difference


def test_following_a_thing_gives_a_box_in_each_frame_that_shows_it(ros: RosClient, model: Scripted) -> None:
    model.say(
        [
            {"time": 0.1, "bbox_2d": [0, 0, 100, 500], "label": "cup"},
            {"time": 1.9, "bbox_2d": [500, 0, 600, 500], "label": "cup"},
            {"time": 4.5, "bbox_2d": [900, 0, 1000, 500], "label": "cup"},
        ]
    )
    result = ros.ask("the cup", task="track", images=CLIP, images_are_clip=True).result()
    assert result.error_code == Code.NONE, result.error_msg
    assert [region.image_index for region in result.regions] == [0, 2, 3]
    assert [region.roi.x_offset for region in result.regions] == pytest.approx([0, 100, 180], abs=1)
    assert [result.image_headers[region.image_index].stamp for region in result.regions] == [
        stamp(0),
        stamp(20),
        stamp(45),
    ]
    assert [moment.image_index for moment in result.moments] == [0, 2, 3]
    assert "last frame" not in model.heard
    ros.ask("the cup", task="locate", images=CLIP, images_are_clip=True).result()
    assert "last frame" in model.heard


@pytest.fixture
def camera(ros: RosClient) -> Iterator[None]:
    """A camera that sends ten frames a second."""
    publisher = ros.node.create_publisher(Image, "/image", SENSOR_DATA)

    def publish() -> None:
        image = frame(0)
        image.header.stamp = ros.node.get_clock().now().to_msg()
        publisher.publish(image)

    def close() -> None:
        ros.node.destroy_timer(timer)
        ros.node.destroy_publisher(publisher)

    timer = ros.node.create_timer(0.1, publish)
    yield
    ros.on_executor(close)


@pytest.mark.usefixtures("camera")
def test_a_task_about_time_looks_at_the_last_four_seconds_of_the_camera(ros: RosClient, model: Scripted) -> None:
    model.say([{"start": 0.0, "end": 0.25, "description": "A flash."}])
    result = ros.ask(task="what_happened").result()
    assert result.error_code == Code.NONE, result.error_msg
    assert len(result.image_headers) >= 2
    (moment,) = result.moments
    first = result.image_headers[0].stamp
    assert (moment.label, moment.stamp, moment.image_index) == ("A flash.", first, 0)
    assert (moment.end_stamp.sec - first.sec) * 10**9 + moment.end_stamp.nanosec - first.nanosec == 250_000_000
    assert any("of the 4 s" in note for note in result.notes)  # the first clip begins the history


def test_a_task_about_time_is_not_answered_from_single_images(ros: RosClient, model: Scripted) -> None:
    model.say([])
    result = ros.ask(task="what_happened", images=CLIP[:2]).result()
    assert result.error_code == Code.BAD_REQUEST
    assert "images_are_clip" in result.error_msg
    assert ros.ask(task="what_happened", text_only=True).result().error_code == Code.BAD_REQUEST
