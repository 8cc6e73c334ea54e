"""`qwen3vl-ros record` on a directory: the list, corrections, and data sets that `datasets` reads. No node."""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest

from qwen3vl_ros.cli.main import main
from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.vision.fit import Fit, fit_image
from qwen3vl_ros.vision.tiles import tiles
from qwen3vl_ros.vlm.record_entry import plain
from qwen3vl_ros.vlm.recording import Recording

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (255, 255, 255)}
WIDTH, HEIGHT = 64, 48

Say = Callable[..., tuple[int, str, str]]


def corners() -> Any:
    """64 x 48, a quarter each: red, green, blue, white."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, colour in enumerate(COLOURS.values()):
        row, column = divmod(number, 2)
        image[row * 24 : (row + 1) * 24, column * 32 : (column + 1) * 32] = colour
    return image


def jpeg(pixels: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def plain_image(colour: str) -> bytes:
    return jpeg(np.full((HEIGHT, WIDTH, 3), COLOURS[colour], np.uint8))


def part_of(fit: Fit) -> dict[str, Any]:
    return {name: getattr(fit, name) for name in ("rotation", "shown", "place", "fitted_size")}


def as_it_is() -> dict[str, Any]:
    return part_of(fit_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ImageInput())[1])


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(number: int, part: int = 0) -> dict[str, Any]:
    return {"type": "image", "image": number, "part": part}


def entry(number: int, content: list[Any], *parts: Any, answer: str = "a box", **more: Any) -> dict[str, Any]:
    images = [{"width": WIDTH, "height": HEIGHT, "parts": list(of)} for of in parts]
    made = {"goal_id": f"{number:032x}", "time": "2026-11-30T12:00:00.000Z", "prompt": "What is it?", "task": ""}
    made |= {"messages": [{"role": "user", "content": content}], "images": images, "text": answer, "error": None}
    return plain(made | more)  # type: ignore[no-any-return]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Four questions: about one image, about none after a system prompt, about two in a conversation, a failed one."""
    recording = Recording(tmp_path / "rec", 10.0)
    one = [as_it_is()]
    recording.append(entry(1, [image(0), text("What is it?")], one), [plain_image("red")])
    system = {"role": "system", "content": [text("Be brief.")]}
    asked = {"role": "user", "content": [text("Who are you? <image>")]}
    recording.append(entry(2, [], messages=[system, asked]), [])
    turns = [
        {"role": "user", "content": [image(0), text("Which colour?")]},
        {"role": "assistant", "content": [text("green")]},
        {"role": "user", "content": [text("Picture 1: "), image(1), text("And now?")]},
    ]
    recording.append(entry(3, [], one, one, messages=turns, answer="blau \N{BLUE BOOK}"), [plain_image("green")] * 2)
    recording.append(entry(4, [image(0)], one, error={"code": 27305, "name": "TIMEOUT", "message": "late"}), [b"x"])
    recording.close()
    return recording.directory


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `qwen3vl-ros record ...`; exit status, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        status = main(["record", *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def export(say: Say, directory: Path, form: str, *words: str) -> tuple[Path, str]:
    status, out, err = say("export", "--directory", directory, "--format", form, *words, directory.parent / form)
    assert status == 0, err
    return Path(out.strip()), err


def test_the_list_has_a_line_for_each_answer(directory: Path, say: Say) -> None:
    assert say("correct", "--directory", directory, f"{1:032x}", "a ball")[0] == 0
    status, out, _ = say("list", "--directory", directory)
    lines = out.splitlines()
    assert status == 0 and [line[:32] for line in lines] == [f"{number:032x}" for number in (1, 2, 3, 4)]
    assert lines[0].endswith("What is it?  ->  a box  corrected: a ball")
    assert lines[3].endswith("->  TIMEOUT")


def test_a_correction_may_come_through_a_pipe(directory: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a ball,\nand a box\n"))
    assert say("correct", "--directory", directory, f"{1:032x}")[0] == 0
    assert json.loads(say("show", "--directory", directory, f"{1:032x}")[1])["correction"] == "a ball,\nand a box"


def test_show_has_everything_as_json(directory: Path, say: Say) -> None:
    say("correct", "--directory", directory, f"{3:032x}", "rot")
    status, out, _ = say("show", "--directory", directory, f"{3:032x}")
    shown = json.loads(out)
    assert status == 0 and (shown["text"], shown["correction"]) == ("blau \N{BLUE BOOK}", "rot")
    assert (directory / shown["images"][0]["file"]).read_bytes() == plain_image("green")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("show", "abcd"), "no answer 'abcd'"),
        (("correct", "00000", "x"), "4 answers begin"),
        (("correct", "x", "x"), "no identifier"),
    ],
)
def test_what_is_wrong_is_a_sentence(directory: Path, say: Say, words: tuple[str, ...], why: str) -> None:
    status, out, err = say(words[0], "--directory", directory, *words[1:])
    assert (status, out) == (2, "") and why in err


