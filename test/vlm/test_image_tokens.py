"""How much of an image the model sees: the goal's number, the task's, what AUTO makes of the time. Over real DDS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builtin_interfaces.msg import Duration
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.srv import ListTasks

import third_party
from ros_client import RosClient, noise_image
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
Code = AskImage.Result
AUTO = AskImage.Goal.MAX_IMAGE_TOKENS_AUTO

METER = """
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Meter:
        '''Says how large its images are; what it claims to have taken is `per_token` s for each of their tokens.'''

        def __init__(self, progress, per_token=0.01):
            self._per_token = per_token

        def describe(self):
            return Description("meter", "none", context_length=8192, max_images=4,
                               image_input=ImageInput(32, 4096, default_tokens=300),
                               supports=frozenset({"text_only", "max_tokens", "temperature", "json_schema"}),
                               details={"advice": "llama.cpp says that more would be better"})

        def generate(self, request, cancel):
            images = [part for message in request.messages for part in message.content if not isinstance(part, str)]
            tokens = [image.shape[0] * image.shape[1] // 32**2 for image in images]
            text = "[]" if request.response_schema else " ".join(map(str, tokens))
            seconds = sum(tokens) * self._per_token
            yield Chunk(Stage.ENCODE)
            yield Chunk(Stage.DECODE, text, completion_tokens=1)
            usage = Usage(sum(tokens) + 40, sum(tokens), 0, 1, 0, seconds, seconds, seconds)
            yield Chunk(Stage.DECODE, "", "", 1, "stop", usage)

        def close(self):
            pass
"""


@pytest.fixture
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> VlmProcess:
    """The node with an engine that says what it sees, and takes 10 ms a token, so it says."""
    package = third_party.install(tmp_path / "installed", METER, {"meter": "Meter"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return start_vlm(engine="meter").wait_connected()


def seen(ros: RosClient, size: tuple[int, int] = (640, 480), *, seed: int = 0, **fields: object) -> AskImage.Result:
    result = ros.ask(images=[noise_image(*size, seed=seed)], **fields).result()
    assert result.error_code == Code.NONE, result.error_msg
    return result


def seconds(number: int) -> Duration:
    return Duration(sec=number)


def test_the_number_of_the_goal_reaches_the_model_and_a_small_image_is_enlarged_to_it(
    ros: RosClient, meter: VlmProcess
) -> None:
    usual, few, many = (seen(ros, max_image_tokens=number) for number in (0, 100, 1024))
    assert usual.text == "300"
    assert 80 <= int(few.text) <= 100
    assert 950 <= int(many.text) <= 1024
    assert [result.usage.max_image_tokens for result in (usual, few, many)] == [300, 100, 1024]
    assert not (*usual.notes, *few.notes, *many.notes)
    assert int(seen(ros, (96, 64)).text) == int(seen(ros, (96, 64), max_image_tokens=100).text) == 6


def test_a_place_in_an_enlarged_image_is_the_one_in_the_original(
    ros: RosClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]
) -> None:
    box = '[{"bbox_2d": [250, 250, 500, 750], "label": "cup"}]'
    source = METER.replace('"[]"', f"{box!r}")
    package = third_party.install(tmp_path / "installed", source, {"meter": "Meter"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    start_vlm(engine="meter").wait_connected()
    for number in (0, 2048):
        (region,) = seen(ros, (320, 200), task="locate", prompt="cup", max_image_tokens=number).regions
        roi = region.roi
        assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (80, 50, 80, 100)


def test_more_than_the_model_takes_becomes_the_most_and_a_note(ros: RosClient, meter: VlmProcess) -> None:
    result = seen(ros, max_image_tokens=5000)
    assert 3900 <= int(result.text) <= 4096 == result.usage.max_image_tokens
    assert list(result.notes) == ["max_image_tokens: 5000 were asked for, and meter takes 4096 for an image at most"]


def test_auto_takes_as_much_as_the_time_out_allows_and_says_so_before_the_answer(
    ros: RosClient, meter: VlmProcess
) -> None:
    first = seen(ros, (1920, 1440), max_image_tokens=AUTO, timeout=seconds(1000))
    assert first.usage.max_image_tokens == 300  # nothing was measured
    assert first.usage.expected_first_token_time == -1.0
    seen(ros, (1920, 1440), seed=1, max_image_tokens=600)
    chosen = []
    for number, timeout in enumerate((9, 16, 100), 2):
        image = noise_image(1920, 1440, seed=number)
        goal = ros.ask(images=[image], max_image_tokens=AUTO, timeout=seconds(timeout))
        begun = goal.wait_for_stage(AskImage.Feedback.STAGE_ENCODE)
        usage = goal.result().usage
        chosen.append(usage.max_image_tokens)
        assert begun.max_image_tokens == usage.max_image_tokens
        assert begun.expected_first_token_time == usage.expected_first_token_time
        assert 0 < usage.expected_first_token_time <= timeout / 2
        assert usage.expected_first_token_time == pytest.approx(usage.first_token_time, rel=0.05)
        assert usage.max_image_tokens >= usage.image_tokens >= 0.9 * usage.max_image_tokens
    assert 300 < chosen[0] < chosen[1] < chosen[2] == 2048
    assert seen(ros, seed=9, max_image_tokens=AUTO, timeout=seconds(1000)).text == "300"  # and enlarges nothing


def test_an_image_asked_about_again_is_expected_at_once(ros: RosClient, meter: VlmProcess) -> None:
    first = seen(ros)
    again = seen(ros)
    assert first.usage.expected_first_token_time == -1.0
    assert 0 <= again.usage.expected_first_token_time < first.usage.first_token_time / 10


def test_tasks_that_read_and_find_places_see_more_where_the_speed_allows_it(ros: RosClient, meter: VlmProcess) -> None:
    locate = {"task": "locate", "prompt": "cup"}
    unknown = seen(ros, **locate)
    assert unknown.usage.image_tokens == 300  # nothing was measured
    allowed = seen(ros, seed=1, timeout=seconds(1000), **locate)
    assert 950 <= allowed.usage.image_tokens <= 1024 == allowed.usage.max_image_tokens
    hurried = seen(ros, seed=2, timeout=seconds(8), **locate)
    assert hurried.usage.image_tokens == 300
    own = seen(ros, seed=3, timeout=seconds(1000), max_image_tokens=64, **locate)
    assert own.usage.image_tokens <= 64
    assert seen(ros, seed=4, timeout=seconds(1000), task="caption", prompt="").usage.image_tokens == 300
    assert not (*allowed.notes, *hurried.notes)


def test_the_list_of_tasks_says_which_want_more(ros: RosClient, vlm: VlmProcess) -> None:
    tasks = ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks
    of_one_image = ("locate", "detect", "point", "ocr", "ocr_fields", "parse_document")
    of_a_pair_of_frames = {"track": 300}
    assert {task.name: task.max_image_tokens for task in tasks if task.max_image_tokens} == (
        dict.fromkeys(of_one_image, 1024) | of_a_pair_of_frames
    )


def test_the_shipped_model_answers_at_its_own_size_whatever_is_asked_for(ros: RosClient, vlm: VlmProcess) -> None:
    usual = seen(ros, (640, 480))
    more = seen(ros, (640, 480), max_image_tokens=2048)
    assert usual.usage.image_tokens == more.usage.image_tokens <= 144
    assert (usual.usage.max_image_tokens, more.usage.max_image_tokens) == (144, 144)
    assert list(usual.notes) != list(more.notes)
    assert "2048 were asked for, and llama takes 144" in " ".join(more.notes)
    small = {number: seen(ros, max_image_tokens=number, size=(96, 64)).usage.image_tokens for number in (0, 100, 1000)}
    assert small[0] == small[100] == 6
    assert 120 <= small[1000] <= 144
    assert seen(ros, (640, 480), task="locate", prompt="red box").usage.image_tokens == usual.usage.image_tokens


def test_what_the_library_advises_is_logged_once(ros: RosClient, meter: VlmProcess) -> None:
    seen(ros)
    meter.stop()
    assert meter.output.count("llama.cpp says that more would be better") == 1
