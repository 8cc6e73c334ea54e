"""How the memory is filled and asked: a scheduler of a few lines that a test writes, no ROS graph, no engine."""

from __future__ import annotations

import gc
import stat
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen3vl_ros.msg import Watch
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from qwen3vl_ros.engines.base import BadRequest, Unsupported
from qwen3vl_ros.index.entries import IndexFileError, Source, Thing, Window
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.prompts.task_files import load_tasks
from qwen3vl_ros.vision.compressed import pixels_of
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import Frame, NoFrame
from qwen3vl_ros.vlm.job import Code, GoalError, GoalResult, Job
from qwen3vl_ros.vlm.memory import Memory
from qwen3vl_ros.vlm.memory_answer import clock, name_in, span
from qwen3vl_ros.vlm.memory_file import NAME, MemoryFile
from qwen3vl_ros.vlm.parameters import Settings, ready_made_tasks
from qwen3vl_ros.vlm.pipeline import PartialAnswer
from qwen3vl_ros.vlm.status import _memory_diagnostics
from qwen3vl_ros.vlm.storage_parameters import Memory as MemorySettings
from qwen3vl_ros.vlm.watch_request import question

PATIENCE = 30.0
TASKS = load_tasks([ready_made_tasks()])
SECOND = 10**9


class FakeScheduler:
    """Cameras of one grey level, an image of which is a second later than the one before; an engine that sees lamps.

    There is a lamp where it is bright. ``blinks``: each image is another one than that before.
    ``errors``: by task, what its question ends with.
    """

    def __init__(self) -> None:
        self.level = 60
        self.frames = 0
        self.asked: list[tuple[str, str, str]] = []
        self.room = threading.Event()
        self.room.set()
        self.errors: dict[str, GoalError] = {}
        self.not_ready = ""
        self.blind = False
        self.blinks = False
        self.failing: str | None = None
        self.target_frame = ""

    def camera(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait=self._wait, stamp_of=lambda frame: frame.stamp)

    def _wait(self, *_: Any) -> Frame:
        if self.blind:
            raise NoFrame("no frame on /image")
        self.frames += 1
        self.level = 260 - self.level if self.blinks else self.level
        message = image_message(np.full((48, 64, 3), self.level, np.uint8))
        message.header.stamp.sec, message.header.frame_id = self.frames, "lens"
        return Frame(self.frames * SECOND, serialize_message(message), Image)

    def decode(self, message: Any, _cancel: Any) -> Any:
        return pixels_of(message)

    def has_room_beside(self, timeout: float = 0.0) -> bool:
        return self.room.is_set()

    def ask_beside(self, job: Job) -> Any:
        ((camera, frame),) = job.frames.items()
        self.asked.append((camera, job.request.task, job.request.prompt))
        bright = pixels_of(frame.message()).mean() > 128
        lamp = Region("Red Lamp", box=(1.5, 2.0, 30.0, 40.0), position=(0.1, -0.2, 1.5), frame_id=self.target_frame)
        regions = (lamp,) if bright and job.request.task != "caption" else ()
        error = job.error or self.errors.get(job.request.task)
        error = GoalError(Code.ENGINE_CRASHED, "it crashed") if camera == self.failing else error
        job.finish(GoalResult(error, text="It is bright." if bright else "It is dark.", regions=regions))
        return SimpleNamespace(regions=())


