"""Thinking, asked for by goals and by the node's parameters, of a model that can do either. Over real DDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from qwen3vl_ros.action import AskImage

import tiny_qwen3vl
from ros_client import RosClient, noise_image
from tiny_qwen3vl import TinyModel
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
pytest_plugins = ["tiny_model_fixtures"]
Code = AskImage.Result
ON, OFF = AskImage.Goal.THINKING_ON, AskImage.Goal.THINKING_OFF


@pytest.fixture(scope="module")
def files(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model that thinks unless it is told not to."""
    template = {"tokenizer.chat_template": tiny_qwen3vl.THINKS_UNLESS_TOLD}
    model = tiny_qwen3vl.with_metadata(tiny.model, tmp_path_factory.mktemp("tiny") / "thinker.gguf", template)
    return {"llama__model": str(model), "llama__mmproj": str(tiny.mmproj)}


@pytest.fixture
def thinker(files: dict[str, str], start_vlm: Callable[..., VlmProcess]) -> Iterator[Callable[..., VlmProcess]]:
    def start(**parameters: object) -> VlmProcess:
        return start_vlm(engine="llama", **files, **parameters).wait_connected()

    return start


def test_goal_decides_whether_the_model_thinks_and_for_how_long(
    ros: RosClient, thinker: Callable[..., VlmProcess]
) -> None:
    thinker()
    images, options = [noise_image()], {"max_tokens": 24}
    by_itself = ros.ask(images=images, options=options).result()
    assert (by_itself.error_code, bool(by_itself.reasoning)) == (Code.NONE, True), by_itself.error_msg
    off = ros.ask(images=images, options=options, thinking=OFF).result()
    assert (off.error_code, off.reasoning) == (Code.NONE, ""), off.error_msg
    assert off.text
    short = ros.ask(images=images, options=options, thinking=ON, max_reasoning_tokens=3).result()
    assert short.error_code == Code.NONE, short.error_msg
    assert by_itself.reasoning.startswith(short.reasoning)
    assert 0 < len(short.reasoning) < len(by_itself.reasoning)
    assert short.text
    service = ros.ask_service(prompt="What is it?", images=images, thinking=OFF)
    assert (service.error_code, service.reasoning) == (Code.NONE, ""), service.error_msg


def test_parameters_decide_where_a_goal_does_not_and_the_limit_leaves_the_answer_its_tokens(
    ros: RosClient, thinker: Callable[..., VlmProcess]
) -> None:
    thinker(thinking="off", max_reasoning_tokens=5, max_tokens=6)
    off = ros.ask(images=[noise_image()]).result()
    assert (off.error_code, off.reasoning, off.usage.completion_tokens) == (Code.NONE, "", 6), off.error_msg
    on = ros.ask(images=[noise_image()], thinking=ON).result()
    assert (on.error_code, on.usage.completion_tokens) == (Code.NONE, 11), on.error_msg
    assert on.reasoning
    longer = ros.ask(images=[noise_image()], thinking=ON, max_reasoning_tokens=9).result()
    assert longer.usage.completion_tokens == 15
    asked = ros.ask(images=[noise_image()], thinking=ON, options={"max_tokens": 7}).result()
    assert asked.usage.completion_tokens == 7
    assert ros.set_parameter("thinking", "on").successful
    assert ros.ask(images=[noise_image()]).result().reasoning
    assert not ros.set_parameter("thinking", "perhaps").successful


def test_default_that_the_model_cannot_honour_is_left_out(ros: RosClient, start_vlm: Callable[..., VlmProcess]) -> None:
    start_vlm(thinking="on", max_reasoning_tokens=5).wait_connected()  # the shipped model, which never thinks
    result = ros.ask(images=[noise_image()], options={"max_tokens": 2}).result()
    assert (result.error_code, result.reasoning) == (Code.NONE, ""), result.error_msg
    refused = ros.ask(images=[noise_image()], thinking=ON).result()
    assert refused.error_code == Code.UNSUPPORTED
    assert refused.error_msg.startswith("thinking: the model ")
