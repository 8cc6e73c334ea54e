"""The files of a recording: size, shared images, what a crash or a full disk leaves, corrections. No ROS graph."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen3vl_ros.vlm.recorded_answers import RecordingError, find_answer, read_answers, segments_of
from qwen3vl_ros.vlm.recording import Recording


def entry(number: int, images: int = 1, text: str = "a red box") -> dict[str, Any]:
    return {"goal_id": f"{number:032x}", "text": text, "images": [{"frame_id": "lens"} for _ in range(images)]}


def image(number: int, size: int = 1000) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def images_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in (directory / "images").rglob("*.jpg")}


def images_of(directory: Path) -> set[str]:
    return {one["file"] for answer in read_answers(directory) for one in answer.entry["images"]}


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    opened = Recording(tmp_path / "rec", 1.0)
    yield opened
    opened.close()


def test_what_is_written_is_read_with_its_images(recording: Recording) -> None:
    recording.append(entry(1, 2, "zwei Kisten \N{PACKAGE}"), [image(1), image(2)])
    recording.append(entry(2, 0), [])
    first, second = read_answers(recording.directory)
    assert (first.goal_id, first.entry["text"]) == (f"{1:032x}", "zwei Kisten \N{PACKAGE}")
    assert [(recording.directory / one["file"]).read_bytes() for one in first.entry["images"]] == [image(1), image(2)]
    assert first.entry["images"][0]["frame_id"] == "lens"
    assert second.entry["images"] == []


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        recording = Recording(tmp_path / "deep" / "rec", 1.0)
        recording.append(entry(1), [image(1)])
        recording.close()
    finally:
        os.umask(before)
    for path in (recording.directory, *recording.directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert "people in the images" in (recording.directory / "NOTICE").read_text()


def test_an_image_of_several_answers_is_there_once_and_stays_for_the_last_one(recording: Recording) -> None:
    for number in range(200):  # 200 of 50 kB do not fit, the shared one always does
        recording.append(entry(number, 2), [image(0), image(1 + number, 50_000)])
    answers = list(read_answers(recording.directory))
    assert 10 <= len(answers) < 20
    assert answers[-1].goal_id == f"{199:032x}"
    assert images_in(recording.directory) == images_of(recording.directory)


@pytest.mark.parametrize("size", [400, 20_000, 400_000])
def test_the_oldest_answers_go_for_new_ones_and_it_never_exceeds_its_size(recording: Recording, size: int) -> None:
    for number in range(3_000_000 // size if size > 400 else 1500):
        recording.append(entry(number, text="x" * 300), [image(number, size)])
        assert recording.size <= 1_000_000
    assert size_of(recording.directory) == recording.size
    kept = [int(answer.goal_id, 16) for answer in read_answers(recording.directory)]
    assert kept == list(range(kept[0], number + 1)) and kept[0] > 0
    assert recording.size > 1_000_000 - 60_000 - 2 * size
    assert images_in(recording.directory) == images_of(recording.directory)


def test_images_that_are_asked_about_again_and_again_leave_room_for_new_ones(recording: Recording) -> None:
    for number in range(400):
        recording.append(entry(number), [image(number % 18, 50_000)])
    recording.append(entry(1000), [image(1000, 300_000)])
    assert [answer.goal_id for answer in read_answers(recording.directory)][-1] == f"{1000:032x}"
    assert size_of(recording.directory) <= 1_000_000
    assert images_in(recording.directory) == images_of(recording.directory)


def test_an_answer_larger_than_the_recording_is_refused_and_deletes_nothing(recording: Recording) -> None:
    recording.append(entry(1), [image(1)])
    with pytest.raises(RecordingError, match=r"record\.megabytes"):
        recording.append(entry(2), [image(2, 1_000_000)])
    assert [answer.goal_id for answer in read_answers(recording.directory)] == [f"{1:032x}"]


def test_a_start_after_a_crash_reads_on_and_tidies_up(tmp_path: Path) -> None:
    crashed = Recording(tmp_path, 1.0)
    crashed.append(entry(1), [image(1)])
    crashed.append(entry(2), [image(2)])
    crashed.close()
    (segment,) = segments_of(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-20])  # in the middle of the second line
    (tmp_path / "incoming").write_bytes(b"half an image")
    recording = Recording(tmp_path, 1.0)
    recording.append(entry(3), [image(3)])
    assert [int(answer.goal_id, 16) for answer in read_answers(tmp_path)] == [1, 3]
    assert not (tmp_path / "incoming").exists()
    assert images_of(tmp_path) <= images_in(tmp_path)
    assert size_of(tmp_path) == recording.size
    recording.close()


def test_a_smaller_size_holds_from_the_next_start_on(tmp_path: Path) -> None:
    before = Recording(tmp_path, 3.0)
    for number in range(50):
        before.append(entry(number), [image(number, 50_000)])
    before.close()
    after = Recording(tmp_path, 1.0)
    assert size_of(tmp_path) == after.size <= 1_000_000
    assert [int(answer.goal_id, 16) for answer in read_answers(tmp_path)][-1] == 49
    assert images_in(tmp_path) == images_of(tmp_path)
    after.close()


@pytest.mark.parametrize("room", [0, 700, 1100, 2300])
def test_a_full_disk_leaves_nothing_half_written(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    recording.append(entry(1), [image(1)])
    before, left, write = size_of(recording.directory), [room], os.write

    def disk(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as full:
        full.setattr(os, "write", disk)
        with pytest.raises(OSError, match="No space left"):
            recording.append(entry(2, 2, "x" * 500), [image(2), image(3)])
    assert size_of(recording.directory) == before == recording.size
    recording.append(entry(3), [image(2)])
    assert [int(answer.goal_id, 16) for answer in read_answers(recording.directory)] == [1, 3]
    assert images_in(recording.directory) == images_of(recording.directory)


def test_a_directory_of_other_files_is_refused_untouched(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RecordingError, match=r"thesis\.tex"):
        Recording(tmp_path, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_only_one_writes_it_at_a_time(recording: Recording) -> None:
    with pytest.raises(RecordingError, match="another process writes"):
        Recording(recording.directory, 1.0)


def test_a_correction_is_found_with_its_answer_and_the_last_one_counts(recording: Recording) -> None:
    recording.append({**entry(0), "goal_id": "abcd" + "0" * 28}, [image(1)])
    recording.append({**entry(0), "goal_id": "abce" + "0" * 28}, [image(1)])
    recording.correct("ABCD0000-00000000-00000000-00000000", "a blue box")
    recording.correct("abcd", "a green box")
    assert [answer.correction for answer in read_answers(recording.directory)] == ["a green box", None]
    assert find_answer(recording.directory, "abcd0").correction == "a green box"
    assert recording.size == size_of(recording.directory)


@pytest.mark.parametrize(
    ("goal_id", "text", "why"),
    [
        ("abcf", "blue", "no answer 'abcf'"),
        ("0000", "blue", "2 answers begin with '0000'"),
        ("../x", "blue", "no identifier"),
        ("", "blue", "no identifier"),
        (f"{1:032x}", " \n", "is empty"),
        (f"{1:032x}", "x" * 100_001, "100001 characters"),
    ],
)
def test_a_correction_of_nothing_is_refused(recording: Recording, goal_id: str, text: str, why: str) -> None:
    recording.append(entry(1), [image(1)])
    recording.append(entry(2), [image(1)])
    with pytest.raises(RecordingError, match=why):
        recording.correct(goal_id, text)


def test_lines_that_are_no_answers_are_skipped(recording: Recording) -> None:
    recording.append(entry(1), [image(1)])
    (segment,) = segments_of(recording.directory)
    with segment.open("ab") as file:
        file.write(b'nonsense\n[1]\n"a"\n{}\n\xff\xfe\n' + b"[" * 5000 + b"\n" + json.dumps(entry(2)).encode())
    assert [int(answer.goal_id, 16) for answer in read_answers(recording.directory)] == [1, 2]


def test_a_deleted_recording_is_noticed(recording: Recording) -> None:
    assert recording.is_there
    for path in sorted(recording.directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert not recording.is_there


def test_what_is_no_recording_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is no recording"):
        next(read_answers(tmp_path))
