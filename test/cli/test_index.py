"""`qwen3vl-ros index`, `search`, `summarize`, `cut` and `ask --index`: a long video's windows, and what finds them."""

from __future__ import annotations

import io
import json
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")

import av
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import ModelCard, Region, VlmStatus
from rclpy.qos import DurabilityPolicy, QoSProfile

import child_process
import videos
from qwen3vl_ros.cli import arguments
from qwen3vl_ros.cli.footage import OpenFootage
from qwen3vl_ros.cli.index import _Run, _source_of
from qwen3vl_ros.cli.main import main
from qwen3vl_ros.index.entries import IndexFileError, Source, Thing, Window
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vlm.recording import Recording
from scripted_vlm import WAIT, Goal, ScriptedVlm, until_cancelled

Result = AskImage.Result
SECOND = 10**9


class StatusOf:
    """The latched status that goes with a scripted node."""

    def __init__(self, scripted: ScriptedVlm) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = scripted.node.create_publisher(VlmStatus, "~/status", latched)
        self.knows()

    def knows(self, *tasks: str) -> None:
        """Say that the model knows these tasks alone, without any that it knows all."""
        self._publisher.publish(VlmStatus(state=VlmStatus.READY, model_card=ModelCard(tasks=tasks)))


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedVlm]:
    server = ScriptedVlm()
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared_status(server: ScriptedVlm) -> StatusOf:
    return StatusOf(server)


@pytest.fixture
def scripted(server: ScriptedVlm) -> ScriptedVlm:
    server.rewrite(sees_brightness)
    return server


@pytest.fixture
def status(shared_status: StatusOf) -> Iterator[StatusOf]:
    shared_status.knows()
    yield shared_status
    shared_status.knows()


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in this process, whose signals are pytest's."""
    monkeypatch.setattr(arguments, "interrupt_on_signals", lambda: None)


def levels_of(goal: Goal) -> list[int]:
    """The brightness of each image of a goal."""
    raw = [np.frombuffer(bytes(image.data), np.uint8) for image in goal.request.images]
    files = [np.asarray(PIL.Image.open(io.BytesIO(bytes(image.data)))) for image in goal.request.compressed_images]
    return [videos.level_of(pixels) for pixels in raw + files]