class Rig:
    """A memory that runs on a fake scheduler."""

    def __init__(self, directory: Path, cameras: tuple[str, ...] = ("",), **settings: Any) -> None:
        self.scheduler = FakeScheduler()
        self.answers: list[GoalResult] = []
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.directory = directory
        self._deadlines = Deadlines(self.errors.append)
        settings = {"enabled": True, "directory": str(directory), "period": 0.02} | settings
        self._settings = Settings(cameras=cameras, memory=MemorySettings(**settings))
        self.memory = Memory(
            lambda: self._settings,
            lambda: TASKS,
            self._deadlines,
            lambda: SimpleNamespace(nanoseconds=self.scheduler.frames * SECOND),  # type: ignore[arg-type,return-value]
            self.answers.append,
            self.infos.append,
            self.warnings.append,
        )
        self.memory.configure()

    def set(self, **settings: Any) -> None:
        self._settings = replace(self._settings, memory=replace(self._settings.memory, **settings))

    def start(self) -> Rig:
        self.memory.start(self.scheduler)  # type: ignore[arg-type]
        return self

    @property
    def counters(self) -> Any:
        health = self.memory.health()
        assert health is not None
        return health.counters

    def wait_for(self, happened: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, (self.memory.health(), self.warnings)
            time.sleep(0.005)

    def looks(self, more: int) -> None:
        """Wait for so many more looks at an unchanged image."""
        least = self.counters.unchanged + more
        self.wait_for(lambda: self.counters.unchanged >= least)

    def where_last(self, prompt: str, **fields: Any) -> PartialAnswer:
        answer = PartialAnswer()
        self.memory.recall(AskRequest(prompt, task="where_last", from_memory=True, **fields), answer)
        return answer

    def windows(self) -> list[Window]:
        with Store(self.directory / NAME) as store:
            return list(store.windows())

    def close(self) -> None:
        self.memory.close()
        self._deadlines.close()
        assert self.errors == []


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "robot" / "memory"


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def start(**settings: Any) -> Rig:
        rigs.append(Rig(directory, **settings))
        return rigs[-1].start()

    yield start
    for rig in rigs:
        rig.close()


# --- looking ----------------------------------------------------------------------------------------------------------


def test_a_still_scene_is_asked_about_once_and_its_window_lasts(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.looks(20)
    assert [task for _, task, _ in rig.scheduler.asked] == ["locate", "caption"]
    assert len(rig.answers) == 2
    rig.memory.stop()
    (window,) = rig.windows()
    assert (window.caption, window.things, window.source.kind) == ("It is dark.", (), "camera")
    assert window.end_ns - window.start_ns >= 20 * SECOND and window.frame_ns == window.start_ns


def test_a_thing_that_leaves_was_seen_last_at_the_last_look_before(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.scheduler.level = 200
    rig.looks(5)
    there = rig.where_last("a red lamp?")
    assert str(there.text).startswith("Red Lamp: in view now (at ")
    assert str(there.text).endswith(" s) at (0.10, -0.20, 1.50) m in lens")
    rig.scheduler.level, left = 60, rig.scheduler.frames
    rig.looks(5)
    gone = rig.where_last("lamp")
    assert " ago (at " in str(gone.text) and "last seen" in str(gone.text)
    (moment,), (region,), (image,) = gone.moments, gone.regions, gone.inputs.images
    assert left - 1 <= moment.end_stamp.sec <= left + 1
    assert moment.stamp.sec < moment.end_stamp.sec and moment.label == "Red Lamp"
    assert (region.box, region.position) == ((1.0, 2.0, 30.0, 40.0), (0.1, -0.2, 1.5))
    assert image.header.frame_id == "lens" and image.header.stamp == moment.stamp
    assert image.pixels.shape == (48, 64, 3) and image.pixels.mean() > 180


def test_several_names_are_looked_for_as_categories_and_none_leaves_the_caption(start: Callable[..., Rig]) -> None:
    rig = start(things=("lamp", "cup"))
    rig.looks(1)
    assert rig.scheduler.asked[0][1] == "detect" and "'lamp, cup'" in rig.scheduler.asked[0][2]
    rig.memory.close()
    rig = start(things=("",))
    rig.looks(1)
    assert [task for _, task, _ in rig.scheduler.asked] == ["caption"]


def test_a_goal_goes_before_and_the_question_is_asked_again_with_a_new_frame(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.scheduler.errors = {"locate": GoalError(Code.PREEMPTED, "a goal needs the slot")}
    rig.wait_for(lambda: len(rig.scheduler.asked) >= 3)
    assert {task for _, task, _ in rig.scheduler.asked[-3:]} == {"locate"}
    rig.scheduler.errors = {"caption": GoalError(Code.PREEMPTED, "a goal needs the slot")}
    rig.looks(1)
    rig.scheduler.room.clear()
    rig.scheduler.level, asked = 200, len(rig.scheduler.asked)
    frames = rig.scheduler.frames
    rig.wait_for(lambda: rig.scheduler.frames >= frames + 3)
    assert len(rig.scheduler.asked) == asked
    assert rig.warnings == []
    rig.memory.stop()
    assert [window.caption for window in rig.windows()] == [""] * len(rig.windows())


def test_what_the_model_cannot_do_is_left_out(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.memory.stop()
    rig.scheduler.errors = {"caption": GoalError(Code.UNSUPPORTED, "task: it does not know caption")}
    rig.scheduler.level = 200
    rig.start()
    rig.looks(1)
    rig.memory.stop()
    newest = rig.windows()[-1]
    assert (newest.caption, [thing.name for thing in newest.things]) == ("", ["Red Lamp"])


def test_failures_are_logged_once_make_looks_rarer_and_are_over_when_it_works_again(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.looks(1)
    rig.scheduler.errors = {"locate": GoalError(Code.ENGINE_CRASHED, "the engine died")}
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.counters.failed >= 4)
    health = rig.memory.health()
    assert health is not None and health.problem == "the engine died"
    assert _memory_diagnostics("/vlm", health).message == "the engine died"
    assert rig.warnings == ["memory: what a camera sees is not remembered now: the engine died"]
    rig.scheduler.errors = {}
    rig.looks(1)
    assert rig.infos[-1] == "memory: what the cameras see is remembered again"


def test_a_camera_that_fails_beside_one_that_does_not_is_logged_once(start: Callable[..., Rig]) -> None:
    rig = start(cameras=("front", "back"))
    rig.wait_for(lambda: rig.counters.asked == 2)
    rig.scheduler.failing = "back"
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.counters.failed >= 3 and rig.counters.asked >= 3)
    rig.looks(5)
    assert rig.warnings == ["memory: what a camera sees is not remembered now: it crashed"]


def test_nothing_is_asked_of_an_engine_that_loads_nor_of_a_camera_that_is_off(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.looks(1)
    rig.scheduler.not_ready, rig.scheduler.level = "the model is loading", 200
    asked = len(rig.scheduler.asked)
    rig.wait_for(lambda: rig.memory.health().problem == "the model is loading")  # type: ignore[union-attr]
    rig.scheduler.blind = True
    rig.scheduler.not_ready = ""
    time.sleep(0.1)
    assert len(rig.scheduler.asked) == asked and rig.warnings == []
    assert str(rig.where_last("lamp").text).startswith("lamp: never seen; the memory begins at ")
    rig.scheduler.blind = False
    rig.looks(1)  # anew, as nobody knows what was there meanwhile
    assert len(rig.scheduler.asked) == asked + 2


def test_the_memory_stays_within_its_size_over_many_windows(start: Callable[..., Rig]) -> None:
    rig = start(period=0.1, megabytes=1.0)
    rig.looks(1)
    store = rig.memory._file.store()  # type: ignore[union-attr]
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    for second in range(1000, 1040):  # as the node adds them
        stamp = second * SECOND
        store.add(Window(Source("camera", "other"), stamp, stamp, stamp, jpeg=jpeg_of(noise)))
        store.trim(1_000_000)
    rig.looks(1)
    rig.memory.stop()
    assert store.size() <= 1_000_000 and 1 < store.count() < 40
    rig.start()
    rig.scheduler.level = 200  # its own oldest window is gone: a new one is written
    rig.wait_for(lambda: str(rig.where_last("lamp").text).startswith("Red Lamp: in view"))


def test_hundreds_of_windows_take_no_more_of_the_nodes_memory_than_a_few(start: Callable[..., Rig]) -> None:
    rig = start(period=0.001)
    rig.scheduler.blinks = True

    def bytes_after(windows: int) -> int:
        rig.wait_for(lambda: rig.counters.asked >= windows)
        rig.scheduler.asked.clear()
        rig.answers.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    rig.wait_for(lambda: rig.counters.asked >= 20)
    tracemalloc.start()
    try:
        few, many = bytes_after(50), bytes_after(250)
    finally:
        tracemalloc.stop()
    assert many - few < 300_000  # a frame alone has 9 kB, and its JPEG is in the file
    assert rig.counters.unchanged == 0


def test_each_camera_has_windows_of_its_own_and_a_goal_may_name_those_that_count(start: Callable[..., Rig]) -> None:
    rig = start(cameras=("front", "back"))
    rig.scheduler.level = 200
    rig.wait_for(lambda: {camera for camera, task, _ in rig.scheduler.asked} == {"front", "back"})
    rig.looks(4)
    assert " on camera front at (" in str(rig.where_last("lamp", cameras=("front",)).text)
    assert " on camera back at (" in str(rig.where_last("lamp", cameras=("back",)).text)
    assert str(rig.where_last("cup", cameras=("back",)).text).startswith("cup: never seen on camera back; ")


def test_a_period_that_is_changed_counts_at_once(start: Callable[..., Rig]) -> None:
    rig = start(period=3600.0)
    rig.wait_for(lambda: rig.counters.asked == 1)
    assert rig.counters.unchanged == 0
    rig.set(period=0.02)
    rig.looks(3)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_memory_belongs_to_its_owner_alone_and_says_that_people_may_be_in_it(
    start: Callable[..., Rig], directory: Path
) -> None:
    directory.mkdir(parents=True, mode=0o755)
    rig = start()
    rig.looks(1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in directory.iterdir())
    assert "faces" in (directory / "NOTICE").read_text()
    assert "people" in rig.infos[0]


def test_a_directory_that_others_use_is_left_as_it_is(start: Callable[..., Rig], directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    (directory / "homework.txt").touch()
    rig = start()
    rig.wait_for(lambda: rig.counters.failed >= 1)
    assert "a directory of its own" in rig.warnings[0]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert [path.name for path in directory.iterdir()] == ["homework.txt"]


def test_a_file_that_is_no_index_is_left_alone_and_named_once(start: Callable[..., Rig], directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / NAME).write_text("precious " * 1000)
    rig = start()
    rig.wait_for(lambda: rig.counters.failed >= 3)
    assert len(rig.warnings) == 1 and NAME in rig.warnings[0]
    assert rig.scheduler.asked == []  # nor are tokens spent on what cannot be kept
    with pytest.raises(Unsupported, match=NAME):
        rig.where_last("lamp")
    assert (directory / NAME).read_text() == "precious " * 1000


def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.scheduler.level = 200
    rig.wait_for(lambda: str(rig.where_last("lamp").text).startswith("Red Lamp: in view"))
    database = rig.memory._file.store()._database  # type: ignore[union-attr]
    database.execute("PRAGMA max_page_count = 1")  # SQLite says then what it says on a full disk
    rig.scheduler.blinks = True
    rig.wait_for(lambda: rig.counters.failed >= 3)
    assert len(rig.warnings) == 1 and "full" in rig.warnings[0]
    assert str(rig.where_last("lamp").text).startswith("Red Lamp: last seen ")
    database.execute("PRAGMA max_page_count = 1000000")
    asked = rig.counters.asked
    rig.wait_for(lambda: rig.counters.asked > asked)
    assert rig.infos[-1] == "memory: what the cameras see is remembered again"


def test_a_memory_that_somebody_deletes_begins_anew(start: Callable[..., Rig], directory: Path) -> None:
    rig = start()
    rig.looks(1)
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    asked = len(rig.scheduler.asked)
    rig.wait_for(lambda: len(rig.scheduler.asked) > asked)
    rig.looks(1)
    assert (directory / NAME).exists() and rig.warnings == []


def test_two_nodes_do_not_write_one_memory(directory: Path) -> None:
    first, second = (MemoryFile(directory, lambda: None) for _ in range(2))
    first.store()
    with pytest.raises(IndexFileError, match=r"memory\.directory"):
        second.store()
    first.close()
    second.store()
    second.close()
    with pytest.raises(IndexFileError, match="closed"):
        first.store()


# --- asking -----------------------------------------------------------------------------------------------------------


def test_without_a_memory_the_parameter_is_named(directory: Path) -> None:
    rig = Rig(directory, enabled=False)
    with pytest.raises(Unsupported, match=r"^task: .*memory\.enabled"):
        rig.where_last("lamp")
    assert rig.memory.health() is None and not directory.exists()
    rig.close()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"images": (Image(),)}, "images"),
        ({"session": "talk"}, "session"),
        ({"response_schema": {}}, "response_schema"),
        ({"not_before": 1}, "not_before"),
        ({"asked": frozenset({"temperature"})}, "temperature"),
        ({"max_image_tokens": 9}, "max_image_tokens"),
    ],
)
def test_what_only_a_model_could_honour_is_refused_by_name(start: Any, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Unsupported, match=f"^{named}: "):
        start().where_last("lamp", **fields)


def test_a_prompt_without_a_name_is_refused() -> None:
    assert name_in("the red  ball?") == "red ball?"
    for prompt in ("the", "???", "a *", "x" * 201, "a b " * 17):
        with pytest.raises(BadRequest, match=r"^prompt: "):
            name_in(prompt)


def test_no_watch_asks_the_memory() -> None:
    watch = Watch(task="where_last", prompt="lamp", condition=Watch.CONDITION_TEXT)
    with pytest.raises(BadRequest, match=r"^task: where_last is answered from the memory"):
        question(watch, Settings(), TASKS)


def test_an_index_of_another_time_is_asked_and_a_lost_image_is_said(start: Any, directory: Path) -> None:
    stamp = 1_700_000_000 * SECOND
    rig = start(things=("",))
    rig.looks(1)
    store = rig.memory._file.store()
    store.add(Window(Source("camera", ""), stamp, stamp, stamp, things=(Thing("green cup", stamp, frame_id="lens"),)))
    answer = rig.where_last("cup")
    assert str(answer.text) == f"green cup: last seen {clock(stamp)}"  # of another clock: no "ago"
    assert answer.regions == () and "not in the memory any more" in answer.notes[0]


def test_a_position_stays_in_the_frame_that_it_was_measured_in(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.scheduler.target_frame, rig.scheduler.level = "map", 200
    rig.wait_for(lambda: str(rig.where_last("lamp").text).startswith("Red Lamp: in view"))
    found = rig.where_last("lamp", target_frame="base_link")
    assert str(found.text).endswith("at (0.10, -0.20, 1.50) m in map")
    (region,), (image,) = found.regions, found.inputs.images
    assert (region.frame_id, image.header.frame_id) == ("map", "lens")
    assert "in map, not in base_link" in found.notes[0]
    assert rig.where_last("lamp", target_frame="map").notes == []


def test_what_only_a_caption_names_is_told_with_the_caption(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.looks(1)
    dark = rig.where_last("dark")
    assert str(dark.text).startswith("dark: in view now (at ") and str(dark.text).endswith("alone: It is dark.")
    assert dark.regions == () and len(dark.moments) == len(dark.inputs.images) == 1
    rig.scheduler.level = 200
    rig.wait_for(lambda: rig.counters.asked == 2)
    assert str(rig.where_last("dark").text).startswith("dark: last seen ")


@given(st.floats(0, 1e9))
def test_a_span_of_time_is_in_its_two_largest_units(seconds: float) -> None:
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = span(seconds).split()
    said = sum(int(count) * units[unit] for count, unit in zip(words[::2], words[1::2], strict=True))
    assert len(words) in (2, 4)
    assert 0 <= round(seconds) - said < (3600 if "d" in words else 60 if "h" in words else 1)


def test_times_are_dates_or_seconds_of_simulated_time() -> None:
    assert span(192.4) == "3 min 12 s" and span(0.2) == "0 s"
    assert clock(12_345 * SECOND // 1000) == "at 12.345 s"
    assert clock(1_700_000_000 * SECOND).startswith("2023-11-1")
