"""What the node records, and corrects, over real DDS with the shipped model."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from qwen3vl_ros.srv import CorrectAnswer
from sensor_msgs.msg import CompressedImage

import child_process
from qwen3vl_ros.vlm.recorded_answers import read_answers
from ros_client import PATIENCE, RosClient, noise_image
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros


def correct(ros: RosClient, goal_id: str, text: str) -> CorrectAnswer.Response:
    return ros.call(CorrectAnswer, "/vlm/correct_answer", CorrectAnswer.Request(goal_id=goal_id, text=text))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = child_process.command("qwen3vl_ros.cli.main", "record", *words)
    return subprocess.run(line, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)


def test_questions_are_recorded_corrected_and_exported(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], tmp_path: Path
) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (96, 64), "red").save(file, "JPEG")
    directory = tmp_path / "rec"
    node = start_vlm(record__directory=str(directory), diagnostics_period=0.1)
    node.wait_connected()
    first = ros.ask("What colour is the box?", images=[noise_image()], options={"max_tokens": 4})
    said = first.result().text
    jpeg = CompressedImage(format="jpeg", data=file.getvalue())
    second = ros.ask("How many objects are there?", compressed_images=[jpeg], options={"max_tokens": 4})
    second.result()
    failed = ros.ask("What is it?", options={"temperature": 0.0}, cameras=["nowhere"])
    failed.result()
    ids = [bytes(goal.handle.goal_id.uuid).hex() for goal in (first, second, failed)]

    assert correct(ros, ids[1], "two").success
    unknown = correct(ros, "f" * 32, "two")
    assert not unknown.success and "no answer" in unknown.message
    with ros.listen(DiagnosticArray, "/diagnostics") as diagnostics:
        array = diagnostics.wait_for(lambda a: any(status.name == "vlm: recording" for status in a.status))
    (status,) = [status for status in array.status if status.name == "vlm: recording"]
    assert {pair.key: pair.value for pair in status.values}["recorded"] == "3"

    answers = list(read_answers(directory))
    assert [answer.goal_id for answer in answers] == ids
    assert [answer.correction for answer in answers] == [None, "two", None]
    assert answers[0].entry["text"] == said
    assert answers[0].entry["messages"][-1]["content"][-1]["text"] == "What colour is the box?"
    assert (directory / answers[1].entry["images"][0]["file"]).read_bytes() == file.getvalue()
    assert answers[2].entry["error"]["name"] == "BAD_REQUEST"

    held = command("correct", ids[0], "blue", "--directory", str(directory))
    assert held.returncode == 2 and "another process writes" in held.stderr
    by_node = command("correct", ids[0][:12], "blue")
    assert by_node.returncode == 0, by_node.stderr
    node.stop()
    exported = command("export", "--directory", str(directory), "--format", "qwen-vl", str(tmp_path / "set"))
    assert exported.returncode == 0, exported.stderr
    samples = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert [sample["conversations"][-1]["value"] for sample in samples] == ["blue", "two"]
    assert "1 failed" in exported.stderr


def test_a_node_that_records_nothing_takes_no_corrections(vlm: VlmProcess) -> None:
    refused = command("correct", "0" * 32, "blue", "--wait", "1")
    assert refused.returncode == 3 and "record.directory" in refused.stderr