def sees_brightness(goal: Goal) -> Result:
    """A model to whom dark images show a red ball, and bright ones a blue cube."""
    thing = "red ball" if max(levels_of(goal), default=0) < 128 else "blue cube"
    if goal.request.task == "locate":
        region = Region(label=thing)
        region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height = 1, 2, 3, 4
        return goal.result(text="[]", regions=[region])
    return goal.result(text=f"A {thing} lies there.")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s at 2 frames a second: bright from 20 s to 30 s, else dark."""
    images = ((500 * number, videos.grey(200 if 40 <= number < 60 else 50)) for number in range(80))
    return videos.write_timed(tmp_path_factory.mktemp("videos") / "street.mp4", images)


def run(*words: str | Path) -> int:
    return main([*map(str, words), "--wait", str(WAIT)])


def windows_of(path: Path) -> list[Window]:
    with Store(path) as store:
        return list(store.windows())


def times(found: str) -> list[tuple[float, float]]:
    return [(line["start"], line["end"]) for line in map(json.loads, found.splitlines())]


@pytest.mark.ros
def test_each_window_has_a_caption_of_its_clip_things_of_its_middle_frame_and_times(
    scripted: ScriptedVlm, status: StatusOf, video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "street.db"
    assert run("index", video, "--index", index) == 0
    found = windows_of(index)
    assert [(one.start_ns, one.end_ns) for one in found] == [
        (0, 10 * SECOND), (10 * SECOND, 20 * SECOND), (20 * SECOND, 30 * SECOND), (30 * SECOND, 39_500_000_001)
    ]  # fmt: skip
    assert [one.caption for one in found] == [
        f"A {name} lies there." for name in ("red ball",) * 2 + ("blue cube", "red ball")
    ]
    assert found[2].frame_ns == 25 * SECOND
    assert found[2].things == (Thing("blue cube", 25 * SECOND, (1, 2, 3, 4)),)
    with Store(index) as store:
        assert abs(videos.level_of(np.asarray(PIL.Image.open(io.BytesIO(store.jpeg(found[2]))))) - 200) < 4
    clips = [goal.request for goal in scripted.goals if goal.request.images_are_clip]
    assert len(clips) == 4 and len(clips[1].compressed_images) == 5
    stamps = [image.header.stamp.sec for image in clips[1].compressed_images]
    assert stamps == [11, 13, 15, 17, 19]
    told = capfd.readouterr().err
    assert "an hour of this video takes" in told and "3 windows are left" in told
    assert "clips of each window" in told
    asked = len(scripted.goals)
    assert run("index", video, "--index", index) == 0
    assert len(scripted.goals) == asked
    assert "has all windows" in capfd.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("said", "windows"), [("n\n", 1), ("", 1), ("y\n", 4)])
def test_somebody_at_a_terminal_is_asked_before_what_takes_long(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, windows: int
) -> None:
    told = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(said))
    monkeypatch.setattr("sys.stderr", told)
    monkeypatch.setattr("qwen3vl_ros.cli.index._LONG", 0.0)
    with OpenFootage(video) as footage, Store(tmp_path / "a.db", create=True) as store:
        source = replace(footage.source, window_ns=10 * SECOND)
        starts = list(footage.windows(0, 0, source.window_ns))
        status = _Run(footage, store, source, SeesNothing(), 1).run(starts, yes=False)  # type: ignore[arg-type]
        assert (store.count(), status) == (windows, 0 if windows == 4 else 1)
    assert "an hour of this video takes" in told.getvalue().partition("Go on? [y/N]")[0]


@pytest.mark.ros
def test_what_the_model_cannot_do_is_left_out_with_a_sentence(
    scripted: ScriptedVlm, status: StatusOf, video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def takes_no_clip_and_no_locate(goal: Goal) -> Result:
        if goal.request.images_are_clip or goal.request.task == "locate":
            return goal.result(Result.UNSUPPORTED, "The engine cannot do this.")
        return sees_brightness(goal)

    scripted.script = takes_no_clip_and_no_locate
    assert run("index", video, "--index", tmp_path / "a.db") == 0
    assert [one.caption[:6] for one in windows_of(tmp_path / "a.db")] == ["A red ", "A red ", "A blue", "A red "]
    assert len(scripted.goals) == 6, "refused once each, four captions"
    told = capfd.readouterr().err
    assert told.count("The engine cannot do this.") == 2
    assert "the middle frame of each window" in told

    scripted.rewrite(sees_brightness)
    status.knows("locate")
    assert run("index", video, "--index", tmp_path / "b.db") == 0
    assert [one.caption for one in windows_of(tmp_path / "b.db")] == [""] * 4
    assert {goal.request.task for goal in scripted.goals} == {"locate"}
    assert "does not know the task caption" in capfd.readouterr().err


@pytest.mark.ros
def test_a_run_that_is_interrupted_or_killed_goes_on_where_it_stopped(
    scripted: ScriptedVlm, status: StatusOf, video: Path, tmp_path: Path
) -> None:
    index = tmp_path / "street.db"
    command = ("index", str(video), "--index", str(index), "--things", "", "--wait", str(WAIT))
    for number, stop in enumerate((signal.SIGINT, signal.SIGKILL), 1):
        waiting = threading.Event()

        def answers_one(goal: Goal, waiting: threading.Event = waiting) -> Result:
            if len(scripted.goals) == 1:
                return sees_brightness(goal)
            waiting.set()
            return until_cancelled(goal)

        scripted.rewrite(answers_one)
        process = subprocess.Popen(
            child_process.command("qwen3vl_ros.cli.main", *command), stderr=subprocess.PIPE, text=True
        )
        assert waiting.wait(WAIT)
        process.send_signal(stop)
        _, told = process.communicate(timeout=WAIT)
        assert process.returncode == (130 if stop == signal.SIGINT else -stop)
        assert "Traceback" not in told
        assert ("goes on where this one stopped" in told) == (stop == signal.SIGINT)
        scripted.goals[-1].cancelled.set()
        assert len(windows_of(index)) == number
    scripted.rewrite(sees_brightness)
    assert run(*command[:-2]) == 0
    assert len(scripted.goals) == 2
    assert [one.start_ns // SECOND for one in windows_of(index)] == [0, 10, 20, 30]


class SeesNothing:
    """Questions without a node."""

    clip, failed = False, 0

    def ask(self, frames: object, middle: object) -> tuple[str, tuple[Thing, ...]]:
        return "Nothing.", ()


def test_an_hour_of_video_is_indexed_within_bounded_memory(tmp_path: Path) -> None:
    # all frames of it at once would take 333 MB
    images = ((10_000 * number, videos.grey(50 + number % 20, 640, 480)) for number in range(361))
    path = videos.write_timed(tmp_path / "hour.mp4", images, gop=30, b_frames=0)
    with OpenFootage(path) as footage, Store(tmp_path / "hour.db", create=True) as store:
        source = replace(footage.source, window_ns=10 * SECOND)
        starts = list(footage.windows(0, 0, source.window_ns))
        index = _Run(footage, store, source, SeesNothing(), 1)  # type: ignore[arg-type]
        assert index.run(starts[:20], yes=True) == 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert index.run(starts[20:], yes=True) == 0
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
        assert [one.frame_ns // SECOND for one in store.windows()] == list(range(0, 3601, 10))


def test_an_index_goes_on_with_the_same_file_and_windows_alone(
    video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with OpenFootage(video) as footage, Store(tmp_path / "a.db", create=True) as store:
        source = _source_of(footage, store, 10 * SECOND)
        store.add(Window(source, 0, 10 * SECOND, 0))
        assert _source_of(footage, store, 10 * SECOND) == source
        with pytest.raises(IndexFileError, match="go on with --window 10"):
            _source_of(footage, store, 5 * SECOND)
        footage.source = Source("video", str(video), fingerprint="another")
        with pytest.raises(IndexFileError, match="not the file any more"):
            _source_of(footage, store, 10 * SECOND)


@pytest.mark.ros
def test_a_bag_is_indexed_by_its_stamps_and_cut(
    scripted: ScriptedVlm, status: StatusOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rosbags", reason="rosbags, which reads bags, is not installed here")
    from bags import BEGIN, header, write_bag

    def messages() -> Iterator[tuple[str, int, object]]:
        for number in range(60):  # 30 s, bright from 10 s to 20 s
            time = BEGIN + number * SECOND // 2
            pixels = videos.grey(200 if 20 <= number < 40 else 50)
            yield "/camera/image_raw", time + 5_000_000, image_message(pixels, header(time))

    bag, index, out = write_bag(tmp_path / "bag", messages()), tmp_path / "bag.db", tmp_path / "clip.mp4"
    assert run("index", bag, "--index", index) == 0
    found = windows_of(index)
    assert [(one.start_ns - BEGIN) // SECOND for one in found] == [0, 10, 20]
    assert [one.things[0].name for one in found] == ["red ball", "blue cube", "red ball"]
    assert found[0].source == replace(found[0].source, kind="bag", topic="/camera/image_raw", start_ns=BEGIN)
    assert main(["search", "blue cube", "--index", str(index)]) == 0
    assert capfd.readouterr().out == "0:10.0 - 0:20.0  A blue cube lies there. [blue cube]\n"
    for words in (["--from", "0:21"], ["--to", "9"]):
        assert main(["search", "blue cube", "--index", str(index), *words]) == 1
    assert main(["cut", "--query", "blue cube", "--index", str(index), "--out", str(out), "--margin", "0"]) == 0
    with av.open(str(out)) as container:
        levels = [videos.level_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert len(levels) == 20 and min(levels) > 150


@pytest.mark.ros
def test_a_recording_that_grows_is_indexed_further(
    scripted: ScriptedVlm, status: StatusOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(recording: Recording, time: int, level: int, camera: str = "front") -> None:
        jpeg = io.BytesIO()
        PIL.Image.new("RGB", (64, 48), (level,) * 3).save(jpeg, "JPEG")
        stamp = {"sec": 1_700_000_000 + time, "nanosec": 0}
        image = {"camera": camera, "stamp": stamp, "width": 64, "height": 48}
        recording.append({"goal_id": f"{time:032x}", "images": [image]}, [jpeg.getvalue()])

    directory, index = tmp_path / "recording", tmp_path / "day.db"
    recording = Recording(directory, 10.0)
    answer(recording, 3, 50)
    answer(recording, 5, 50)
    answer(recording, 86_403, 200)  # a day later
    assert run("index", directory, "--index", index) == 0
    begin = 1_700_000_003 * SECOND
    assert [(one.start_ns - begin) // SECOND for one in windows_of(index)] == [0, 86_400]
    answer(recording, 86_405, 50)
    answer(recording, 86_500, 50)
    assert run("index", directory, "--index", index) == 0
    found = windows_of(index)
    assert [(one.start_ns - begin) // SECOND for one in found] == [0, 86_400, 86_490]
    assert [one.things[0].name for one in found] == ["red ball", "red ball", "red ball"]
    assert main(["cut", "--query", "red ball", "--index", str(index), "--out", str(tmp_path / "a.mp4")]) == 2
    answer(recording, 86_600, 50, "back")
    recording.close()
    capfd.readouterr()
    assert run("index", directory, "--index", index) == 2
    assert "cameras back, front: name one of them with --topic" in capfd.readouterr().err
    assert run("index", directory, "--index", index, "--topic", "back") == 0
    assert len(windows_of(index)) == 4


@pytest.mark.parametrize("name", ["none.mp4", "notes.txt", "empty"])
def test_what_cannot_be_read_is_said_and_leaves_no_index(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("These are notes.")
    (tmp_path / "empty").mkdir()
    assert main(["index", str(tmp_path / name), "--index", str(tmp_path / "a.db")]) == 2
    assert name in capfd.readouterr().err
    assert not (tmp_path / "a.db").exists()


# --- what reads an index ----------------------------------------------------------------------------------------------


@pytest.fixture
def index(video: Path, tmp_path: Path) -> Path:
    """An index of the video, as the command would write it."""
    path = tmp_path / "index.db"
    with OpenFootage(video) as footage, Store(path, create=True) as store:
        for number, (caption, name) in enumerate(
            [
                ("A dark room.", "red ball"),
                ("A man comes in.", "man"),
                ("A bright room.", "blue cube"),
                ("桌子上有红球。", ""),
            ]
        ):
            start = number * 10 * SECOND
            things = (Thing(name, start),) if name else ()
            jpeg = io.BytesIO()
            PIL.Image.new("RGB", (64, 48), (10 * number,) * 3).save(jpeg, "JPEG")
            store.add(Window(footage.source, start, start + 10 * SECOND, start, caption, things, jpeg.getvalue()))
    return path


def test_search_finds_times(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def search(*words: str) -> list[tuple[float, float]]:
        main(["search", "--index", str(index), "--json", *words])
        return times(capfd.readouterr().out)

    assert search("red balls") == [(0, 10)]
    assert search("红球") == [(30, 40)]
    assert search("room") == [(0, 10), (20, 30)]
    assert search("room", "--from", "0:15") == [(20, 30)]
    assert search("room", "--to", "15") == [(0, 10)]
    assert len(search("room", "--limit", "1")) == 1
    assert main(["search", "--index", str(index), "room"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines == ["0:00.0 - 0:10.0  A dark room. [red ball]", "0:20.0 - 0:30.0  A bright room. [blue cube]"]
    assert main(["search", "--index", str(index), "zebra"]) == 1
    assert "no window with 'zebra'" in capfd.readouterr().err
    assert main(["search", "--index", str(index.with_name("none.db")), "room"]) == 2
    assert "There is no index" in capfd.readouterr().err


def test_nobody_who_reads_is_no_error_and_index_db_is_what_is_read(index: Path) -> None:
    with Store(index) as store:
        (first, *_) = store.windows()
        for number in range(2000):  # more than a pipe holds
            store.add(replace(first, start_ns=number, end_ns=number + 1, caption="A room. " * 10))
    command = child_process.command("qwen3vl_ros.cli.main", "search", "room", "--limit", "3000")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=index.parent)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(WAIT) == 141, told
    process.stderr.close()
    assert told == b""


def test_cut_writes_the_seconds_that_match(index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip.mp4"
    assert main(["cut", "--index", str(index), "--query", "blue cube", "--out", str(out), "--margin", "2"]) == 0
    assert capfd.readouterr().out == "0:18.0 - 0:32.0\n"
    with av.open(str(out)) as container:
        frames = [
            (float(frame.time), videos.level_of(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]
    assert [time for time, _ in frames] == pytest.approx([number / 2 for number in range(28)], abs=0.01)
    assert [level > 128 for _, level in frames] == [False] * 4 + [True] * 20 + [False] * 4


def test_cut_joins_windows_and_leaves_out_what_lies_between(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    assert main(["cut", "--index", str(index), "--query", "room", "--out", str(out), "--margin", "0"]) == 0
    with av.open(str(out)) as container:
        seen = [float(frame.time) for frame in container.decode(video=0)]
    assert seen == pytest.approx([number / 2 for number in range(40)], abs=0.01)


def test_cut_says_what_it_cannot(index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert main(["cut", "--index", str(index), *words]) in (1, 2)
        return capfd.readouterr().err

    assert "no window with 'zebra'" in refused("--query", "zebra", "--out", str(tmp_path / "a.mp4"))
    assert "cannot be written as a video" in refused("--query", "room", "--out", str(tmp_path / "a.unknown"))
    assert "cannot be written as a video" in refused("--query", "room", "--out", str(tmp_path / "no" / "a.mp4"))
    with Store(index) as store:
        store.add(Window(Source("video", str(tmp_path / "moved.mp4")), 0, SECOND, 0, "A zebra."))
        store.add(Window(Source("camera", "front"), 0, SECOND, 0, "A lion in a room."))
    assert "is not there any more: move it back" in refused("--query", "zebra", "--out", str(tmp_path / "a.mp4"))
    assert "no video and no bag" in refused("--query", "lion", "--out", str(tmp_path / "a.mp4"))
    assert "Choose one with --source" in refused("--query", "room", "--out", str(tmp_path / "a.mp4"))
    assert not list(tmp_path.glob("*.mp4")) + list(tmp_path.glob(".*"))


@pytest.mark.ros
def test_a_question_is_answered_from_the_windows_that_it_is_about(
    scripted: ScriptedVlm, status: StatusOf, index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.rewrite(lambda goal: goal.result(text="At 0:10.0 - 0:20.0."))
    frames = tmp_path / "frames"
    assert run("ask", "When did the man come in?", "--index", index, "--save-frames", frames) == 0
    (goal,) = scripted.goals
    assert "0:10.0 - 0:20.0  A man comes in. [man]" in goal.request.prompt
    assert "bright room" not in goal.request.prompt
    assert [level // 10 for level in levels_of(goal)] == [1]
    out = capfd.readouterr().out
    (saved,) = frames.iterdir()
    assert out.splitlines() == ["At 0:10.0 - 0:20.0.", f"0:10.0 - 0:20.0  A man comes in. [man]  {saved}"]
    assert run("ask", "Where is the giraffe?", "--index", index) == 1
    assert "has any of the words 'giraffe'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--video", "a.mp4"], "--video and --index exclude each other"),
        (["--from", "3"], "--from and --index exclude each other"),
        (["--json", "{}"], "--json and --index exclude each other"),
        (["--clip-frames", "65"], "--clip-frames is a number from 1 to 64"),
    ],
)
def test_options_that_an_index_has_no_use_for_are_refused(
    words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["ask", "When?", "--index", "a.db", *words])
    assert sentence in capfd.readouterr().err


@pytest.mark.ros
def test_an_engine_that_takes_fewer_frames_is_asked_with_fewer(
    scripted: ScriptedVlm, status: StatusOf, index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def takes_one(goal: Goal) -> Result:
        if len(levels_of(goal)) > 1:
            return goal.result(Result.UNSUPPORTED, "One image at most.")
        return goal.result(text="Twice.")

    scripted.rewrite(takes_one)
    assert run("ask", "When is the room seen?", "--index", index) == 0
    assert [len(levels_of(goal)) for goal in scripted.goals] == [2, 1]
    assert "Twice." in capfd.readouterr().out


@pytest.mark.ros
def test_a_summary_has_a_line_for_each_period(
    scripted: ScriptedVlm, status: StatusOf, index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scripted.rewrite(lambda goal: goal.result(text="A man\ncomes." if "man" in goal.request.prompt else "Light."))
    assert run("summarize", "--index", index, "--every", "20s") == 0
    assert capfd.readouterr().out.splitlines() == ["0:00.0 - 0:20.0  A man comes.", "0:20.0 - 0:40.0  Light."]
    assert all(goal.request.text_only for goal in scripted.goals)
    lengths = [10_000]

    def reads_little(goal: Goal) -> Result:
        lengths.append(len(goal.request.prompt))
        if lengths[-1] > 900:
            return goal.result(Result.PROMPT_TOO_LONG, "Too long.")
        return goal.result(text="Much.")

    with Store(index) as store:
        (first, *_) = store.windows()
        for number in range(30):
            start = 40 * SECOND + number * SECOND
            store.add(replace(first, start_ns=start, end_ns=start + SECOND, caption="A dog. " * 9))
    scripted.rewrite(reads_little)
    assert run("summarize", "--index", index, "--every", "1h") == 0
    assert capfd.readouterr().out.splitlines() == ["0:00.0 - 1:10.0  Much."]
    scripted.rewrite(lambda goal: goal.result(Result.UNSUPPORTED, "The engine X needs an image."))
    assert run("summarize", "--index", index) != 0
    assert "UNSUPPORTED: The engine X needs an image." in capfd.readouterr().err
    status.knows("caption")
    scripted.rewrite()
    assert run("summarize", "--index", index) == 1
    assert not scripted.goals
    assert "single tasks only" in capfd.readouterr().err
