"""What the recorder makes of finished questions, and of a disk that does not keep up. No ROS graph."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import Clip, ImageInput, Message, Options
from qwen3vl_ros.prompts.request import AskRequest, conversation
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.image_message import image_message
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.images import InputImage, InputImages
from qwen3vl_ros.vlm.job import Code, GoalError, GoalResult
from qwen3vl_ros.vlm.recorded_answers import RecordedAnswer, read_answers
from qwen3vl_ros.vlm.recorder import Recorder

WAIT = 60.0


def pixels(seed: int = 0) -> Any:
    """64 x 48: fields of 16 x 16 pixels, which JPEG keeps."""
    fields = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(fields.repeat(16, 0).repeat(16, 1))


def jpeg(seed: int = 0, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels(seed)).save(file, "JPEG", **options)
    return file.getvalue()


def finished(number: int, *images: Any, clip: bool = False, **result: Any) -> tuple[Any, GoalResult]:
    """A job that is over, about raw and compressed images, and its result."""
    inputs, fitted = [], []
    for message in images:
        if isinstance(message, CompressedImage):
            shown = np.asarray(PIL.Image.open(io.BytesIO(bytes(message.data))))
        else:
            shown = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        part, fit = fit_image(shown, ImageInput())
        inputs.append(InputImage(message.header, shown, (fit,)))
        fitted.append(part)
    content = (Clip(tuple(fitted), tuple(map(float, range(len(fitted))))),) if clip else tuple(fitted)
    request = AskRequest("What is it?", "Be brief.", images=images, task="yes_no", options=Options(seed=3))
    messages = conversation(request, content, "What is it?")  # type: ignore[arg-type]
    job = SimpleNamespace(
        checked=request,
        messages=messages,
        inputs=InputImages(tuple(inputs), content),  # type: ignore[arg-type]
        reply=SimpleNamespace(goal_id=f"{number:032x}"),
    )
    headers = tuple(message.header for message in images)
    return job, GoalResult(text="a box", headers=headers, engine="scripted", model="tiny", **result)


def raw(seed: int = 0) -> Any:
    header = Header(frame_id="lens")
    header.stamp.sec, header.stamp.nanosec = 12, 34
    return image_message(pixels(seed), header)


class Log:
    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.changed = threading.Condition()

    def info(self, sentence: str) -> None:
        with self.changed:
            self.infos.append(sentence)
            self.changed.notify_all()

    def warn(self, sentence: str) -> None:
        with self.changed:
            self.warnings.append(sentence)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WAIT), (self.infos, self.warnings)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def recorder(tmp_path: Path, log: Log) -> Iterator[Recorder]:
    started = Recorder(tmp_path / "rec", 10.0, log.info, log.warn)
    yield started
    started.close(WAIT)


def correct(recorder: Recorder, number: int, text: str = "a bag") -> str:
    """Correct an answer, which waits until all answers before are written; what the recorder says."""
    said: list[str] = []
    done = threading.Event()
    recorder.correct(f"{number:032x}", text, lambda problem: (said.append(problem), done.set()))  # type: ignore[arg-type,return-value]
    assert done.wait(WAIT)
    return said[0]


def recorded(tmp_path: Path) -> list[RecordedAnswer]:
    return list(read_answers(tmp_path / "rec"))


def test_a_question_is_recorded_with_everything_that_was_asked_and_said(tmp_path: Path, recorder: Recorder) -> None:
    region = Region("box", 0, box=(1, 2, 30, 40), score=0.5)
    recorder.take(*finished(1, raw(), regions=(region,), notes=("a note",), json='{"a": [1]}', finish_reason="stop"))
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    entry = answer.entry
    assert answer.correction == "a bag"
    assert (entry["prompt"], entry["task"], entry["options"]) == ("What is it?", "yes_no", {"seed": 3})
    assert (entry["text"], entry["json"], entry["error"], entry["notes"]) == ("a box", {"a": [1]}, None, ["a note"])
    assert (entry["engine"], entry["model"], entry["finish_reason"]) == ("scripted", "tiny", "stop")
    assert entry["regions"][0]["box"] == {"x": 1, "y": 2, "width": 29, "height": 38}
    assert entry["probability"] is None and entry["usage"]["prompt_tokens"] == 0
    assert entry["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [{"type": "image", "image": 0, "part": 0}, {"type": "text", "text": "What is it?"}],
        },
    ]
    (image,) = entry["images"]
    assert (image["width"], image["height"], image["frame_id"]) == (64, 48, "lens")
    assert image["stamp"] == image["pixel_stamp"] == {"sec": 12, "nanosec": 34}
    with PIL.Image.open(tmp_path / "rec" / image["file"]) as opened:
        assert opened.format == "JPEG" and opened.size == (64, 48)
        assert np.abs(np.asarray(opened).astype(int) - pixels()).mean() < 8


def test_a_jpeg_is_kept_as_it_came_and_other_images_become_one(tmp_path: Path, recorder: Recorder) -> None:
    came, turned = jpeg(1), jpeg(1, exif=_orientation(6))
    messages = [CompressedImage(format=form, data=data) for form, data in (("jpeg", came), ("jpeg", turned))]
    recorder.take(*finished(1, *messages, raw()))
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    files = [(tmp_path / "rec" / one["file"]).read_bytes() for one in answer.entry["images"]]
    assert files[0] == came
    assert files[1] != turned, "viewers do not agree on the orientation of a photo: it is written upright"
    assert len(files) == 3


def _orientation(number: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = number
    return exif


def test_the_frames_of_a_clip_are_recorded_with_their_times(tmp_path: Path, recorder: Recorder) -> None:
    recorder.take(*finished(1, raw(1), raw(2), raw(1), clip=True))
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    assert answer.entry["messages"][1]["content"][0] == {"type": "video", "images": [0, 1, 2], "times": [0.0, 1.0, 2.0]}
    files = [one["file"] for one in answer.entry["images"]]
    assert files[0] == files[2] != files[1]


def test_earlier_images_of_a_conversation_that_the_node_keeps_are_recorded_as_the_engine_gets_them(
    tmp_path: Path, recorder: Recorder
) -> None:
    job, result = finished(1, raw(1))
    earlier = (Message("user", (pixels(2), "And this?")), Message("assistant", ("a ball",)))
    job.messages = (*earlier, *job.messages[1:])
    recorder.take(job, result)
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    entry = answer.entry
    first, _, last = entry["messages"]
    assert (first["content"][0]["image"], last["content"][0]["image"]) == (1, 0)
    assert [(image["width"], image["frame_id"]) for image in entry["images"]] == [(64, "lens"), (64, None)]
    with PIL.Image.open(tmp_path / "rec" / entry["images"][1]["file"]) as opened:
        assert np.abs(np.asarray(opened).astype(int) - pixels(2)).mean() < 8


def test_the_images_of_a_goal_are_told_apart_where_not_all_are_used(tmp_path: Path, recorder: Recorder) -> None:
    came = [CompressedImage(format="jpeg", data=jpeg(number)) for number in range(3)]
    job, result = finished(1, *came)
    job.inputs = InputImages(job.inputs.images[1:], job.inputs.content[1:])
    job.messages = conversation(job.checked, job.inputs.content, "What is it?")
    recorder.take(job, result)
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    files = [(tmp_path / "rec" / one["file"]).read_bytes() for one in answer.entry["images"]]
    assert files == [jpeg(1), jpeg(2)]


def test_a_failed_answer_is_recorded_with_its_reason(tmp_path: Path, recorder: Recorder) -> None:
    job, result = finished(1, error=GoalError(Code.TIMEOUT, "too late"))
    job.messages, job.inputs = (), None
    recorder.take(job, result)
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    assert answer.entry["error"] == {"code": Code.TIMEOUT, "name": "TIMEOUT", "message": "too late"}
    assert answer.entry["messages"] == answer.entry["images"] == []


def test_odd_text_and_numbers_stay_json(tmp_path: Path, recorder: Recorder) -> None:
    job, result = finished(1, raw(), regions=(Region("box", point=(1.0, 2.0), spread=(float("nan"), float("inf"))),))
    job.messages = (*job.messages, Message("assistant", ("half \ud83d a pair\u2028",)))
    recorder.take(job, result)
    assert correct(recorder, 1) == ""
    (answer,) = recorded(tmp_path)
    assert answer.entry["regions"][0]["spread"] == [None, None]
    assert answer.entry["messages"][-1]["content"][0]["text"] == "half ? a pair\u2028"


def test_a_full_disk_pauses_the_recording_and_it_goes_on_by_itself(
    tmp_path: Path, recorder: Recorder, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.take(*finished(1, raw()))
    assert correct(recorder, 1) == ""

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        recorder.take(*finished(2, raw()))
        recorder.take(*finished(3, raw()))
        assert "No space left on device" in correct(recorder, 1)
        health = recorder.health()
        assert (health.recorded, health.left_out) == (1, 2)
        assert "make room there" in health.problem
    recorder.take(*finished(4, raw()))
    assert correct(recorder, 4) == ""
    assert recorder.health().problem == ""
    assert [int(answer.goal_id, 16) for answer in recorded(tmp_path)] == [1, 4]
    assert len(log.warnings) == 1 and "No space left on device" in log.warnings[0]
    assert [sentence for sentence in log.infos if "again" in sentence] == ["recording: answers are recorded again"]


def test_a_slow_disk_delays_nobody_and_what_it_misses_is_counted(
    recorder: Recorder, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.wait(lambda: bool(log.infos))  # it is open
    begun, go_on, write = threading.Event(), threading.Event(), os.write

    def slow(descriptor: int, data: bytes) -> int:
        begun.set()
        assert go_on.wait(WAIT)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", slow)
    recorder.take(*finished(0, raw()))
    assert begun.wait(WAIT)
    for number in range(1, 201):
        recorder.take(*finished(number, raw()))
    assert len(log.warnings) == 1 and "too slow" in log.warnings[0]
    missed = recorder.health().left_out
    assert missed == 200 - 64
    go_on.set()
    assert correct(recorder, 0) == ""
    assert recorder.health().recorded == 201 - missed


def test_a_directory_that_cannot_be_used_is_said_at_once(tmp_path: Path, log: Log) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file", 10.0, log.info, log.warn)
    log.wait(lambda: bool(log.warnings))
    assert str(tmp_path / "file") in log.warnings[0]
    recorder.take(*finished(1))
    recorder.close(WAIT)
    assert recorder.health().left_out == 1 and len(log.warnings) == 1


def test_a_recording_that_is_deleted_meanwhile_begins_anew(tmp_path: Path, recorder: Recorder) -> None:
    recorder.take(*finished(1, raw()))
    assert correct(recorder, 1) == ""
    for path in sorted((tmp_path / "rec").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "rec").rmdir()
    recorder.take(*finished(2, raw()))
    assert correct(recorder, 2) == ""
    assert [int(answer.goal_id, 16) for answer in recorded(tmp_path)] == [2]


def test_what_was_taken_before_the_end_is_written(tmp_path: Path, recorder: Recorder) -> None:
    for number in range(10):
        recorder.take(*finished(number, raw(number)))
    recorder.close(WAIT)
    assert len(recorded(tmp_path)) == 10
    recorder.take(*finished(11))
    assert "no longer" in correct(recorder, 1)
