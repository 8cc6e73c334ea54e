"""Watches over real DDS: what is told when, what goes before them, and that nothing of them is left behind."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point32, Polygon
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer, VlmStatus, Watch, WatchEvent
from qwen3vl_ros.srv import ListWatches, MuteWatch, SetEngine
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from lamp import HEIGHT, WIDTH, FastRoom, Lamp, Room
from qwen3vl_ros.client import VlmClient
from ros_client import PATIENCE, RosClient
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
pytest_plugins = ["lamp_fixtures"]
Code = AskImage.Result
EVENTS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def test_the_lamp_is_told_when_it_goes_on_and_off_with_the_image_that_shows_it(
    ros: RosClient, lamp: Lamp, room: Room
) -> None:
    lamp.start()
    with ros.listen(WatchEvent, "/vlm/watch_events", EVENTS) as events, ros.listen(Answer, "/vlm/answers") as answers:
        watch_id = lamp.add("Is the lamp on?", evidence=True, message="Light!", valid_for=Duration(sec=10))
        before = lamp.wait_for(lambda state: state.asked > 0)
        assert not before.active and before.since == before.last_answer.header.stamp
        assert before.last_answer.text == "No" and before.last_answer.probability == pytest.approx(0.1)
        on = room.switch(light=True)
        event = events.wait_for()
        assert (event.watch_id, event.sequence, event.kind, event.active) == (watch_id, 0, WatchEvent.ON, True)
        assert event.message == "Light!" and event.header.frame_id == "lens"
        assert nanoseconds(event.header.stamp) >= nanoseconds(on) - 10**8
        assert event.answer.text == "Yes" and event.answer.task == "yes_no" and len(event.answer.goal_id) == 32
        assert nanoseconds(event.valid_until) - nanoseconds(event.header.stamp) == 10 * 10**9
        images = {name: decoded(getattr(event, name)) for name in ("before", "after", "annotated")}
        assert images["before"].shape == images["after"].shape == (HEIGHT, WIDTH, 3)
        assert images["before"][:, : WIDTH // 2].mean() < 80 < 200 < images["after"][:, : WIDTH // 2].mean()
        assert images["annotated"].shape[1] >= WIDTH
        room.switch(light=False)
        event = events.wait_for()
        assert (event.sequence, event.kind, event.active) == (1, WatchEvent.OFF, False)
        state = lamp.wait_for(lambda state: state.events == 2)
        assert state.since == event.header.stamp and state.failed == 0 and state.error_msg == ""
        assert not answers.waiting  # those of goals alone


def decoded(message: CompressedImage) -> np.ndarray:
    assert message.format == "jpeg"
    return cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.once
def test_a_still_scene_costs_no_tokens_and_sends_nothing(lamp: Lamp, room: Room) -> None:
    lamp.start(watch_max_period=3600.0)
    lamp.add("Is the lamp on?")
    state = lamp.wait_for(lambda state: state.unchanged >= 20)
    assert (state.asked, state.events) == (1, 0)
    assert len(lamp.heard()) == 1
    assert state.next_run.sec > 0
    room.switch(light=True)
    assert lamp.wait_for(lambda state: state.asked == 2).active


def test_an_hour_of_a_still_scene_costs_one_question_and_no_more_memory_than_a_minute(
    ros: RosClient, lamp: Lamp, fast_room: FastRoom
) -> None:
    node = lamp.start(use_sim_time=True, max_frame_age=60.0, watch_max_period=3600.0)
    with ros.listen(WatchEvent, "/vlm/watch_events", EVENTS) as events:
        lamp.add("Is the lamp on?", period=0.02)
        begin = fast_room.seconds
        lamp.wait_for(lambda state: state.asked > 0)
        fast_room.wait_until(begin + 3600)
        (state,) = lamp.states()
        assert (state.asked, state.events, state.failed, state.error_msg) == (1, 0, 0, "")
        assert state.unchanged >= 20
        assert len(lamp.heard()) == 1
        (history,) = node.wait_status(lambda status: status.histories).histories
        assert nanoseconds(history.newest) - nanoseconds(history.oldest) <= 60 * 10**9
        assert not events.waiting
        on = fast_room.switch(light=True)
        event = events.wait_for()
        assert event.kind == WatchEvent.ON and nanoseconds(event.header.stamp) > nanoseconds(on)


@pytest.mark.once
def test_a_region_is_all_that_is_looked_at_and_what_is_found_is_in_pixels_of_the_whole_image(
    ros: RosClient, lamp: Lamp, room: Room
) -> None:
    lamp.start(watch_max_period=3600.0)
    corners = [(100.0, 40.0), (140.0, 40.0), (140.0, 100.0), (100.0, 100.0)]
    region = Polygon(points=[Point32(x=x, y=y) for x, y in corners])
    lamp.add("Is the lamp on?", region=region)
    lamp.wait_for(lambda state: state.asked == 1)
    assert lamp.heard()[-1][1] == [60, 40, 3]
    unchanged = lamp.states()[0].unchanged
    room.switch(light=True)  # in the other half of the image
    state = lamp.wait_for(lambda state: state.unchanged >= unchanged + 5)
    assert (state.asked, state.active) == (1, False)
    lamp.remove()
    on_lamp = Polygon(points=[Point32(x=x - 80, y=y) for x, y in corners])
    condition = {"condition": Watch.CONDITION_JSON, "condition_schema": '{"minItems": 1}'}
    with ros.listen(WatchEvent, "/vlm/watch_events", EVENTS) as events:
        lamp.add("lamp", task="locate", region=on_lamp, **condition)
        (found,) = events.wait_for(lambda event: event.answer.task == "locate").answer.regions
    roi = found.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (20, 40, 20, 60)


@pytest.mark.once
def test_json_and_text_and_engines_without_probabilities_can_be_watched(ros: RosClient, lamp: Lamp, room: Room) -> None:
    lamp.start(lamp__tells=False)
    with ros.listen(WatchEvent, "/vlm/watch_events", EVENTS) as events:
        three = '{"properties": {"count": {"minimum": 3}}}'
        lamp.add("lamps", watch_id="json", task="count", condition=Watch.CONDITION_JSON, condition_schema=three)
        lamp.add("What is it?", watch_id="text", condition=Watch.CONDITION_TEXT)
        lamp.add("Is the lamp on?", watch_id="sure")
        while any(state.asked == 0 for state in lamp.states()):
            threading.Event().wait(0.02)
        room.switch(light=True)
        came = {event.watch_id: event for event in (events.wait_for() for _ in range(3))}
    kinds = {name: event.kind for name, event in came.items()}
    assert kinds == {"json": WatchEvent.ON, "text": WatchEvent.UPDATE, "sure": WatchEvent.ON}
    assert json.loads(came["json"].answer.json) == {"count": 3}
    assert came["sure"].answer.probability == -1.0


@pytest.mark.once
def test_an_image_is_compared_with_a_reference_without_a_model(ros: RosClient, lamp: Lamp, room: Room) -> None:
    lamp.start()
    with ros.listen(WatchEvent, "/vlm/watch_events", EVENTS) as events:
        lamp.add(condition=Watch.CONDITION_IMAGE, message="It moved.", evidence=True)
        lamp.wait_for(lambda state: state.asked >= 3)
        room.switch(light=True)
        event = events.wait_for()
        assert (event.kind, event.message, event.answer.goal_id) == (WatchEvent.ON, "It moved.", "")
        assert decoded(event.before)[:, : WIDTH // 2].mean() < 80
        room.switch(light=False)
        assert events.wait_for().kind == WatchEvent.OFF
        lit = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        lit[:, : WIDTH // 2] = 250
        reference = CompressedImage(format="png", data=cv2.imencode(".png", lit)[1].tobytes())
        lamp.remove()
        lamp.add(condition=Watch.CONDITION_IMAGE, reference=reference, watch_id="as_lit")
        assert events.wait_for().watch_id == "as_lit"
        assert not lamp.states()[0].watch.reference.data  # nobody who lists the watches gets it
    assert lamp.heard() == []


def test_a_goal_takes_the_place_of_a_watchs_question_which_is_asked_again(
    ros: RosClient, lamp: Lamp, room: Room
) -> None:
    """With every busy_policy, as a watch is no other goal."""
    lamp.start(busy_policy="reject", queue_size=0)
    lamp.add("Please wait.")
    while not any("wait" in prompt for prompt, _, _ in lamp.heard()):
        threading.Event().wait(0.02)
    assert ros.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches[0].next_run.sec == 0
    result = ros.ask("Is the lamp on?").result()
    assert (result.error_code, result.text) == (Code.NONE, "No")
    asked = [prompt for prompt, _, _ in lamp.heard()]
    while [prompt for prompt, _, _ in lamp.heard()].count(asked[0]) < 2:
        threading.Event().wait(0.02)
    (state,) = lamp.states()
    assert (state.failed, state.error_msg) == (0, "")
    with ros.status() as status:
        newest = status.wait_for()
    assert (newest.watches, newest.goals_accepted, newest.queue_length) == (1, 1, 0)


def test_a_change_of_the_engine_while_a_watch_is_asked_ends_no_watch(ros: RosClient, lamp: Lamp, room: Room) -> None:
    lamp.start()
    lamp.add("Please wait.", watch_id="long")
    while not lamp.heard():
        threading.Event().wait(0.02)
    change = SetEngine.Request(engine="second", grace=Duration(nanosec=1_000_000))
    response = ros.call(SetEngine, "/vlm/set_engine", change)
    assert response.success, response.message
    while not lamp.heard("second"):  # the new one is asked what the old one was being asked
        threading.Event().wait(0.02)
    (state,) = lamp.states()
    assert (state.failed, state.error_msg) == (0, "")
    lamp.remove("long")
    lamp.add("Is the lamp on?")
    lamp.wait_for(lambda state: state.asked > 0)
    assert lamp.heard("second")[-1][0].startswith("Is the lamp on?")


def test_watches_that_are_due_together_are_asked_about_the_very_same_image(lamp: Lamp, room: Room) -> None:
    lamp.start()
    for number in range(5):
        lamp.add(f"Is it {number}?", period=2.0, priority=number)
    whole: list[list[str]] = []
    end = time.monotonic() + PATIENCE
    while len(whole) < 3:  # on a busy machine a question may miss a round
        assert time.monotonic() < end, lamp.heard()
        threading.Event().wait(0.05)
        room.switch(light=not room.light)
        rounds: dict[int, list[str]] = {}
        for prompt, _, pixels in lamp.heard():
            rounds.setdefault(pixels, []).append(prompt)
        whole = [prompts for prompts in rounds.values() if len(prompts) == 5]
    assert all("Is it 4?" in prompts[0] for prompts in whole)


def test_muted_watches_are_asked_and_say_nothing(ros: RosClient, lamp: Lamp, room: Room) -> None:
    lamp.start()
    watch_id = lamp.add("Is the lamp on?")
    assert ros.call(MuteWatch, "/vlm/mute_watch", MuteWatch.Request(watch_id=watch_id, muted=True)).success
    room.switch(light=True)
    state = lamp.wait_for(lambda state: state.active)
    assert state.watch.muted and state.events == 0
    assert ros.call(MuteWatch, "/vlm/mute_watch", MuteWatch.Request(muted=False)).success
    room.switch(light=False)
    assert lamp.wait_for(lambda state: not state.active).events == 1
    refused = ros.call(MuteWatch, "/vlm/mute_watch", MuteWatch.Request(watch_id="nobody", muted=True))
    assert not refused.success and "'nobody'" in refused.message


@pytest.mark.once
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "watch_id": "a b"}, "watch_id"),
        ({"prompt": "a", "cameras": ["back"]}, "cameras"),
        ({"prompt": "a", "task": "tell_fortunes"}, "task"),
        ({"prompt": "a", "task": "caption"}, "task"),
        ({"prompt": "a", "condition": 9}, "condition"),
        ({"prompt": "a", "condition": Watch.CONDITION_JSON, "condition_schema": "{}"}, "task"),
        ({"prompt": "a", "task": "count", "condition": Watch.CONDITION_JSON}, "condition_schema"),
        ({"prompt": "a", "condition_schema": "{}"}, "condition_schema"),
        ({"prompt": "a", "on_threshold": 0.2, "off_threshold": 0.4}, "off_threshold"),
        ({"prompt": "a", "on_threshold": 2.0}, "on_threshold"),
        ({"prompt": "a", "needed": 3, "of_last": 2}, "needed"),
        ({"prompt": "a", "kinds": 8}, "kinds"),
        ({"prompt": "a", "region": Polygon(points=[Point32(), Point32(x=9.0)])}, "region"),
        ({"prompt": "a", "max_period": Duration(nanosec=30_000_000)}, "max_period"),
        ({"prompt": "a", "cooldown": Duration(sec=-1)}, "cooldown"),
        ({"condition": Watch.CONDITION_IMAGE, "reference": CompressedImage(format="png", data=[1, 2])}, "reference"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(vlm: VlmProcess, ros: RosClient, fields: Any, named: str) -> None:
    response = Lamp(ros, Path(), lambda: vlm).try_to_add(**fields)
    assert not response.success
    assert named in response.message.split(":")[0], response.message


def test_adding_the_same_twice_is_one_watch_and_another_one_of_its_name_is_refused(lamp: Lamp, ros: RosClient) -> None:
    lamp.start()
    lamp.add("Is the lamp on?", watch_id="lamp")
    lamp.add("Is the lamp on?", watch_id="lamp")
    assert len(lamp.states()) == 1
    response = lamp.try_to_add("Is the lamp off?", watch_id="lamp")
    assert not response.success and "'lamp'" in response.message
    state = lamp.wait_for(lambda state: state.failed > 0)
    assert "nobody publishes it" in state.error_msg
    assert lamp.remove("lamp").success and not lamp.remove("lamp").success
    assert lamp.states() == []


def test_standing_watches_run_from_the_start_and_all_of_them_rest_while_the_node_is_not_active(
    ros: RosClient, lamp: Lamp, room: Room
) -> None:
    standing = ['{"prompt": "Is the lamp on?", "watch_id": "standing", "min_period": 0.05}', '{"prmopt": "What?"}']
    node = lamp.start(watches=standing)
    lamp.wait_for(lambda state: state.asked > 0)
    added = lamp.add("Is it dark?")
    assert ros.lifecycle("deactivate")
    assert {state.watch.watch_id for state in lamp.states()} == {"standing", added}
    assert not lamp.try_to_add("Is it cold?").success
    asked = len(lamp.heard())
    assert ros.lifecycle("activate")
    room.switch(light=True)
    while not all(state.active for state in lamp.states()):
        threading.Event().wait(0.02)
    assert len(lamp.heard()) > asked
    assert ros.lifecycle("deactivate") and ros.lifecycle("cleanup")
    assert lamp.states() == []
    node.stop()
    assert "prmopt is no field of a watch; prompt is." in node.output


@pytest.mark.once
def test_a_thousand_watches_that_come_and_go_under_load_leave_nothing_behind(
    ros: RosClient, lamp: Lamp, room: Room
) -> None:
    node = lamp.start()
    threads = lambda: len(list(Path(f"/proc/{node.pid}/task").iterdir()))  # noqa: E731
    lamp.remove(lamp.add("Is it 0?"))
    before = threads()
    load = [ros.ask("Please wait.") for _ in range(2)]
    for start in range(0, 1000, 50):
        names = [f"w{number}" for number in range(start, start + 50)]
        lamp.add_together(names)
        assert len(lamp.states()) == 50
        lamp.remove_together(names)
    for goal in load:
        goal.cancel()
        goal.result()
    assert lamp.states() == []
    result = ros.ask("Is the lamp on?").result()
    assert result.error_code == Code.NONE
    assert threads() <= before + 2
    with ros.status() as status:
        assert status.wait_for(lambda s: s.state == VlmStatus.READY).watches == 0


def test_a_watch_whose_name_was_used_before_tells_its_own_events_alone(lamp: Lamp, room: Room) -> None:
    lamp.start()
    stamps = []
    with VlmClient() as client:
        for _ in range(2):
            with client.watch("Is the lamp on?", watch_id="lamp", min_period=0.05, kinds=["on"]) as watch:
                lamp.wait_for(lambda state: state.asked > 0)
                switched = room.switch(light=True)
                event = next(iter(watch))
                assert nanoseconds(event.stamp) >= nanoseconds(switched) - 10**8
                stamps.append(nanoseconds(event.stamp))
                room.switch(light=False)
                lamp.wait_for(lambda state: not state.active)
                assert watch.next_event(timeout=0.1) is None
    assert stamps[0] < stamps[1]


def test_a_behaviour_adds_a_watch_takes_its_events_and_leaves_none_behind(lamp: Lamp, room: Room) -> None:
    lamp.start()
    with VlmClient() as client:
        with client.watch("Is the lamp on?", min_period=0.05, kinds=["on"], evidence=True) as watch:
            lamp.wait_for(lambda state: state.asked > 0)
            room.switch(light=True)
            event = next(iter(watch))
            assert (event.watch_id, event.kind, event.active, event.sequence) == (watch.watch_id, "on", True, 0)
            assert event.answer is not None and event.answer.text == "Yes"
            assert event.after.startswith(b"\xff\xd8")
            room.switch(light=False)
            lamp.wait_for(lambda state: not state.active)
            assert watch.next_event(timeout=0.1) is None
        assert lamp.states() == []
