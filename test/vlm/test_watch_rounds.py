"""How watches are asked: a scheduler of a few lines that a test writes, no ROS graph, no engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point32, Polygon
from qwen3vl_ros.msg import Watch, WatchEvent
from rclpy.clock import Clock
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.prompts.probability import Certainty
from qwen3vl_ros.prompts.task_files import load_tasks
from qwen3vl_ros.vision.compressed import pixels_of
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import Frame, NoFrame
from qwen3vl_ros.vlm.job import Code, GoalResult, Job
from qwen3vl_ros.vlm.parameters import Settings, ready_made_tasks
from qwen3vl_ros.vlm.status import _watch_diagnostics
from qwen3vl_ros.vlm.watches import MOST_WATCHES, Watches

PATIENCE = 30.0
TASKS = load_tasks([ready_made_tasks()])


class FakeScheduler:
    """A camera with one grey level, and an engine that says yes where it is bright; both as a test sets them."""

    def __init__(self) -> None:
        self.level = 60
        self.frames = 0
        self.asked: list[tuple[str, int, tuple[Any, ...]]] = []
        self.room = threading.Event()
        self.room.set()
        self.answering: Callable[[Job], Any] = lambda job: None
        self.not_ready = ""
        self.blind = False
        self.held_cameras: list[str] = []
        self.kept: list[int] = []
        self.recorder = self

    def keep(self, _: Any, frame: Frame) -> None:
        self.kept.append(frame.stamp)

    @contextlib.contextmanager
    def held(self, camera: str) -> Iterator[None]:
        self.held_cameras.append(camera)
        yield
        self.held_cameras.remove(camera)

    def camera(self, name: str) -> Any:
        if name not in ("", "front"):
            raise BadRequest(f"cameras: there is no camera {name!r}")
        return SimpleNamespace(name=name, wait=self._wait)

    def _wait(self, *_: Any) -> Frame:
        if self.blind:
            raise NoFrame("no frame on /image")
        self.frames += 1
        message = image_message(np.full((48, 64, 3), self.level, np.uint8))
        message.header.stamp.nanosec = self.frames
        return Frame(self.frames, serialize_message(message), Image)

    def decode(self, message: Any, _cancel: Any) -> Any:
        return pixels_of(message)

    def has_room_beside(self, timeout: float = 0.0) -> bool:
        return self.room.wait(timeout) if timeout else self.room.is_set()

    def ask_beside(self, job: Job) -> Any:
        (frame,) = job.frames.values()
        self.asked.append((job.request.prompt, frame.stamp, job.request.region))
        self.answering(job)
        bright = pixels_of(frame.message()).mean() > 128
        result = GoalResult(job.error, text="Yes" if bright else "No", certainty=Certainty(0.9 if bright else 0.1, 1.0))
        job.finish(result)
        return SimpleNamespace(regions=())


class Rig:
    """Watches that run on a fake scheduler; ``events`` are those that were published."""

    def __init__(self, **settings: Any) -> None:
        self.scheduler = FakeScheduler()
        self.events: list[WatchEvent] = []
        self.errors: list[str] = []
        self._deadlines = Deadlines(self.errors.append)
        self._settings = Settings(**({"watch_max_period": 3600.0} | settings))
        self.watches = Watches(
            lambda: self._settings,
            lambda: TASKS,
            self._deadlines,
            Clock().now,
            self.events.append,
            lambda: None,
            lambda result: None,
            self.errors.append,
        )

    def start(self) -> None:
        self.watches.start(self.scheduler)

    def add(self, prompt: str = "Is it bright?", period: float = 0.02, **fields: Any) -> str:
        watch = Watch(prompt=prompt, **fields)
        watch.min_period.nanosec = int(period * 1e9)
        return self.watches.add(watch, self.scheduler)

    def wait_for(self, happened: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, self.watches.states()
            time.sleep(0.005)

    def close(self) -> None:
        self.watches.stop()
        self._deadlines.close()
        assert self.errors == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.start()
    yield rig
    rig.close()


def prompts(rig: Rig) -> list[str]:
    return [prompt.split("?")[0] for prompt, *_ in rig.scheduler.asked]


def test_a_change_of_the_image_is_asked_about_and_told(rig: Rig) -> None:
    rig.add(evidence=True, message="Light!")
    rig.wait_for(lambda: rig.watches.states()[0].unchanged >= 5)
    assert len(rig.scheduler.asked) == 1
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.events)
    (event,) = rig.events
    assert (event.kind, event.message, event.answer.text, event.sequence) == (WatchEvent.ON, "Light!", "Yes", 0)
    assert all(bytes(image.data).startswith(b"\xff\xd8") for image in (event.before, event.after, event.annotated))
    (state,) = rig.watches.states()
    assert (state.asked, state.events, state.active, state.since) == (2, 1, True, event.header.stamp)


def test_watches_that_are_due_together_share_a_frame_and_the_more_important_one_comes_first() -> None:
    rig = Rig()
    for number in range(50):
        rig.add(f"{number}?", priority=number, period=0.99)
    rig.start()
    rig.wait_for(lambda: len(rig.scheduler.asked) >= 50)
    rig.close()
    assert prompts(rig)[:50] == [str(number) for number in reversed(range(50))]
    assert len({stamp for _, stamp, _ in rig.scheduler.asked[:50]}) == 1


def test_watches_that_were_asked_about_one_frame_are_asked_about_one_frame_the_next_time() -> None:
    rig = Rig()
    rig.scheduler.answering = lambda job: job.cancellation.wait(0.03)
    for number in range(8):
        rig.add(f"{number}?", period=0.6)
    rig.start()
    rig.wait_for(lambda: len(rig.scheduler.asked) >= 8)
    rig.scheduler.level = 200
    rig.wait_for(lambda: len(rig.scheduler.asked) >= 16)
    rig.close()
    assert len({stamp for _, stamp, _ in rig.scheduler.asked[8:16]}) == 1


def test_watches_that_were_added_one_after_the_other_look_at_one_frame_when_the_scene_changes(rig: Rig) -> None:
    for number in range(8):
        rig.add(f"{number}?", period=0.4)
        rig.wait_for(lambda number=number: len(rig.scheduler.asked) == number + 1)
    rig.wait_for(lambda: all(state.unchanged >= 2 for state in rig.watches.states()))
    rig.scheduler.level = 200
    rig.wait_for(lambda: len(rig.scheduler.asked) == 16)
    assert len({stamp for _, stamp, _ in rig.scheduler.asked[8:]}) == 1


def test_a_question_that_a_goal_pushes_out_is_asked_again_about_a_new_frame(rig: Rig) -> None:
    pushed: list[Job] = []

    def push_out(job: Job) -> None:
        if not pushed:
            pushed.append(job)
            rig.scheduler.room.clear()
            job.end(Code.PREEMPTED, "a goal needs its slot")

    rig.scheduler.answering = push_out
    rig.add()
    rig.wait_for(lambda: pushed)
    assert rig.watches.states()[0].failed == 0
    rig.scheduler.room.set()
    rig.wait_for(lambda: len(rig.scheduler.asked) == 2)
    (_, first, _), (_, second, _) = rig.scheduler.asked
    assert second > first


def test_a_question_that_the_engine_loses_is_counted_with_its_reason_and_asked_again(rig: Rig) -> None:
    def crash(job: Job) -> None:
        if len(rig.scheduler.asked) < 3:
            job.end(Code.ENGINE_CRASHED, "the engine's process died")

    rig.scheduler.level, rig.scheduler.answering = 200, crash
    rig.add()
    rig.wait_for(lambda: rig.watches.states()[0].error_msg == "the engine's process died")
    rig.wait_for(lambda: rig.events)
    (state,) = rig.watches.states()
    assert (state.failed, state.asked, state.active, state.error_msg) == (2, 1, True, "")


def test_a_watch_that_is_removed_while_it_is_asked_ends_its_question_and_tells_nothing(rig: Rig) -> None:
    begun = threading.Event()

    def wait(job: Job) -> None:
        begun.set()
        assert job.cancellation.wait(PATIENCE)

    rig.scheduler.level, rig.scheduler.answering = 200, wait
    watch_id = rig.add()
    assert begun.wait(PATIENCE)
    assert rig.watches.remove(watch_id) == 1
    rig.scheduler.answering = lambda job: None
    rig.add("Is it warm?", watch_id="next")
    rig.wait_for(lambda: rig.events)
    assert [event.watch_id for event in rig.events] == ["next"]


def test_while_the_engine_is_away_images_are_compared_and_nothing_is_asked(rig: Rig) -> None:
    rig.scheduler.not_ready = "the model is loading"
    rig.add("", watch_id="image", condition=Watch.CONDITION_IMAGE)
    rig.add(watch_id="asking")
    rig.wait_for(lambda: rig.watches.states()[0].asked >= 1 and rig.watches.states()[1].error_msg)
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.events)
    image, asking = rig.watches.states()
    assert (rig.events[0].watch_id, image.active) == ("image", True)
    assert (asking.asked, asking.failed, asking.error_msg) == (0, 0, "the model is loading")
    rig.scheduler.not_ready = ""
    rig.wait_for(lambda: rig.watches.states()[1].active)
    assert rig.watches.states()[1].error_msg == ""


def test_a_camera_without_frames_is_a_failure_that_ends_when_they_come(rig: Rig) -> None:
    rig.scheduler.blind = True
    rig.add()
    rig.wait_for(lambda: rig.watches.states()[0].failed >= 2)
    assert rig.watches.states()[0].error_msg == "no frame on /image"
    rig.scheduler.blind = False
    rig.wait_for(lambda: rig.watches.states()[0].asked == 1)
    assert rig.watches.states()[0].error_msg == ""


def grey(width: int, height: int, level: int) -> CompressedImage:
    return CompressedImage(format="jpeg", data=jpeg_of(np.full((height, width, 3), level, np.uint8)))


def test_a_reference_may_have_another_size_but_not_another_shape(rig: Rig) -> None:
    rig.add("", watch_id="twice", condition=Watch.CONDITION_IMAGE, reference=grey(128, 96, 60))
    rig.add("", watch_id="square", condition=Watch.CONDITION_IMAGE, reference=grey(96, 96, 60))
    rig.wait_for(lambda: rig.watches.states()[0].asked and rig.watches.states()[1].failed)
    twice, square = rig.watches.states()
    assert (twice.active, twice.failed) == (False, 0)
    assert "it has 96x96 pixels and the camera's image 64x48" in square.error_msg
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.events)
    assert [event.watch_id for event in rig.events] == ["twice"]


def test_diagnostics_say_what_fails_and_how_late_watches_are(rig: Rig) -> None:
    rig.scheduler.room.clear()
    rig.add(watch_id="starved")
    rig.wait_for(lambda: rig.watches.states()[0].late > 0.1)
    starved = _watch_diagnostics("/vlm", rig.watches.states())
    assert (starved.level, starved.message) == (DiagnosticStatus.WARN, "1 come late, because others go before")
    rig.scheduler.room.set()
    rig.scheduler.blind = True
    rig.wait_for(lambda: rig.watches.states()[0].error_msg)
    assert _watch_diagnostics("/vlm", rig.watches.states()).message == "starved: no frame on /image"
    rig.scheduler.blind = False
    rig.wait_for(lambda: not rig.watches.states()[0].error_msg)
    values = {pair.key: pair.value for pair in _watch_diagnostics("/vlm", rig.watches.states()).values}
    assert (values["watches"], values["active"]) == ("1", "0")


def test_a_region_goes_with_the_question_and_what_changes_outside_of_it_costs_nothing(rig: Rig) -> None:
    corners = [(4.0, 4.0), (40.0, 4.0), (40.0, 40.0)]
    rig.add(region=Polygon(points=[Point32(x=x, y=y) for x, y in corners]))
    rig.wait_for(lambda: rig.scheduler.asked)
    assert rig.scheduler.asked[0][2] == tuple(corners)


def test_a_watch_ends_after_its_greatest_duration_and_what_a_cooldown_held_back_is_told(rig: Rig) -> None:
    watch = Watch(prompt="Is it bright?", watch_id="held")
    watch.min_period.nanosec, watch.cooldown.nanosec = 20_000_000, 600_000_000
    rig.watches.add(watch, rig.scheduler)
    rig.scheduler.level = 200
    rig.wait_for(lambda: len(rig.events) == 1)
    rig.scheduler.level = 60
    rig.wait_for(lambda: len(rig.events) == 2)
    assert [event.kind for event in rig.events] == [WatchEvent.ON, WatchEvent.OFF]
    short = Watch(prompt="Is it bright?", watch_id="short")
    short.max_duration.nanosec = 50_000_000
    rig.watches.add(short, rig.scheduler)
    rig.wait_for(lambda: [state.watch.watch_id for state in rig.watches.states()] == ["held"])


def test_the_histories_of_watched_cameras_are_kept_while_watches_do_not_rest(rig: Rig) -> None:
    held = rig.scheduler.held_cameras
    first, second, third = rig.add(), rig.add("Is it dark?"), rig.add("Is it bright?", cameras=["front"])
    assert sorted(held) == ["", "front"]
    rig.watches.stop()
    assert held == []
    rig.start()
    assert sorted(held) == ["", "front"]
    rig.watches.remove(first)
    rig.watches.remove(third)
    assert held == [""]
    rig.wait_for(lambda: rig.scheduler.asked)
    assert rig.scheduler.kept == list(dict.fromkeys(stamp for _, stamp, _ in rig.scheduler.asked))
    rig.watches.remove(second)
    assert held == []


def test_the_end_of_a_watch_does_not_end_another_one_that_has_its_name(rig: Rig) -> None:
    rig.add(watch_id="door")
    (old,) = rig.watches.all
    rig.watches.remove("door")
    rig.add("Is it dark?", watch_id="door")
    rig.watches.end(old)
    assert [watch.message.prompt for watch in rig.watches.all] == ["Is it dark?"]


def test_a_thousand_watches_that_come_and_go_under_load_leave_nothing_behind(rig: Rig) -> None:
    threads = threading.active_count()
    rig.scheduler.answering = lambda job: job.cancellation.wait(0.001)

    def churn(name: str) -> None:
        for number in range(250):
            rig.watches.remove(rig.add(watch_id=f"{name}{number}", evidence=True))

    churners = [threading.Thread(target=churn, args=(name,)) for name in "abcd"]
    for churner in churners:
        churner.start()
    for churner in churners:
        churner.join()
    assert rig.watches.all == []
    assert threading.active_count() == threads
    asked = len(rig.scheduler.asked)
    rig.add("Is it still there?")
    rig.wait_for(lambda: len(rig.scheduler.asked) > asked and prompts(rig)[-1].startswith("Is it still"))


@pytest.mark.parametrize(
    ("prompt", "fields", "named"),
    [
        (" ", {}, "prompt: it is empty"),
        ("a", {"cameras": ["back"]}, "cameras: there is no camera 'back'"),
        ("a", {"on_threshold": float("nan")}, "on_threshold"),
        ("a", {"region": Polygon(points=[Point32(x=float("nan"))] * 3)}, "region: a corner is not finite"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(prompt: str, fields: dict[str, Any], named: str) -> None:
    rig = Rig()
    with pytest.raises(BadRequest, match=named):
        rig.add(prompt, **fields)
    rig.close()


def test_no_more_watches_than_there_are_places_for() -> None:
    rig = Rig()
    for _ in range(MOST_WATCHES):
        rig.add()
    with pytest.raises(BadRequest, match=f"there are {MOST_WATCHES} watches"):
        rig.add()
    rig.close()
