"""`qwen3vl-ros batch`: many images, one line each, and a run that goes on where another one stopped."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from qwen3vl_ros.action import AskImage

import child_process
from qwen3vl_ros.cli.batch_inputs import BatchImage, InputError, images_of
from qwen3vl_ros.cli.batch_results import ResultsError, open_results
from qwen3vl_ros.cli.main import main
from scripted_vlm import WAIT, Goal, ScriptedVlm, until_cancelled

pytest_plugins = ["scripted_fixtures"]
pytestmark = pytest.mark.usefixtures("own_signals")
Result = AskImage.Result


@pytest.fixture
def scripted(scripted_server: ScriptedVlm) -> ScriptedVlm:
    scripted_server.rewrite(says_width)
    return scripted_server


def width_of(goal: Goal) -> int:
    if goal.request.images:
        return int(goal.request.images[0].width)
    (image,) = goal.request.compressed_images
    return PIL.Image.open(io.BytesIO(bytes(image.data))).width


def says_width(goal: Goal) -> Result:
    return goal.result(text=str(width_of(goal)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, number n of which is 10 + n pixels wide."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        PIL.Image.new("RGB", (10 + number, 8)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def batch(*words: str | Path) -> int:
    return main(["batch", "--wait", str(WAIT), *map(str, words)])


def lines(path: Path) -> dict[str, Any]:
    """The lines of a file of results, by their image's name and page."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    names = [f"{Path(line['image']).name}{line.get('page', '')}" for line in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


