"""The memory beside goals, over real DDS: it lets them go before, and answers while the model is busy with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import VlmStatus

from lamp import Lamp, Room
from ros_client import RosClient

pytestmark = pytest.mark.ros
pytest_plugins = ["lamp_fixtures"]
Code = AskImage.Result


def where_last(ros: RosClient, what: str) -> AskImage.Result:
    return ros.ask(what, task="where_last", options={"temperature": -1.0}).result()


def test_where_last_is_answered_while_the_model_is_busy_and_refused_where_there_is_no_memory(
    ros: RosClient, lamp: Lamp, room: Room, tmp_path: Path
) -> None:
    room.switch(light=True)
    memory = {"memory__enabled": True, "memory__directory": str(tmp_path / "memory"), "memory__period": 0.1}
    node = lamp.start(**memory, busy_policy="reject", queue_size=0)
    while not where_last(ros, "lamp").regions:
        pass
    busy = ros.ask("Please wait.")
    busy.wait_for_stage(AskImage.Feedback.STAGE_PREFILL)
    heard = len(lamp.heard())
    room.switch(light=False)
    found = where_last(ros, "the lamp")
    assert found.error_code == Code.NONE, found.error_msg
    assert found.text.startswith("lamp: ") and found.regions[0].roi.width == 80
    assert found.regions[0].position_error.startswith("NO_DEPTH")
    assert not busy.done and len(lamp.heard()) == heard  # nor has the memory taken the slot
    busy.cancel()
    busy.result()
    while not (gone := where_last(ros, "lamp")).text.startswith("lamp: last seen"):
        pass
    assert gone.moments[0].end_stamp.sec > 0
    node.stop()
    assert "there may be people in the images" in node.output
    lamp.start().wait_status(lambda status: status.state == VlmStatus.READY)
    refused = where_last(ros, "lamp")
    assert refused.error_code == Code.UNSUPPORTED and "memory.enabled" in refused.error_msg
