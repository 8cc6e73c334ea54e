"""What a caller sends can be as strange as it likes: the node goes on, and everybody gets an answer or a reason."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.srv import ListTasks
from sensor_msgs.msg import CompressedImage

import third_party
from ros_client import Goal, RosClient, noise_image
from vlm_process import VlmProcess

Code = AskImage.Result
Stage = AskImage.Feedback

ENDLESS = {"type": "string", "minLength": 40, "maxLength": 60, "not": {"pattern": "^(.+)+\\u0001$"}}
"""What the model answers to this holds a regular expression up for longer than anybody lives."""

SLOW = {"properties": {f"k{n}": {"type": ["string", "null"], "maxLength": 5} for n in range(498)}}
"""As many objects as are taken: to check it takes a few tenths of a second."""


def ask(ros: RosClient, schema: Any = None, **fields: Any) -> Goal:
    if schema is not None:
        fields["response_schema"] = schema if isinstance(schema, str) else json.dumps(schema)
    return ros.ask(**({"images": [noise_image()]} | fields))


@contextmanager
def listening(ros: RosClient) -> Iterator[Callable[[], int]]:
    """Ask for the node's tasks again and again; gives how many replies came."""
    replies, over = 0, threading.Event()

    def listen() -> None:
        nonlocal replies
        while not over.is_set():
            assert ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks
            replies += 1

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield lambda: replies
    finally:
        over.set()
        thread.join()


def is_well(ros: RosClient) -> bool:
    """Whether the next question is answered."""
    return ask(ros, options={"max_tokens": 2}).result().error_code == Code.NONE


@pytest.mark.once
def test_a_schema_that_could_hold_an_answer_up_for_ever_holds_nobody_up(ros: RosClient, vlm: VlmProcess) -> None:
    with listening(ros) as replies:
        goal = ask(ros, ENDLESS, options={"max_tokens": 100})
        goal.wait_for_text()
        before = replies()
        result = goal.result()
        assert replies() - before >= 10
    assert result.error_code == Code.BAD_REQUEST
    assert "longer than" in result.error_msg and "pattern" in result.error_msg
    assert len(json.loads(result.text)) >= 40
    assert is_well(ros)


@pytest.mark.once
def test_a_schema_that_holds_an_answer_up_is_cancelled_at_once(ros: RosClient, vlm: VlmProcess) -> None:
    goal = ask(ros, ENDLESS, options={"max_tokens": 100})
    while len(goal.next_feedback().text) < 40:
        assert not goal.done
    assert goal.cancel()
    assert goal.result().error_code == Code.CANCELLED
    assert is_well(ros)


@pytest.mark.once
def test_a_question_with_such_a_schema_still_ends_with_its_time(ros: RosClient, vlm: VlmProcess) -> None:
    exponential = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": exponential | {"a40": {"type": "string", "maxLength": 3}}, "$ref": "#/$defs/a0"}
    result = ask(ros, schema).result()
    assert result.error_code in (Code.BAD_REQUEST, Code.TIMEOUT)
    assert is_well(ros)


@pytest.mark.once
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef", "$schema", "$id"])
def test_a_schema_that_leads_out_is_refused_before_any_work(ros: RosClient, vlm: VlmProcess, keyword: str) -> None:
    goal = ask(ros, {"type": "object", "properties": {"a": {"type": "string", keyword: "http://127.0.0.1:9/x"}}})
    result = goal.result()
    assert result.error_code == Code.BAD_REQUEST
    assert keyword in result.error_msg
    assert not [message for message in goal.seen if message.stage != Stage.QUEUED]


@pytest.mark.once
@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a\0b"},
        {"enum": ["\0"]},
        {"properties": {"\0": {}}, "required": ["\0"]},
        {"type": "string", "pattern": "^\\u0000$"},
        {"type": "string", "pattern": "^a{1,999999}$"},
        {"type": "string", "pattern": "(" * 500},
        "[" * 60_000,
        {"$ref": "#"},
    ],
)
def test_a_schema_that_would_end_the_engines_process_is_refused(
    ros: RosClient, vlm: VlmProcess, schema: dict[str, Any]
) -> None:
    worker = vlm.worker()
    result = ask(ros, schema).result()
    assert result.error_code == Code.BAD_REQUEST
    assert re.match(r"(a name in )?response_schema\b", result.error_msg)
    assert vlm.worker() == worker