@pytest.mark.ros
def test_every_image_has_a_line_and_a_second_run_asks_nothing(
    scripted: ScriptedVlm, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    words = (folder, "--task", "caption", "--prompt", "shortly", "--out", out)
    assert batch(*words) == 0
    found = lines(out)
    assert {name: line["text"] for name, line in found.items()} == {f"{n}.png": str(10 + n) for n in range(5)}
    line = found["3.png"]
    assert (line["image"], line["task"], line["prompt"], line["error"]) == (
        str(folder / "3.png"),
        "caption",
        "shortly",
        None,
    )
    assert {goal.request.task for goal in scripted.goals} == {"caption"}
    assert "5 images were asked about, 0 were there before; 0 of all failed" in capfd.readouterr().err
    assert batch(*words) == 0
    assert len(scripted.goals) == 5
    assert "0 images were asked about, 5 were there before" in capfd.readouterr().err


@pytest.mark.ros
def test_errors_are_lines_and_are_asked_again_on_request_alone(
    scripted: ScriptedVlm, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "5.jpg").write_bytes(b"no image at all")
    refused = True

    def refuses_some(goal: Goal) -> Result:
        if goal.request.compressed_images and bytes(goal.request.compressed_images[0].data).endswith(b"broken"):
            return goal.result(Result.BAD_IMAGE, "The image is broken.")
        if refused and width_of(goal) == 12:
            return goal.result(Result.ENGINE_ERROR, "The engine tripped.", text="1")
        return says_width(goal)

    scripted.script = refuses_some
    out = tmp_path / "results.jsonl"
    words = (folder, "--prompt", "How wide?", "--out", out)
    assert batch(*words) == 1
    errors = {name: line["error"] for name, line in lines(out).items() if line["error"]}
    assert {name: error["code"] for name, error in errors.items()} == {
        "2.png": "ENGINE_ERROR",
        "5.jpg": "BAD_IMAGE",
        "broken.png": "BAD_IMAGE",
    }
    assert errors["2.png"]["message"] == "The engine tripped."
    assert "5.jpg" in errors["5.jpg"]["message"]
    asked = len(scripted.goals)
    assert batch(*words) == 1
    assert len(scripted.goals) == asked
    refused = False
    assert batch(*words, "--retry") == 1
    assert lines(out)["2.png"]["text"] == "12"
    assert len(lines(out)) == 7


@pytest.mark.ros
def test_no_more_images_are_asked_about_at_a_time_than_wanted(
    scripted: ScriptedVlm, folder: Path, tmp_path: Path
) -> None:
    lock, open_goals, most = threading.Lock(), 0, 0
    three = threading.Barrier(3)

    def counts(goal: Goal) -> Result:
        nonlocal open_goals, most
        with lock:
            open_goals += 1
            most = max(most, open_goals)
        if width_of(goal) < 13:  # the first three are there together, or none is answered
            three.wait(WAIT)
        with lock:
            open_goals -= 1
        return says_width(goal)

    scripted.script = counts
    assert batch(folder, "--prompt", "?", "--concurrency", "3", "--out", tmp_path / "results.jsonl") == 0
    assert most == 3


@pytest.mark.ros
def test_a_node_that_goes_away_ends_the_batch_and_the_rest_is_asked_later(
    scripted: ScriptedVlm, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def goes_away(goal: Goal) -> Result:
        return says_width(goal) if width_of(goal) < 12 else goal.result(Result.SHUTDOWN, "The node was shut down.")

    scripted.script = goes_away
    out = tmp_path / "results.jsonl"
    words = (folder, "--prompt", "?", "--concurrency", "1", "--out", out)
    assert batch(*words) != 0
    assert set(lines(out)) == {"0.png", "1.png"}
    assert "The node was shut down. The same command goes on where this one stopped." in capfd.readouterr().err
    scripted.script = says_width
    assert batch(*words) == 0
    assert len(lines(out)) == 5


@pytest.mark.ros
def test_ctrl_c_cancels_what_is_open_and_keeps_what_was_answered(
    scripted: ScriptedVlm, folder: Path, tmp_path: Path
) -> None:
    waiting = threading.Event()

    def answers_one(goal: Goal) -> Result:
        if width_of(goal) == 10:
            return says_width(goal)
        waiting.set()
        return until_cancelled(goal)

    scripted.script = answers_one
    out = tmp_path / "results.jsonl"
    words = ("batch", str(folder), "--prompt", "?", "--concurrency", "1", "--out", str(out), "--wait", str(WAIT))
    process = subprocess.Popen(child_process.command("qwen3vl_ros.cli.main", *words), stderr=subprocess.PIPE, text=True)
    assert waiting.wait(WAIT)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert "Stopped. The same command goes on where this one stopped." in told
    assert "Traceback" not in told
    assert scripted.goals[-1].cancelled.wait(WAIT)
    assert set(lines(out)) == {"0.png"}


# --- the file of results ----------------------------------------------------------------------------------------------

ASKED = {"prompt": "What?", "task": "", "slots": None}
DONE = {"error": None, "text": "a"}


def test_a_line_that_was_not_finished_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with open_results(path, ASKED, retry=False) as results:
        results.add(BatchImage("a.png"), DONE)
        results.add(BatchImage("b.pdf", 2), DONE)
    path.write_bytes(path.read_bytes()[:-9])
    with open_results(path, ASKED, retry=False) as results:
        assert results.done == {BatchImage("a.png")}
        results.add(BatchImage("b.pdf", 2), DONE)
    assert list(lines(path)) == ["a.png", "b.pdf2"]


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with open_results(path, ASKED, retry=False) as results:
        results.add(BatchImage("a.png"), DONE)
        with pytest.raises(ResultsError, match=r"is being written by another batch"):
            open_results(path, ASKED, retry=False).__enter__()
    with pytest.raises(ResultsError, match=r"answers to another question, line 1 by its prompt and task"):
        open_results(path, ASKED | {"prompt": "Who?", "task": "count"}, retry=False).__enter__()
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    for retry in (False, True):
        with pytest.raises(ResultsError, match=r"notes.txt, line 1: no result of a batch"):
            open_results(notes, ASKED, retry=retry).__enter__()
    assert notes.read_text() == "my notes\n"


# --- the images -------------------------------------------------------------------------------------------------------


def test_images_come_from_files_folders_and_patterns_each_once(folder: Path) -> None:
    (folder / "deep").mkdir()
    PIL.Image.new("RGB", (4, 4)).save(folder / "deep" / "x.JPG", "JPEG")
    names = [Path(image.path).name for image in images_of([str(folder / "3.png"), str(folder), f"{folder}/**/*"])]
    assert names == ["3.png", "0.png", "1.png", "2.png", "4.png", "x.JPG"]
    for nothing in (f"{folder}/*.gif", "/nowhere"):
        with pytest.raises(InputError, match=r"There is no file or folder"):
            images_of([nothing])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no images: no files that end in \.jpg"):
        images_of([str(folder / "empty")])


@pytest.mark.ros
def test_the_pages_of_a_document_are_images(scripted: ScriptedVlm, tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="pypdfium2, which reads PDF documents, is not installed here")
    pages = [PIL.Image.new("RGB", (300, 400), colour) for colour in ("red", "blue", "white")]
    path = tmp_path / "manual.pdf"
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:])
    assert images_of([str(path)]) == [BatchImage(str(path), page) for page in (1, 2, 3)]

    def sees(goal: Goal) -> Result:
        (image,) = goal.request.images
        return goal.result(text=f"{image.width}x{image.height} {bytes(image.data[:3]).hex()}")

    scripted.script = sees
    out = tmp_path / "results.jsonl"
    assert batch(path, "--task", "ocr", "--out", out) == 0
    found = {name: line["text"] for name, line in lines(out).items()}
    assert [found[f"manual.pdf{page}"].split()[0] for page in (1, 2, 3)] == ["1500x2000"] * 3
    assert found["manual.pdf3"].endswith("ffffff")
    assert found["manual.pdf1"] != found["manual.pdf2"]
    (tmp_path / "broken.pdf").write_text("%PDF-1.7 no")
    with pytest.raises(InputError, match=r"broken.pdf cannot be read as a PDF document"):
        images_of([str(tmp_path / "broken.pdf")])
