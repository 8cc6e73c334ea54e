"""What the node promises to somebody who asks, over real DDS with a real model."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer, VlmStatus
from rclpy.duration import Duration as Offset
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from ros_client import SENSOR_DATA, RosClient, noise_image
from vlm_process import VlmProcess, alive, shared_memory, wait_gone

Code = AskImage.Result
Stage = AskImage.Feedback

# An answer that the model cannot end before it is long: grammar forbids it.
LONG = {"response_schema": json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 800})}
LONG_OPTIONS = {"options": {"max_tokens": 3000}}


def long_goal(ros: RosClient, **fields: object) -> object:
    return ros.ask(images=[noise_image()], **LONG, **LONG_OPTIONS, **fields)


def fill_slots(ros: RosClient) -> list[object]:
    """As many long answers as the engine gives at once; what is asked next has to wait."""
    goals = [long_goal(ros) for _ in range(2)]
    for goal in goals:
        goal.wait_for_text()
    return goals


def end(*goals: object) -> None:
    for goal in goals:
        goal.cancel()
    for goal in goals:
        goal.result()


# --- answers ---------------------------------------------------------------------------------------------------------


def test_tokens_stream_and_the_deltas_add_up_to_the_answer(ros: RosClient, vlm: VlmProcess) -> None:
    goal = ros.ask(images=[noise_image()], options={"max_tokens": 12})
    feedback = goal.feedback_until_result()
    result = goal.result()
    assert goal.status() == "succeeded"
    assert result.error_code == Code.NONE and result.error_msg == ""
    assert "".join(message.delta for message in feedback) == result.text
    assert [message.sequence for message in feedback] == list(range(len(feedback)))
    stages = [message.stage for message in feedback]
    assert stages == sorted(stages) and stages[-1] == Stage.STAGE_DECODE
    assert feedback[-1].text == result.text
    assert result.finish_reason in ("stop", "length")
    assert result.usage.prompt_tokens > result.usage.image_tokens == 6
    assert 1 <= result.usage.completion_tokens <= 12
    assert result.engine == "llama" and result.model
    assert len(result.image_headers) == 1


def test_a_second_question_about_the_same_image_reuses_the_first_ones_work(ros: RosClient, vlm: VlmProcess) -> None:
    image = noise_image(224, 224, seed=1)
    first = ros.ask("What colour is the box?", images=[image]).result()
    second = ros.ask("How many objects are there?", images=[image]).result()
    assert first.usage.cached_tokens < first.usage.image_tokens <= second.usage.cached_tokens
    assert second.usage.encode_time == 0.0


def test_the_service_answers_like_the_action(ros: RosClient, vlm: VlmProcess) -> None:
    goal = ros.ask("What colour is the box?", images=[noise_image()], options={"max_tokens": 8})
    request = AskImage.Goal().options
    request.temperature, request.max_tokens = 0.0, 8
    response = ros.ask_service(prompt="What colour is the box?", images=[noise_image()], options=request)
    assert response.error_code == Code.NONE
    assert response.text == goal.result().text


def test_json_answers_satisfy_the_schema(ros: RosClient, vlm: VlmProcess) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]}
    result = ros.ask(images=[noise_image()], response_schema=json.dumps(schema)).result()
    assert json.loads(result.json)["colour"] in ("red", "green")


def test_json_cut_off_by_max_tokens_is_a_bad_response_with_the_raw_text(ros: RosClient, vlm: VlmProcess) -> None:
    result = ros.ask(images=[noise_image()], **LONG, options={"max_tokens": 5}).result()
    assert result.error_code == Code.BAD_RESPONSE
    assert "max_tokens" in result.error_msg and result.text and not result.json


def test_text_only_questions_are_answered_without_a_camera(ros: RosClient, vlm: VlmProcess) -> None:
    result = ros.ask(text_only=True, options={"max_tokens": 4}).result()
    assert result.error_code == Code.NONE and result.usage.image_tokens == 0 and result.image_headers == []


def test_jpeg_and_png_come_after_raw_images(ros: RosClient, vlm: VlmProcess) -> None:
    import cv2

    pixels = np.zeros((64, 64, 3), np.uint8)
    encoded = [
        CompressedImage(format=kind, data=cv2.imencode(f".{kind}", pixels)[1].tobytes()) for kind in ("jpeg", "png")
    ]
    for number, message in enumerate(encoded):
        message.header.frame_id = f"compressed{number}"
    result = ros.ask(images=[noise_image()], compressed_images=encoded, options={"max_tokens": 4}).result()
    assert result.error_code == Code.NONE, result.error_msg
    assert [header.frame_id for header in result.image_headers] == ["", "compressed0", "compressed1"]
    assert result.usage.image_tokens == 6 + 4 + 4


def test_a_one_pixel_image_is_answered(ros: RosClient, vlm: VlmProcess) -> None:
    assert ros.ask(images=[noise_image(1, 1)], options={"max_tokens": 2}).result().error_code == Code.NONE


def test_an_image_takes_no_more_tokens_than_the_goal_allows(ros: RosClient, vlm: VlmProcess) -> None:
    image, options = noise_image(320, 240), {"max_tokens": 2}
    usual = ros.ask(images=[image], options=options).result()
    few = ros.ask(images=[image], options=options, max_image_tokens=20).result()
    assert (usual.error_code, few.error_code) == (Code.NONE, Code.NONE), few.error_msg
    assert usual.usage.image_tokens > 20 >= few.usage.image_tokens > 0


def test_thinking_is_refused_by_name_where_the_model_cannot(ros: RosClient, vlm: VlmProcess) -> None:
    for thinking, code in ((AskImage.Goal.THINKING_ON, Code.UNSUPPORTED), (9, Code.BAD_REQUEST)):
        result = ros.ask(images=[noise_image()], thinking=thinking).result()
        assert (result.error_code, result.error_msg.partition(":")[0]) == (code, "thinking")
    result = ros.ask_service(prompt="?", images=[noise_image()], thinking=AskImage.Goal.THINKING_ON)
    assert (result.error_code, result.error_msg.partition(":")[0]) == (Code.UNSUPPORTED, "thinking")
    result = ros.ask(images=[noise_image()], max_reasoning_tokens=2**32 - 1).result()
    assert (result.error_code, result.error_msg.partition(":")[0]) == (Code.BAD_REQUEST, "max_reasoning_tokens")


def test_a_model_that_does_not_think_answers_without_and_within_any_limit(ros: RosClient, vlm: VlmProcess) -> None:
    off = {"thinking": AskImage.Goal.THINKING_OFF, "max_reasoning_tokens": 5}
    result = ros.ask(images=[noise_image()], options={"max_tokens": 2}, **off).result()
    assert (result.error_code, result.reasoning) == (Code.NONE, ""), result.error_msg


def test_the_log_of_answers_has_the_images_header_and_the_time_of_its_end(ros: RosClient, vlm: VlmProcess) -> None:
    image = noise_image()
    image.header.frame_id, image.header.stamp.sec = "lens", 7
    with ros.listen(Answer, "/vlm/answers") as answers:
        ros.ask("Which?", images=[image], options={"max_tokens": 2}).result()
        ros.ask("Without?", text_only=True, options={"max_tokens": 2}).result()
        shown = answers.wait_for(lambda message: message.prompt == "Which?")
        blind = answers.wait_for(lambda message: message.prompt == "Without?")
    assert shown.header == image.header
    assert shown.end_time.sec > 7
    assert (blind.header.frame_id, blind.header.stamp) == ("", blind.end_time)


def test_a_result_is_kept_for_a_minute(ros: RosClient, start_vlm: object) -> None:
    def go_to(second: int) -> None:
        now[0] = second
        while ros.ask("").handle.stamp.sec < second:
            pass  # the node has not heard of it yet

    now = [100]
    publisher = ros.node.create_publisher(Clock, "/clock", SENSOR_DATA)
    clock = ros.node.create_timer(0.02, lambda: publisher.publish(Clock(clock=Time(sec=now[0]))))
    start_vlm(use_sim_time=True).wait_connected()
    try:
        go_to(100)
        goal = ros.ask("")
        assert goal.result().error_code == Code.BAD_REQUEST
        go_to(155)
        late = ros.complete(ros.on_executor(goal.handle.get_result_async))
        assert (late.status, late.result) == (GoalStatus.STATUS_ABORTED, goal.result())
    finally:
        ros.on_executor(lambda: ros.node.destroy_timer(clock))
        ros.on_executor(lambda: ros.node.destroy_publisher(publisher))


def test_two_callers_at_once_get_their_own_answers(ros: RosClient, vlm: VlmProcess) -> None:
    schemas = [{"const": f"caller {number}"} for number in range(4)]
    goals = [ros.ask(images=[noise_image()], response_schema=json.dumps(schema)) for schema in schemas]
    assert [goal.result().error_msg for goal in goals] == [""] * 4
    assert [json.loads(goal.result().json) for goal in goals] == [f"caller {number}" for number in range(4)]


def test_full_text_can_be_thinned_out_while_deltas_never_are(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(full_text_interval=60.0):
        goal = ros.ask(images=[noise_image()], **LONG, options={"max_tokens": 40})
        feedback = goal.feedback_until_result()
    assert "".join(message.delta for message in feedback) == goal.result().text
    assert sum(bool(message.text) for message in feedback) <= 1


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt": " "}, Code.BAD_REQUEST, "prompt"),
        ({"timeout": Duration(sec=-1)}, Code.BAD_REQUEST, "timeout: -1 s is negative"),
        ({"options": {"temperature": 3.0}}, Code.BAD_REQUEST, "temperature: 3 is outside [0, 2]"),
        ({"options": {"temperature": float("nan")}}, Code.BAD_REQUEST, "temperature"),
        ({"options": {"top_p": 0.0}}, Code.BAD_REQUEST, "top_p"),
        ({"options": {"max_tokens": 0}}, Code.BAD_REQUEST, "max_tokens"),
        ({"options": {"stop": [""]}}, Code.BAD_REQUEST, "stop"),
        ({"response_schema": "{"}, Code.BAD_REQUEST, "response_schema: it is not JSON"),
        ({"response_schema": "[" * 60_000}, Code.BAD_REQUEST, "response_schema: it is not JSON"),
        ({"response_schema": "[" * 100_000}, Code.BAD_REQUEST, "response_schema: it has 100000 bytes"),
        ({"response_schema": "1" * 5_000}, Code.BAD_REQUEST, "response_schema"),
        ({"response_schema": '{"type": "nonsense"}'}, Code.BAD_REQUEST, "response_schema: it is not a JSON Schema"),
        ({"text_only": True}, Code.BAD_REQUEST, "text_only"),
        ({"task": "counting"}, Code.BAD_REQUEST, "count"),
        ({"clip_duration": Duration(sec=1)}, Code.BAD_REQUEST, "clip_duration"),
        ({"images": [Image(encoding="rgb565", width=1, height=1, step=2)]}, Code.BAD_IMAGE, "rgb565"),
        ({"images": [Image(encoding="rgb8")]}, Code.BAD_IMAGE, "0"),
        ({"images": [], "compressed_images": [CompressedImage(format="jpeg", data=b"no")]}, Code.BAD_IMAGE, ""),
        ({"prompt": "word " * 20_000}, Code.PROMPT_TOO_LONG, "4096"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_input_ends_with_a_code_and_a_sentence_and_the_next_question_works(
    ros: RosClient, vlm: VlmProcess, fields: dict[str, object], code: int, words: str
) -> None:
    goal = ros.ask(**({"prompt": "What is it?", "images": [noise_image()]} | fields))
    assert goal.accepted
    result = goal.result()
    assert (result.error_code, goal.status()) == (code, "aborted"), result.error_msg
    assert words in result.error_msg and len(result.error_msg) > 20
    assert ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code == Code.NONE


# --- the camera ------------------------------------------------------------------------------------------------------


class Camera:
    """A camera that shows one image, stamped now, ten times a second."""

    def __init__(self, ros: RosClient, kind: type = Image, topic: str = "/image", ahead: float = 0.0) -> None:
        self._ros = ros
        self._ahead = Offset(seconds=ahead)
        self._publisher = ros.node.create_publisher(kind, topic, SENSOR_DATA)
        self._message = noise_image()
        if kind is CompressedImage:
            import cv2

            self._message = CompressedImage(
                format="png", data=cv2.imencode(".png", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
            )
        self._message.header.frame_id = "lens"
        self._timer = ros.node.create_timer(0.1, self.publish)

    def publish(self) -> None:
        self._message.header.stamp = (self._ros.node.get_clock().now() + self._ahead).to_msg()
        self._publisher.publish(self._message)

    def pause(self) -> None:
        self._timer.cancel()

    def resume(self) -> None:
        self._timer.reset()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._ros.on_executor(self._close)

    def _close(self) -> None:
        self._ros.node.destroy_timer(self._timer)
        self._ros.node.destroy_publisher(self._publisher)


def nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def test_without_a_camera_the_sentence_says_so(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(frame_timeout=0.2):
        result = ros.ask().result()
    assert result.error_code == Code.NO_FRAME
    assert "no frame on /image" in result.error_msg and "nobody publishes it" in result.error_msg


def test_the_answer_names_its_frame_and_the_frame_is_fresh(ros: RosClient, vlm: VlmProcess) -> None:
    with Camera(ros):
        before = ros.node.get_clock().now().nanoseconds
        goal = ros.ask(not_before=ros.node.get_clock().now().to_msg(), options={"max_tokens": 2})
        result = goal.result()
    assert result.error_code == Code.NONE, result.error_msg
    assert [header.frame_id for header in result.image_headers] == ["lens"]
    assert nanoseconds(result.image_headers[0].stamp) >= before


def test_compressed_transport_is_read(ros: RosClient, start_vlm: object) -> None:
    start_vlm(image_transport="compressed")
    with Camera(ros, CompressedImage, "/image/compressed"):
        result = ros.ask(options={"max_tokens": 2}).result()
    assert result.error_code == Code.NONE, result.error_msg
    assert result.image_headers[0].frame_id == "lens"


def test_an_old_frame_is_never_used(ros: RosClient, vlm: VlmProcess) -> None:
    with Camera(ros):
        assert ros.ask(options={"max_tokens": 2}).result().error_code == Code.NONE
    with ros.parameters(frame_timeout=2.0):
        result = ros.ask(max_frame_age=Duration(nanosec=1)).result()
    assert result.error_code == Code.NO_FRAME
    assert "old" in result.error_msg and "use_sim_time" in result.error_msg


def test_a_frame_from_the_future_is_never_used(ros: RosClient, start_vlm: object) -> None:
    start_vlm(frame_timeout=2.0)
    with Camera(ros, ahead=3600.0):
        result = ros.ask().result()
    assert result.error_code == Code.NO_FRAME
    assert "ahead" in result.error_msg


def test_deactivating_while_a_goal_waits_for_a_frame_is_safe(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(frame_timeout=0.0):
        for _ in range(5):
            goal = ros.ask(not_before=ros.node.get_clock().now().to_msg())
            goal.wait_for_stage(Stage.STAGE_WAITING_FRAME)
            assert ros.lifecycle("deactivate")
            assert goal.result().error_code == Code.SHUTDOWN
            assert ros.lifecycle("activate")


def test_a_topic_of_another_type_is_named_in_the_error_and_in_diagnostics(ros: RosClient, start_vlm: object) -> None:
    start_vlm(frame_timeout=2.0)
    with Camera(ros, CompressedImage, "/image"):
        result = ros.ask().result()
        assert result.error_code == Code.NO_FRAME
        assert "sensor_msgs/msg/CompressedImage" in result.error_msg and "image_transport" in result.error_msg
        with ros.listen(DiagnosticArray, "/diagnostics") as messages:
            array = messages.wait_for(lambda m: any(s.name == "vlm: camera" for s in m.status))
    camera = next(status for status in array.status if status.name == "vlm: camera")
    assert camera.level == DiagnosticStatus.ERROR and "CompressedImage" in camera.message


def camera_values(array: DiagnosticArray) -> dict[str, str]:
    return {pair.key: pair.value for status in array.status if status.name == "vlm: camera" for pair in status.values}


def rate(array: DiagnosticArray) -> float | None:
    value = camera_values(array).get("rate (Hz)", "unknown")
    return None if value == "unknown" else float(value)


def test_diagnostics_report_rate_and_age_of_the_camera(ros: RosClient, vlm: VlmProcess) -> None:
    with Camera(ros), ros.listen(DiagnosticArray, "/diagnostics") as messages:
        array = messages.wait_for(lambda m: 3 <= (rate(m) or 0) <= 13)
        assert 0 <= float(camera_values(array)["age of the newest frame (s)"]) < 2
        assert all(status.level == DiagnosticStatus.OK for status in array.status), array


def test_the_rate_of_a_camera_that_ran_before_the_node_counts_only_what_the_node_could_see(
    ros: RosClient, start_vlm: object
) -> None:
    with Camera(ros) as camera:
        ros.on_executor(lambda: [camera.publish() for _ in range(1000)])
        camera.pause()
        start_vlm()
        with ros.listen(DiagnosticArray, "/diagnostics") as messages:
            messages.wait_for(lambda m: camera_values(m).get("age of the newest frame (s)") == "none")
            camera.resume()
            first_known = messages.wait_for(lambda m: rate(m) is not None)
    assert rate(first_known) <= 13


# --- many questions at once ------------------------------------------------------------------------------------------


def test_higher_priority_is_served_first(ros: RosClient, vlm: VlmProcess) -> None:
    running, other = fill_slots(ros)
    with ros.listen(Answer, "/vlm/answers") as answers:
        low = ros.ask("low", images=[noise_image()], options={"max_tokens": 2}, priority=1)
        high = ros.ask("high", images=[noise_image()], options={"max_tokens": 2}, priority=2)
        running.cancel()  # and the other one goes on: they come one after another
        low.result(), high.result()
        order = [answers.wait_for(lambda m: m.prompt in ("low", "high")).prompt for _ in range(2)]
    assert order == ["high", "low"]
    other.cancel()
    other.result()


def test_a_queued_goal_says_how_many_are_before_it(ros: RosClient, vlm: VlmProcess) -> None:
    running, other = fill_slots(ros)
    first, second = (ros.ask(images=[noise_image()], options={"max_tokens": 2}) for _ in range(2))
    assert first.wait_for_stage(Stage.STAGE_QUEUED).queue_position == 2
    assert second.wait_for_stage(Stage.STAGE_QUEUED).queue_position == 3
    running.cancel(), other.cancel()
    assert {first.result().error_code, second.result().error_code} == {Code.NONE}


def test_a_queued_goal_hears_of_its_place_only_when_it_is_another(ros: RosClient, vlm: VlmProcess) -> None:
    running, other = fill_slots(ros)
    first, second, third = (ros.ask(images=[noise_image()], options={"max_tokens": 2}) for _ in range(3))
    for goal, position in ((first, 2), (second, 3), (third, 4)):
        assert goal.wait_for_stage(Stage.STAGE_QUEUED).queue_position == position
    first.cancel()
    running.cancel(), other.cancel()
    positions = [m.queue_position for m in third.feedback_until_result() if m.stage == Stage.STAGE_QUEUED]
    assert positions == sorted(set(positions), reverse=True)


def test_the_deadline_of_a_queued_goal_counts_from_acceptance(ros: RosClient, vlm: VlmProcess) -> None:
    running, other = fill_slots(ros)
    result = ros.ask(images=[noise_image()], timeout=Duration(nanosec=200_000_000)).result()
    assert result.error_code == Code.TIMEOUT
    assert "0.2 s" in result.error_msg and "waiting in the queue" in result.error_msg
    assert not running.done and not other.done
    end(running, other)


def test_a_full_queue_ends_with_busy(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(queue_size=1):
        running, other = fill_slots(ros)
        waiting = long_goal(ros)
        waiting.wait_for_stage(Stage.STAGE_QUEUED)
        refused = ros.ask(images=[noise_image()])
        assert refused.accepted and refused.result().error_code == Code.BUSY
        assert "queue_size" in refused.result().error_msg
        end(waiting, running, other)


def test_busy_policy_reject_answers_at_once(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(busy_policy="reject"):
        running = long_goal(ros)
        running.wait_for_text()
        assert ros.ask(images=[noise_image()]).result().error_code == Code.BUSY
        end(running)


def test_busy_policy_preempt_aborts_the_older_goal_and_keeps_its_text(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(busy_policy="preempt"):
        running = long_goal(ros)
        running.wait_for_text()
        newer = ros.ask(images=[noise_image()], options={"max_tokens": 2})
        assert newer.result().error_code == Code.NONE
    result = running.result()
    assert (result.error_code, running.status()) == (Code.PREEMPTED, "aborted")
    assert result.text and result.finish_reason == "cancelled"


# --- cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_while_decoding_keeps_the_text_so_far(ros: RosClient, vlm: VlmProcess) -> None:
    goal = long_goal(ros)
    text = goal.wait_for_text().text
    assert goal.cancel()
    result = goal.result()
    assert (result.error_code, goal.status(), result.finish_reason) == (Code.CANCELLED, "canceled", "cancelled")
    assert result.text.startswith(text)


def test_cancel_while_queued_does_not_touch_the_running_goal(ros: RosClient, vlm: VlmProcess) -> None:
    running, other = fill_slots(ros)
    queued = ros.ask(images=[noise_image()])
    queued.wait_for_stage(Stage.STAGE_QUEUED)
    assert queued.cancel()
    assert queued.result().error_code == Code.CANCELLED and queued.status() == "canceled"
    assert not running.done and not other.done
    end(running, other)


def test_cancel_while_waiting_for_a_frame_is_immediate(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.parameters(frame_timeout=0.0):
        goal = ros.ask(not_before=ros.node.get_clock().now().to_msg())
        goal.wait_for_stage(Stage.STAGE_WAITING_FRAME)
        assert goal.cancel()
        assert goal.result().error_code == Code.CANCELLED


def test_a_timeout_while_decoding_keeps_the_text_so_far(ros: RosClient, vlm: VlmProcess) -> None:
    goal = long_goal(ros, timeout=Duration(sec=1))
    goal.wait_for_text()
    result = goal.result()
    assert (result.error_code, goal.status()) == (Code.TIMEOUT, "aborted")
    assert result.text and result.error_msg.endswith("the model was writing the answer")


# --- things that break -----------------------------------------------------------------------------------------------


def test_a_killed_worker_ends_the_goal_with_its_text_and_the_next_is_answered(ros: RosClient, vlm: VlmProcess) -> None:
    before = vlm.wait_ready()
    goal = long_goal(ros)
    text = goal.wait_for_text().text
    os.kill(before.engine_pid, signal.SIGKILL)
    result = goal.result()
    assert (result.error_code, goal.status()) == (Code.ENGINE_CRASHED, "aborted")
    assert result.text.startswith(text) and "SIGKILL" in result.error_msg
    assert ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code == Code.NONE
    assert vlm.wait_ready().engine_restarts == before.engine_restarts + 1


def test_a_stopped_worker_does_not_outlive_the_goals_timeout(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm(**{"llama.slots": 1})  # with more, a goal beside the stopped one ends with it
    worker = node.worker()
    goal = long_goal(ros, timeout=Duration(sec=2))
    goal.wait_for_text()
    os.kill(worker, signal.SIGSTOP)
    result = goal.result()
    assert result.error_code == Code.TIMEOUT and result.text
    assert ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code == Code.NONE
    assert not alive(worker)


def test_a_hung_worker_is_restarted_although_nobody_asks(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm(heartbeat_timeout=5.0)
    os.kill(node.worker(), signal.SIGSTOP)
    assert "no sign of life" in node.wait_status(lambda s: s.state == VlmStatus.LOADING and s.engine_restarts).message
    assert node.wait_ready().engine_restarts == 1


def test_a_missing_model_leaves_the_node_up_unconfigured_and_names_the_file(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm(llama__model="/nowhere/model.gguf")
    status = node.wait_status(lambda s: s.state == VlmStatus.UNCONFIGURED and "model.gguf" in s.message)
    assert "qwen3vl-ros model use" in status.message
    assert ros.lifecycle_state() == "unconfigured"
    assert not ros.ask(images=[noise_image()]).accepted
    assert ros.set_parameter("llama.model", "").successful
    assert ros.lifecycle("configure") and ros.lifecycle("activate")
    assert ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code == Code.NONE


def test_a_broken_model_leaves_the_node_up_unconfigured(ros: RosClient, start_vlm: object, tmp_path: object) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nonsense")
    node = start_vlm(llama__model=str(broken))
    status = node.wait_status(lambda s: s.state == VlmStatus.UNCONFIGURED and "broken.gguf" in s.message)
    assert "qwen3vl-ros model use" in status.message
    assert not ros.ask(images=[noise_image()]).accepted


def test_parameters_that_need_a_new_engine_are_refused_with_the_reason(ros: RosClient, vlm: VlmProcess) -> None:
    refusal = ros.set_parameter("llama.model", "other.gguf")
    assert not refusal.successful and "configured" in refusal.reason
    assert not ros.set_parameter("busy_policy", "panic").successful
    assert not ros.set_parameter("timeout", -1.0).successful
    assert ros.set_parameter("timeout", 60.0).successful


def test_deactivate_gives_every_accepted_goal_a_result_and_activate_serves_again(
    ros: RosClient, vlm: VlmProcess
) -> None:
    running, other = fill_slots(ros)
    queued = ros.ask(images=[noise_image()])
    assert ros.lifecycle("deactivate")
    assert {goal.result().error_code for goal in (running, other, queued)} == {Code.SHUTDOWN}
    assert running.result().text
    assert not ros.ask(images=[noise_image()]).accepted
    assert ros.lifecycle("activate")
    assert ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code == Code.NONE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_node_and_worker_cleanly_and_running_goals_get_a_result(
    ros: RosClient, start_vlm: object, number: int
) -> None:
    before = set(Path("/dev/shm").iterdir())  # the test's, and those of processes that were killed
    node = start_vlm()
    worker = node.worker()
    goal = long_goal(ros)
    goal.wait_for_text()
    used = (shared_memory(node.pid) | shared_memory(worker)) - before
    assert used  # the middleware's
    assert node.stop(number) == 0, node.output
    assert "Traceback" not in node.output
    assert goal.result().error_code == Code.SHUTDOWN
    assert not alive(worker)
    assert not [path for path in used if path.exists()]


def blocks(thread: Path, number: int) -> bool:
    """Whether a thread, given by its folder in /proc, does not take a signal."""
    mask = next(line for line in (thread / "status").read_text().splitlines() if line.startswith("SigBlk"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_a_signal_that_another_thread_of_the_node_got_ends_it_all_the_same(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm()
    node.wait_ready()
    others = (thread for thread in Path(f"/proc/{node.pid}/task").iterdir() if int(thread.name) != node.pid)
    hears = next(int(thread.name) for thread in others if not blocks(thread, signal.SIGINT))
    assert ctypes.CDLL(None).tgkill(node.pid, hears, int(signal.SIGINT)) == 0
    assert node.wait() == 0, node.output


def test_a_killed_node_takes_its_worker_with_it(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm()
    worker = node.worker()
    os.kill(node.pid, signal.SIGKILL)
    wait_gone(worker)
    assert not alive(worker)


def test_status_is_latched_and_counts(ros: RosClient, vlm: VlmProcess) -> None:
    before = vlm.wait_ready()
    ros.ask(images=[noise_image()], options={"max_tokens": 2}).result()
    ros.ask(prompt=" ").result()
    succeeded, failed = before.goals_succeeded + 1, before.goals_failed + 1
    status = vlm.wait_status(lambda s: (s.goals_succeeded, s.goals_failed) == (succeeded, failed))
    assert status.goals_accepted == before.goals_accepted + 2
    assert status.prompt_tokens > before.prompt_tokens
    assert status.completion_tokens == before.completion_tokens + 2
    assert status.engine_pid and status.load_time > 0 and status.context_length == 4096


def test_accepting_cancelling_and_status_never_wait_for_the_model(ros: RosClient, start_vlm: object) -> None:
    node = start_vlm()
    worker = node.worker()
    goal = long_goal(ros)
    goal.wait_for_text()
    os.kill(worker, signal.SIGSTOP)  # a model that thinks for ever
    second = ros.ask(images=[noise_image()])
    assert second.accepted and second.cancel()
    assert second.result().error_code == Code.CANCELLED
    assert goal.cancel() and goal.result().error_code == Code.CANCELLED


def test_a_second_node_of_the_same_name_is_an_error_until_it_is_gone(ros: RosClient, start_vlm: object) -> None:
    first = start_vlm()
    worker = first.worker()

    def says(array: DiagnosticArray, level: bytes) -> bool:
        """Whether it is the first node that says so of its name."""
        engine, name = array.status[0], array.status[-1]
        assert name.name == "vlm: name"
        return {value.key: value.value for value in engine.values}["pid"] == str(worker) and name.level == level

    with ros.listen(DiagnosticArray, "/diagnostics") as diagnostics:
        diagnostics.wait_for(lambda a: says(a, DiagnosticStatus.OK))
        second = start_vlm()
        found = diagnostics.wait_for(lambda a: says(a, DiagnosticStatus.ERROR))
        assert "another node is called /vlm" in found.status[-1].message
        assert second.stop() == 0
        diagnostics.wait_for(lambda a: says(a, DiagnosticStatus.OK))
    assert first.stop() == 0
    assert "another node is called /vlm, too" in first.output
    assert "no other node is called /vlm any more" in first.output


def test_importing_the_worker_does_not_import_ros() -> None:
    code = "import qwen3vl_ros.engines.worker, sys; print(sorted(m for m in sys.modules if m.startswith('rclpy')))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_the_queue_is_fair_to_threads(ros: RosClient, vlm: VlmProcess) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(
                ros.ask(images=[noise_image()], options={"max_tokens": 2}).result().error_code
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Code.NONE] * 6