@pytest.mark.once
@pytest.mark.parametrize("text", ['say "hi"', "C:\\temp", "a\nb", "a\tb", "猫 🦊"])
def test_a_constant_that_json_escapes_is_answered(ros: RosClient, vlm: VlmProcess, text: str) -> None:
    for schema, value in (
        ({"const": text}, text),
        ({"enum": [text]}, text),
        ({"type": "object", "properties": {text: {"const": 1}}, "required": [text]}, {text: 1}),
    ):
        result = ask(ros, schema).result()
        assert result.error_msg == ""
        assert json.loads(result.json) == json.loads(result.text) == value


@pytest.mark.once
def test_bounds_of_numbers_and_empty_names_are_kept(ros: RosClient, vlm: VlmProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"": {"type": "integer", "minimum": 7, "maximum": 9}},
        "required": [""],
        "additionalProperties": False,
    }
    for seed in range(5):
        result = ask(ros, schema, options={"temperature": 2.0, "seed": seed}).result()
        assert result.error_msg == ""
        assert 7 <= json.loads(result.json)[""] <= 9


def huge_png() -> CompressedImage:
    """100 million pixels."""
    return CompressedImage(format="png", data=cv2.imencode(".png", np.zeros((10_000, 10_000), np.uint8))[1].tobytes())


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"response_schema": json.dumps(SLOW)}, id="slow schema"),
        pytest.param({"prompt": "word " * 2_000_000}, id="prompt of 10 MB"),
        pytest.param({"images": [], "compressed_images": [huge_png()]}, id="image of 100 megapixels"),
        pytest.param(
            {"task": "classify", "slots": json.dumps({"labels": [f"w{n}" for n in range(5000)]})}, id="labels"
        ),
        pytest.param(
            {"task": "ocr_fields", "slots": json.dumps({"fields": [f"w{n}" for n in range(5000)]})}, id="words"
        ),
    ],
)
def test_accepting_cancelling_and_status_wait_for_no_heavy_goal(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], fields: dict[str, Any]
) -> None:
    start_vlm(llama__slots=1).wait_connected()  # so that what is asked last has to wait
    running = ask(ros, {"type": "array", "items": {"type": "integer"}, "minItems": 900}, options={"max_tokens": 3000})
    running.wait_for_text()
    heavy = ask(ros, **fields)
    assert heavy.accepted
    # One that waits behind it is cancelled, the tasks are listed, while the first one goes on.
    waiting = ask(ros)
    assert waiting.cancel()
    assert waiting.result().error_code == Code.CANCELLED
    assert ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks
    assert not running.done
    running.cancel()
    assert running.result().error_code == Code.CANCELLED
    result = heavy.result()
    assert result.error_code == Code.NONE or len(result.error_msg) > 20
    assert is_well(ros)


def test_an_image_that_takes_too_much_to_decode_is_refused_and_takes_it_from_nobody(
    ros: RosClient, vlm: VlmProcess
) -> None:
    """100 megapixels with transparency in 300 kB: Pillow needs 1.6 GB for them."""
    before = peak_memory(vlm)
    pixels = np.zeros((10_000, 10_000, 4), np.uint8)
    bomb = CompressedImage(format="png", data=cv2.imencode(".png", pixels)[1].tobytes())
    result = ask(ros, images=[], compressed_images=[bomb]).result()
    assert result.error_code == Code.BAD_IMAGE
    assert "send a smaller one" in result.error_msg
    assert peak_memory(vlm) < before + 300e6
    assert is_well(ros)


def peak_memory(vlm: VlmProcess) -> float:
    """Bytes that the node's process has had resident at most."""
    status = Path(f"/proc/{vlm.pid}/status").read_text()
    return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def test_status_is_told_while_a_huge_image_is_decoded(ros: RosClient, vlm: VlmProcess) -> None:
    goal = ask(ros, images=[], compressed_images=[huge_png()])
    assert ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks
    assert not goal.done
    assert goal.cancel()
    assert goal.result().error_code == Code.CANCELLED
    assert is_well(ros)


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Parameters of a node whose engine aborts where the prompt tells it to."""
    package = third_party.install(tmp_path / "installed", third_party.DEADLY, {"deadly": "Deadly"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return {"engine": "deadly"}


@pytest.mark.once
def test_a_request_whose_worker_died_is_not_given_to_another_one(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], deadly: dict[str, str]
) -> None:
    node = start_vlm(**deadly).wait_connected()
    first = node.worker()
    result = ask(ros, prompt="Die.").result()
    assert result.error_code == Code.ENGINE_CRASHED
    assert "SIGABRT" in result.error_msg
    assert ask(ros, prompt="Live.").result().error_code == Code.NONE
    assert node.wait_ready().engine_restarts == 1
    assert node.worker() != first