@pytest.mark.parametrize("action", ["list", "show", "correct", "export"])
def test_a_directory_that_is_no_recording_is_left_alone(tmp_path: Path, say: Say, action: str) -> None:
    more = {"list": (), "show": ("abcd",), "correct": ("abcd", "x"), "export": ("--format", "qwen-vl", tmp_path / "o")}
    status, _, err = say(action, "--directory", tmp_path, *more[action])
    assert status == 2 and "is no recording" in err
    assert not list(tmp_path.iterdir())


def test_qwen_vl_is_read_by_datasets_and_every_tag_has_its_image(directory: Path, say: Say) -> None:
    datasets = pytest.importorskip("datasets")
    file, report = export(say, directory, "qwen-vl")
    read = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(file.parent / "cache"))
    assert "3 questions" in report and "1 failed" in report
    samples = list(read)
    assert [sample["conversations"] for sample in samples] == [
        [turn("human", "<image>\nWhat is it?"), turn("gpt", "a box")],
        [turn("human", "Be brief.\n\nWho are you? [image]"), turn("gpt", "a box")],
        [
            turn("human", "<image>\nWhich colour?"),
            turn("gpt", "green"),
            turn("human", "Picture 1: <image>\nAnd now?"),
            turn("gpt", "blau \N{BLUE BOOK}"),
        ],
    ]
    assert [len(sample["image"] or []) for sample in samples] == [1, 0, 2]
    for sample in samples:
        values = " ".join(one["value"] for one in sample["conversations"])
        assert len(re.findall("<image>", values)) == len(sample["image"] or [])
    assert (file.parent / samples[2]["image"][1]).read_bytes() == plain_image("green")


def turn(of: str, value: str) -> dict[str, str]:
    return {"from": of, "value": value}


def test_with_one_image_each_qwen_vl_has_paths_as_in_its_examples(tmp_path: Path, say: Say) -> None:
    recording = Recording(tmp_path / "rec", 10.0)
    recording.append(entry(1, [image(0), text("What is it?")], [as_it_is()]), [plain_image("red")])
    recording.close()
    file, _ = export(say, recording.directory, "qwen-vl")
    (sample,) = json.loads(file.read_text())
    assert (file.parent / sample["image"]).read_bytes() == plain_image("red")


def test_messages_are_read_by_datasets_as_chat_messages(directory: Path, say: Say) -> None:
    datasets = pytest.importorskip("datasets")
    file, _ = export(say, directory, "messages")
    read = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(file.parent / "cache"))
    first, second, third = (sample["messages"] for sample in read)
    assert [message["role"] for message in first] == ["user", "assistant"]
    asked = [{key: value for key, value in part.items() if value is not None} for part in first[0]["content"]]
    assert [part["type"] for part in asked] == ["image", "text"] and asked[1]["text"] == "What is it?"
    assert (file.parent / asked[0]["image"]).read_bytes() == plain_image("red")
    assert second[0]["role"] == "system" and second[1]["content"][0]["text"] == "Who are you? <image>"
    assert [message["role"] for message in third] == ["user", "assistant", "user", "assistant"]
    assert third[-1]["content"][0]["text"] == "blau \N{BLUE BOOK}"


@pytest.mark.parametrize("form", ["qwen-vl", "messages"])
def test_corrections_are_the_answers(directory: Path, say: Say, form: str) -> None:
    say("correct", "--directory", directory, f"{1:032x}", "a red box")
    say("correct", "--directory", directory, f"{1:032x}", "a dark red box")
    say("correct", "--directory", directory, f"{4:032x}", "a late box")
    file, report = export(say, directory, form, "--corrected-only")
    content = file.read_text()
    samples = json.loads(content) if form == "qwen-vl" else [json.loads(line) for line in content.splitlines()]
    ends = [sample["conversations"][-1]["value"] for sample in samples] if form == "qwen-vl" else [
        sample["messages"][-1]["content"][0]["text"] for sample in samples
    ]  # fmt: skip
    assert ends == ["a dark red box", "a late box"]
    assert "2 not corrected" in report


def test_images_are_as_the_model_saw_them(tmp_path: Path, say: Say) -> None:
    pixels = corners()
    parts: list[list[Any]] = [
        [part_of(fit_image(pixels, ImageInput(), 90)[1])],  # turned: blue red / white green
        [part_of(fit_image(pixels, ImageInput(), 0, part)[1]) for part in tiles(WIDTH, HEIGHT, 2, 1)],
        [part_of(fit_image(pixels, ImageInput(size=(64, 64)))[1])],  # black bars above and below
        [part_of(fit_image(pixels, ImageInput(size=(32, 64), fit="cover"))[1])],  # its middle
    ]
    content = [image(0), image(1, 0), image(1, 1), image(2), image(3), text("What?")]
    recording = Recording(tmp_path / "rec", 10.0)
    recording.append(entry(1, content, *parts), [jpeg(pixels)] * 4)
    recording.close()
    file, _ = export(say, recording.directory, "qwen-vl")
    (sample,) = json.loads(file.read_text())
    turned, left, right, barred, middle = (
        np.asarray(PIL.Image.open(file.parent / path)).astype(int) for path in sample["image"]
    )
    assert turned.shape[:2] == (64, 48)
    assert near(turned[5, 5], "blue") and near(turned[5, -5], "red") and near(turned[-5, 5], "white")
    assert left.shape == right.shape == (48, 36, 3)
    assert near(left[5, 5], "red") and near(right[5, -5], "green")
    assert barred.shape[:2] == (64, 64) and barred[2].max() < 40 and near(barred[12, 5], "red")
    assert middle.shape[:2] == (48, 24) and near(middle[5, 3], "red") and near(middle[-5, -3], "white")


def near(pixel: Any, colour: str) -> bool:
    return bool(np.abs(pixel - COLOURS[colour]).max() < 60)


def test_a_clip_is_a_video_with_its_times_or_the_list_of_its_frames(tmp_path: Path, say: Say) -> None:
    datasets = pytest.importorskip("datasets")
    recording = Recording(tmp_path / "rec", 10.0)
    times = [0.5, 1.0, 2.25]
    clip = {"type": "video", "images": [0, 1, 2], "times": times}
    frames = [plain_image(colour) for colour in ("red", "green", "blue")]
    recording.append(entry(1, [clip, text("What happened?")], *[[as_it_is()]] * 3), frames)
    recording.append(entry(2, [image(0), text("What is it?")], [as_it_is()]), frames[:1])
    recording.close()
    file, _ = export(say, recording.directory, "qwen-vl")
    video, photo = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "c1"))
    assert video["conversations"][0]["value"] == "<video>\nWhat happened?"
    assert (video["image"], photo["video"]) == (None, None)
    with av.open(str(file.parent / video["video"])) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in shown] == pytest.approx([time - times[0] for time in times], abs=0.002)
    assert all(near(pixels[24, 32].astype(int), colour) for (_, pixels), colour in zip(shown, COLOURS, strict=False))
    file, _ = export(say, recording.directory, "messages")
    video, _ = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "c2"))
    assert [(file.parent / path).read_bytes() for path in video["messages"][0]["content"][0]["video"]] == frames


def test_a_clips_frames_may_be_smaller_than_what_was_published(tmp_path: Path, say: Say) -> None:
    small = jpeg(corners()[::2, ::2])
    part = part_of(fit_image(corners(), ImageInput(size=(32, 64), fit="cover"))[1])
    recording = Recording(tmp_path / "rec", 10.0)
    recording.append(entry(1, [image(0), text("What?")], [part]), [small])
    recording.close()
    file, _ = export(say, recording.directory, "qwen-vl")
    (sample,) = json.loads(file.read_text())
    middle = np.asarray(PIL.Image.open(file.parent / sample["image"])).astype(int)
    assert middle.shape[:2] == (24, 12) and near(middle[3, 2], "red") and near(middle[-3, -2], "white")


def test_an_answer_without_its_images_is_left_out(directory: Path, say: Say) -> None:
    for path in (directory / "images").rglob("*.jpg"):
        if path.read_bytes() == plain_image("red"):
            path.unlink()
    file, report = export(say, directory, "messages")
    assert "1 without its images" in report and len(file.read_text().splitlines()) == 2


def test_an_export_overwrites_nothing(directory: Path, say: Say) -> None:
    file, _ = export(say, directory, "messages")
    before = file.stat()
    status, _, err = say("export", "--directory", directory, "--format", "messages", file.parent)
    assert status == 2 and "is there already" in err
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    status, _, err = say("export", "--directory", directory, "--format", "messages", directory.parent / "set.jsonl")
    assert status == 2 and "OUT is a directory" in err and not (directory.parent / "set.jsonl").exists()


def test_an_export_is_as_private_as_the_recording(directory: Path, say: Say) -> None:
    file, _ = export(say, directory, "messages")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
