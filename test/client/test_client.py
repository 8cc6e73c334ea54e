"""VlmClient, against a real action server whose behaviour the test writes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point32
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import ChatMessage, Moment, Region
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import Executor, MultiThreadedExecutor, SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

import child_process
import qwen3vl_ros.client as client_module
from qwen3vl_ros.client import (
    BadImage,
    BadRequest,
    Box,
    Cancelled,
    InternalError,
    NotSpinning,
    ServerInactive,
    ServerLost,
    ServerUnavailable,
    VlmClient,
    VlmError,
    WouldDeadlock,
    goal_tracker,
)
from qwen3vl_ros.client import answer_future as answer_future_module
from qwen3vl_ros.client.action_client import GoalClient
from qwen3vl_ros.client.exceptions import error_of_code
from qwen3vl_ros.client.roll_call import RollCall
from qwen3vl_ros.ros.spinning import SpinThread
from scripted_vlm import WAIT, Goal, ScriptedVlm, until_cancelled

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedVlm]:
    server = ScriptedVlm()
    yield server
    server.close()


@pytest.fixture
def vlm(server: ScriptedVlm) -> ScriptedVlm:
    server.rewrite()
    return server


@pytest.fixture(scope="module")
def client() -> Iterator[VlmClient]:
    with VlmClient(server_timeout=WAIT) as client:
        yield client


@pytest.fixture
def node() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("behaviour", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


class Spinning:
    """Runs an executor with a node in another thread, and functions as callbacks of that node."""

    def __init__(self, executor: Executor, node: Any) -> None:
        self.executor, self.node = executor, node
        executor.add_node(node)
        self.thread = SpinThread(executor, "spinning")

    def __enter__(self) -> Spinning:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.thread.stop(WAIT)

    def in_callback(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns or raises when a timer callback of the node runs it."""
        done, outcome = threading.Event(), []

        def callback() -> None:
            timer.cancel()
            try:
                outcome.append(work())
            except Exception as error:  # noqa: BLE001 the test looks at it
                outcome.append(error)
            done.set()

        timer = self.node.create_timer(0.0, callback, callback_group=MutuallyExclusiveCallbackGroup())
        assert done.wait(WAIT)
        self.node.destroy_timer(timer)
        return outcome[0]


# What comes back.


def test_an_answer_has_everything_the_node_reported(vlm: ScriptedVlm, client: VlmClient) -> None:
    header = Header(frame_id="camera")
    header.stamp.sec = 7
    region = Region(label="ball", has_point=True, point=Point32(x=3.0, y=4.0), has_position=True)
    region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height = 1, 2, 30, 40
    region.position.header.frame_id = "map"
    region.position.point.z = 1.5
    region.position_kind, region.score = region.POSITION_SURFACE, 0.5
    region.spread, region.position_covariance = [1.0, 2.0], [0.5] * 9

    def script(goal: Goal) -> AskImage.Result:
        result = goal.result(text='{"n": 2}', json='{"n": 2}', reasoning="I count", engine="llama", model="tiny.gguf")
        result.image_headers, result.regions = [header], [region]
        result.moments = [Moment(label="it falls", stamp=Time(sec=8), end_stamp=Time(sec=9), image_index=1)]
        result.pixel_stamps, result.usage.image_change = [Time(sec=3)], 1.5
        result.usage.completion_tokens, result.usage.first_token_time = 5, 0.25
        result.usage.max_image_tokens, result.usage.expected_first_token_time = 1024, 0.5
        result.probability, result.notes = 0.5, ["a note"]
        return result

    vlm.script = script
    answer = client.ask(
        "How many?",
        response_schema={"type": "object"},
        seed=3,
        max_tokens=9,
        priority=2,
        timeout=1.5,
        presence_penalty=1.5,
        thinking=True,
        max_reasoning_tokens=32,
        max_image_tokens=64,
        new_pixels=True,
        score_threshold=0.25,
        target_frame="map",
        clip_duration=1.5,
        clip_end=7.25,
        clip_frames=5,
        clip_pick="change",
        images_are_clip=True,
    )

    assert (answer.text, answer.json, answer.reasoning) == ('{"n": 2}', {"n": 2}, "I count")
    assert (answer.engine, answer.model, answer.finish_reason) == ("llama", "tiny.gguf", "stop")
    assert answer.goal_id == bytes(vlm.goals[0].handle.goal_id.uuid).hex()
    assert answer.stamp == header.stamp
    assert answer.image_headers[0].frame_id == "camera"
    assert (answer.pixel_stamps, answer.usage.image_change) == ((Time(sec=3),), 1.5)
    (moment,) = answer.moments
    assert (moment.label, moment.stamp, moment.end_stamp) == ("it falls", Time(sec=8), Time(sec=9))
    assert moment.image_index == 1
    assert answer.regions[0].box == Box(1, 2, 30, 40)
    assert answer.regions[0].point == (3.0, 4.0)
    assert answer.regions[0].position is not None
    assert (answer.regions[0].position.frame_id, answer.regions[0].position.kind) == ("map", "surface")
    assert (answer.regions[0].score, answer.regions[0].spread) == (0.5, (1.0, 2.0))
    assert answer.regions[0].position.covariance == (0.5,) * 9
    assert answer.usage.completion_tokens == 5
    assert answer.usage.first_token_time == 0.25
    assert answer.usage.encode_time is None
    assert (answer.usage.max_image_tokens, answer.usage.expected_first_token_time) == (1024, 0.5)
    assert (answer.probability, answer.probability_mass, answer.notes) == (0.5, None, ("a note",))
    sent = vlm.goals[0].request
    assert (sent.prompt, sent.response_schema, sent.priority) == ("How many?", '{"type": "object"}', 2)
    assert (sent.options.seed, sent.options.max_tokens, sent.options.temperature) == (3, 9, -1.0)
    assert (sent.options.presence_penalty, sent.options.frequency_penalty) == (1.5, -1.0)
    assert (sent.thinking, sent.max_image_tokens, sent.score_threshold) == (AskImage.Goal.THINKING_ON, 64, 0.25)
    assert (sent.new_pixels, sent.target_frame) == (True, "map")
    assert (sent.clip_duration, sent.clip_end) == (sent.timeout, Time(sec=7, nanosec=250_000_000))
    assert (sent.clip_frames, sent.clip_pick, sent.images_are_clip) == (5, "change", True)
    assert sent.max_reasoning_tokens == 32
    assert (sent.timeout.sec, sent.timeout.nanosec) == (1, 500_000_000)


def test_the_number_of_image_tokens_may_be_left_to_the_node(vlm: ScriptedVlm, client: VlmClient) -> None:
    client.ask("?", max_image_tokens="auto")
    assert vlm.goals[0].request.max_image_tokens == AskImage.Goal.MAX_IMAGE_TOKENS_AUTO
    for wrong in ("most", -1, 2**32 - 1):
        with pytest.raises(BadRequest, match=r"^max_image_tokens"):
            client.ask("?", max_image_tokens=wrong)


def test_what_was_chosen_and_is_expected_is_known_before_the_answer(vlm: ScriptedVlm, client: VlmClient) -> None:
    known = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("Y", max_image_tokens=512, expected_first_token_time=1.5)
        known.wait(WAIT)
        return goal.result(text="Yes")

    vlm.script = script
    for _ in (stream := client.stream("?")):
        assert (stream.future.max_image_tokens, stream.future.expected_first_token_time) == (512, 1.5)
        known.set()


def test_pieces_arrive_while_the_model_is_still_talking(vlm: ScriptedVlm, client: VlmClient) -> None:
    heard = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("a red")
        assert heard.wait(WAIT)
        goal.say(" box")
        return goal.result()

    vlm.script = script
    pieces = []
    for piece in (stream := client.stream("What is it?")):
        pieces.append(piece)
        heard.set()
    assert pieces == ["a red", " box"]
    assert stream.answer.text == "a red box"


@pytest.mark.parametrize("recovery", ["by a later message", "by the result", "after thinned messages"])
def test_pieces_add_up_to_the_final_text_when_feedback_is_lost(
    vlm: ScriptedVlm, client: VlmClient, recovery: str
) -> None:
    def script(goal: Goal) -> AskImage.Result:
        goal.say("one ")
        goal.say("two ", lost=True)
        goal.say("three ", lost=recovery == "by the result", thin=recovery == "after thinned messages")
        goal.say("four", lost=recovery == "by the result")
        return goal.result()

    vlm.script = script
    stream = client.stream("Count.")
    assert "".join(stream) == stream.answer.text == "one two three four"


def test_a_final_text_that_contradicts_what_was_streamed_is_an_error(vlm: ScriptedVlm, client: VlmClient) -> None:
    heard = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("it is red")
        assert heard.wait(WAIT)
        return goal.result(text="it is blue")

    vlm.script = script
    pieces = iter(client.stream("Colour?"))
    assert next(pieces) == "it is red"
    heard.set()
    with pytest.raises(InternalError, match="not what it streamed"):
        list(pieces)


def test_a_handle_shows_the_question_from_tick_to_tick(vlm: ScriptedVlm, client: VlmClient) -> None:
    go_on = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("", stage=AskImage.Feedback.STAGE_QUEUED, queue_position=2, completion_tokens=0)
        goal.say("", stage=AskImage.Feedback.STAGE_DECODE, reasoning_delta="hmm")
        goal.say("red")
        assert go_on.wait(WAIT)
        return goal.result(reasoning="hmm")

    vlm.script = script
    question = client.send("Colour?")
    assert next(question.deltas()) == "red"
    assert (question.text, question.reasoning, question.done(), question.exception()) == ("red", "hmm", False, None)
    assert (question.stage, question.completion_tokens) == (AskImage.Feedback.STAGE_DECODE, 3)
    with pytest.raises(TimeoutError):
        question.result(timeout=0.0)
    go_on.set()
    assert question.result(timeout=WAIT).text == "red"
    assert question.done()


def test_the_former_name_of_a_future_still_works(vlm: ScriptedVlm, client: VlmClient) -> None:
    assert client_module.Question is client_module.AnswerFuture
    stream = client.stream("What?")
    assert isinstance(stream.future, client_module.Question)
    assert stream.question is stream.future
    assert "".join(stream) == "yes"


# What goes wrong.


def start_scripted_vlm(namespace: str) -> subprocess.Popen[bytes]:
    """A vlm node in a process of its own, which answers nothing; for a SIGKILL."""
    return subprocess.Popen(child_process.command("scripted_vlm", namespace))


def test_a_node_that_was_killed_and_started_anew_loses_the_question_at_once() -> None:
    process = start_scripted_vlm("killed")
    restarted = None
    try:
        with VlmClient(namespace="killed", server_timeout=WAIT) as client:
            question = client.send("What?")
            assert next(question.deltas()) == "red"
            process.kill()
            process.wait()
            before = client._tracker._action_client.servers()
            restarted = ScriptedVlm(namespace="killed")
            end = time.monotonic() + WAIT
            while client._tracker._action_client.servers() == before:
                assert time.monotonic() < end
                time.sleep(0.01)  # there is no event
            appeared = time.monotonic()
            with pytest.raises(ServerLost, match="started anew") as caught:
                question.result(WAIT)
            assert time.monotonic() - appeared < 5.0, "a second where the processor is idle"
            assert caught.value.text == "red"
            assert client.ask("Again?").text == "yes"
    finally:
        process.kill()
        process.wait()
        if restarted is not None:
            restarted.close()


def test_a_second_node_of_the_same_name_does_not_end_the_question_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(roll_call: RollCall) -> None:
        close(roll_call)
        called.append(roll_call.missing)
        over.set()

    def answer_in_the_end(goal: Goal) -> AskImage.Result:
        goal.say("red")
        assert over.wait(WAIT)
        goal.say(" box")
        return goal.result()

    over, close, called = threading.Event(), RollCall.close, []
    monkeypatch.setattr(RollCall, "close", note)
    first, second = ScriptedVlm(answer_in_the_end, namespace="twin"), None
    try:
        with VlmClient(namespace="twin", server_timeout=WAIT) as client:
            question = client.send("What?")
            assert next(question.deltas()) == "red"
            second = ScriptedVlm(namespace="twin")
            assert question.result(WAIT).text == "red box"
            assert called == [set()], "looked into once, and nothing is missing"
    finally:
        over.set()
        for server in (first, second):
            if server is not None:
                server.close()


def test_error_codes_and_exceptions_are_those_of_the_action() -> None:
    action = Path(__file__).parents[2] / "action" / "AskImage.action"
    constants = re.findall(r"^uint16 (\w+)=(\d+)$", action.read_text(), re.MULTILINE)
    assert len(constants) == 16
    for name, code in constants[1:]:
        assert (error_of_code(int(code)).name, error_of_code(int(code)).code) == (name, int(code))


def test_every_exception_is_exported_and_drawn_in_the_tree() -> None:
    def below(error: type[VlmError]) -> set[type[VlmError]]:
        return {error}.union(*(below(child) for child in error.__subclasses__()))

    for error in below(VlmError):
        assert getattr(client_module, error.__name__) is error
        assert re.search(rf"\b{error.__name__}\b", VlmError.__doc__ or "")


@pytest.mark.parametrize("code", range(AskImage.Result.UNKNOWN, AskImage.Result.SHUTDOWN + 1))
def test_an_error_code_becomes_its_exception_with_the_text_so_far(
    vlm: ScriptedVlm, client: VlmClient, code: int
) -> None:
    vlm.script = lambda goal: goal.result(code, "A sentence.", text="half an ans", engine="llama")
    with pytest.raises(error_of_code(code), match=r"A sentence\.") as caught:
        client.ask("What?")
    assert caught.value.code == code
    assert caught.value.text == "half an ans"
    assert caught.value.answer is not None
    assert caught.value.answer.engine == "llama"


def test_without_a_node_the_error_says_where_it_looked_and_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with VlmClient(namespace="nobody", server_timeout=0.3) as client:
        monkeypatch.setenv("ROS_DOMAIN_ID", "42")
        began = time.monotonic()
        with pytest.raises(ServerUnavailable) as caught:
            client.ask("Anyone?")
        assert time.monotonic() - began < WAIT
        for part in ("/nobody/vlm/ask_image", "ROS_DOMAIN_ID=42", "qwen3vl-ros node"):
            assert part in str(caught.value)
        assert caught.value.code == -1
        with pytest.raises(ServerUnavailable):
            client.wait_for_server(0.2)


def test_a_question_waits_for_a_node_that_comes_late() -> None:
    with VlmClient(namespace="late", server_timeout=WAIT) as client:
        question = client.send("Are you there?")
        assert not question.done()
        server = ScriptedVlm(namespace="late")
        try:
            assert question.result(WAIT).text == "yes"
            client.wait_for_server(WAIT)
        finally:
            server.close()


Lose = Callable[..., list[object]]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Loses the node's replies to a request, a method of GoalClient; the list has the replies lost so far."""

    def start(request: str, at_most: int = 1000) -> list[object]:
        def ask_and_lose(*arguments: Any) -> None:
            *others, then = arguments
            ask(*others, lambda reply: then(reply) if len(lost) == at_most else lost.append(reply))

        lost: list[object] = []
        ask = getattr(GoalClient, request)
        monkeypatch.setattr(GoalClient, request, ask_and_lose)
        return lost

    return start


def ask_and_hear_nothing(client: VlmClient) -> None:
    """Ask a node that is there and does not say in time whether it takes the question."""
    client.wait_for_server()
    client._server_timeout = client._tracker._server_timeout = 0.4
    with pytest.raises(ServerUnavailable, match="did not say within"):
        client.ask("What?")


@pytest.mark.parametrize("response", ["arrives", "is lost"])
def test_a_node_that_does_not_accept_in_time_is_unavailable_and_a_late_acceptance_is_cancelled(
    response: str, lose: Lose
) -> None:
    def note_the_cancel(goal: Goal) -> AskImage.Result:
        result = until_cancelled(goal)
        cancelled.set()
        return result

    if response == "is lost":
        lose("send")
    decide, cancelled = threading.Event(), threading.Event()
    server = ScriptedVlm(note_the_cancel, namespace="slow")
    server.accept = lambda request: decide.wait(WAIT)
    try:
        with VlmClient(namespace="slow", server_timeout=WAIT) as client:
            ask_and_hear_nothing(client)
            decide.set()
            assert cancelled.wait(WAIT)
    finally:
        server.close()


def test_an_acceptance_that_was_lost_on_the_way_does_not_matter(
    vlm: ScriptedVlm, client: VlmClient, lose: Lose
) -> None:
    lose("send")
    assert client.ask("What?").text == "yes"
    vlm.script = until_cancelled
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    question.cancel()
    with pytest.raises(Cancelled):
        question.result(WAIT)


def test_a_result_that_was_lost_on_the_way_is_asked_for_again(vlm: ScriptedVlm, client: VlmClient, lose: Lose) -> None:
    lost = lose("ask_result", at_most=2)
    assert client.ask("What?").text == "yes"
    assert len(lost) == 2
    goals = client._tracker._action_client
    assert goals._awaited == {}, "each would be kept for ever"


def test_a_refusal_that_was_lost_on_the_way_is_not_waited_for_for_ever(
    lose: Lose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(*arguments: Any) -> None:
        forget(*arguments)
        forgotten.set()

    lose("send")
    forgotten, forget = threading.Event(), GoalClient.forget
    monkeypatch.setattr(goal_tracker, "_LATE_ACCEPTANCE", 0.0)
    monkeypatch.setattr(GoalClient, "forget", note)
    server = ScriptedVlm(namespace="inactive")
    server.accept = lambda request: False
    try:
        with VlmClient(namespace="inactive", server_timeout=WAIT) as client:
            ask_and_hear_nothing(client)
            assert forgotten.wait(WAIT)
            assert client._tracker._open_goals == {}
    finally:
        server.close()


def test_a_result_that_the_node_has_forgotten_is_an_error_and_no_empty_answer(lose: Lose) -> None:
    lost = lose("ask_result", at_most=1)
    server = ScriptedVlm(namespace="forgetful", result_timeout=0)
    try:
        with VlmClient(namespace="forgetful", server_timeout=WAIT) as client:
            with pytest.raises(ServerLost, match="does not know the question"):
                client.ask("What?")
            assert len(lost) == 1
    finally:
        server.close()


def test_a_node_that_is_not_active_says_how_to_activate_it(vlm: ScriptedVlm, client: VlmClient) -> None:
    vlm.accept = lambda request: False
    with pytest.raises(ServerInactive, match="qwen3vl-ros lifecycle activate --node /vlm"):
        client.ask("What?")


def test_an_overdue_result_is_given_up_and_cancelled(vlm: ScriptedVlm) -> None:
    vlm.script = until_cancelled
    with VlmClient(server_timeout=WAIT, grace=0.1) as client:
        with pytest.raises(ServerLost, match=r"0\.2 s") as caught:
            client.ask("What?", timeout=0.2)
        assert caught.value.text == "red"
        assert vlm.goals[0].cancelled.wait(WAIT)


def test_a_node_that_vanishes_ends_the_question_long_before_its_time(client: VlmClient) -> None:
    server = ScriptedVlm(namespace="gone")
    leave = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("red")
        assert leave.wait(WAIT)
        return goal.result()

    server.script = script
    try:
        with VlmClient(namespace="gone", server_timeout=WAIT) as client:
            question = client.send("What?", timeout=100.0)
            assert next(question.deltas()) == "red"
            server.vanish()
            with pytest.raises(ServerLost, match="vanished") as caught:
                question.result(WAIT)
            assert caught.value.text == "red"
    finally:
        leave.set()
        server.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"timeout": 0.0}, "timeout is a number of seconds greater than zero"),
        ({"timeout": float("inf")}, "timeout"),
        ({"max_frame_age": -1.0}, "max_frame_age"),
        ({"temperature": -0.1}, "temperature must not be negative"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"priority": 256}, "priority"),
        ({"cameras": "front"}, "cameras is a list of strings"),
        ({"system_prompt": None}, "system_prompt is a string"),
        ({"system_prompt": "a\0b"}, "system_prompt: it holds a NUL"),
        ({"task": "\0"}, "task: it holds a NUL"),
        ({"session": "\0"}, "session: it holds a NUL"),
        ({"cameras": ["front", "\0"]}, "cameras: it holds a NUL"),
        ({"clip_duration": 0.0}, "clip_duration is a number of seconds greater than zero"),
        ({"clip_frames": 2**16}, "clip_frames"),
        ({"stop": ["\0"]}, "stop: it holds a NUL"),
        ({"slots": {"what": ["cup", "\0"]}}, r"^slots\.what\.1: it holds a NUL"),
        ({"slots": {"\0": 1}}, "^a name in slots: it holds a NUL"),
        ({"slots": {"what": {1, 2}}}, "slots is not JSON"),
        ({"response_schema": '{"const": "\0"}'}, "response_schema: it holds a NUL"),
        ({"history": [ChatMessage(role="user", content=["\0"])]}, r"history\[0\].content: it holds a NUL"),
        ({"images": [Image(header=Header(frame_id="\0"))]}, "frame_id: it holds a NUL"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_is_sent(
    client: VlmClient, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        client.send("What?", **arguments)


def test_half_a_character_in_the_first_question_is_asked_as_the_replacement_character(vlm: ScriptedVlm) -> None:
    """It comes from command lines that are not UTF-8, and from strings that were cut in the middle of an emoji."""
    with VlmClient() as client:
        client.ask(
            "Hello \ud83d",
            system_prompt="\udcfc",
            cameras=["\ud83d\ude00"],
            stop=["\ude00"],
            slots={"what\ud83d": "\ud83d"},
            task="\ud83d",
            history=[ChatMessage(role="user", content=["\ud83d"])],
        )
    sent = vlm.goals[-1].request
    assert (sent.prompt, sent.system_prompt, sent.task) == ("Hello \ufffd", "\ufffd", "\ufffd")
    assert (list(sent.cameras), list(sent.options.stop)) == (["😀"], ["\ufffd"])
    assert sent.slots == '{"what\ufffd": "\ufffd"}'
    assert list(sent.history[0].content) == ["\ufffd"]


def test_a_message_that_cannot_be_sent_ends_its_question_and_no_later_one(vlm: ScriptedVlm) -> None:
    image = Image(height=1, width=1, encoding="mono8", step=1, data=b"1", header=Header(frame_id="\ud83d"))
    with VlmClient() as client:
        for _ in range(2):  # as the first question it is sent by the client's thread, later by the caller's
            with pytest.raises(BadRequest, match="cannot be sent"):
                client.ask("?", images=[image])
        assert client.ask("?").finish_reason == "stop"
        assert client.stream("?").answer.finish_reason == "stop"


def test_an_argument_that_does_not_exist_is_refused(client: VlmClient) -> None:
    with pytest.raises(TypeError, match="temprature"):
        client.ask("What?", temprature=0.0)  # type: ignore[call-arg]


# Cancelling.


def test_cancel_ends_the_question_with_the_text_so_far(vlm: ScriptedVlm, client: VlmClient) -> None:
    vlm.script = until_cancelled
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    question.cancel()
    with pytest.raises(Cancelled) as caught:
        question.result(WAIT)
    assert caught.value.text == "red"


def test_leaving_the_loop_cancels_the_question(vlm: ScriptedVlm, client: VlmClient) -> None:
    vlm.script = until_cancelled
    stream = client.stream("What?")
    for _ in stream:
        break
    assert vlm.goals[0].cancelled.wait(WAIT)
    with pytest.raises(Cancelled):
        stream.answer  # noqa: B018


def test_a_cancel_before_the_node_is_there_ends_the_question_at_once(client: VlmClient) -> None:
    with VlmClient(namespace="nobody") as alone:
        question = alone.send("What?")
        question.cancel()
        assert isinstance(question.exception(), Cancelled)


def test_a_cancel_that_got_lost_is_sent_again(
    vlm: ScriptedVlm, client: VlmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, lost = GoalClient.cancel, []

    def lose_the_first(*arguments: Any) -> None:
        lost.append(arguments)
        if len(lost) > 1:
            cancel(*arguments)

    monkeypatch.setattr(GoalClient, "cancel", lose_the_first)
    vlm.script = until_cancelled
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    question.cancel()
    with pytest.raises(Cancelled, match=r"^(?!.*did not confirm)"):
        question.result(WAIT)
    assert vlm.goals[0].cancelled.is_set()


def test_a_cancel_that_nobody_confirms_ends_the_question_all_the_same(
    vlm: ScriptedVlm, client: VlmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_future_module, "CANCEL_GRACE", 0.2)
    release = threading.Event()

    def script(goal: Goal) -> AskImage.Result:
        goal.say("red")
        assert release.wait(WAIT)
        return goal.result()

    vlm.script = script
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    question.cancel()
    with pytest.raises(Cancelled, match="did not confirm"):
        question.result(WAIT)
    release.set()


@pytest.mark.parametrize("how", ["ask", "stream"])
def test_ctrl_c_cancels_the_question_and_passes_on(vlm: ScriptedVlm, client: VlmClient, how: str) -> None:
    def script(goal: Goal) -> AskImage.Result:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return until_cancelled(goal)

    vlm.script = script
    with pytest.raises(KeyboardInterrupt):
        client.ask("What?") if how == "ask" else list(client.stream("What?"))
    assert vlm.goals[0].cancelled.wait(WAIT)


def test_closing_the_client_ends_its_questions_and_cancels_them_on_the_node(vlm: ScriptedVlm) -> None:
    vlm.script = until_cancelled
    client = VlmClient(server_timeout=WAIT)
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    client.close()
    client.close()
    assert isinstance(question.exception(), Cancelled)
    assert vlm.goals[0].cancelled.wait(WAIT)
    with pytest.raises(ServerUnavailable, match="closed"):
        client.ask("More?")


def test_closing_the_client_cancels_what_the_node_took_without_its_knowing(vlm: ScriptedVlm, lose: Lose) -> None:
    lose("send")
    vlm.script = until_cancelled
    client = VlmClient(server_timeout=WAIT)
    client._tracker._action_client.new_statuses = dict  # they are late
    question = client.send("What?")
    assert next(question.deltas()) == "red"
    client.close()
    assert vlm.goals[0].cancelled.wait(WAIT)


# Where it is called from.


@pytest.mark.parametrize("executor", [SingleThreadedExecutor, MultiThreadedExecutor])
def test_it_works_in_a_node_that_spins_elsewhere(vlm: ScriptedVlm, node: Any, executor: type[Executor]) -> None:
    with Spinning(executor(context=node.context), node):
        client = VlmClient(node, server_timeout=WAIT)
        assert client.ask("What?").text == "yes"
        client.close()
        assert node.context.ok()


def test_waiting_in_a_callback_of_the_only_thread_is_refused_with_a_way_out(vlm: ScriptedVlm, node: Any) -> None:
    with Spinning(SingleThreadedExecutor(context=node.context), node) as spinning:
        client = VlmClient(node, server_timeout=WAIT)
        vlm.script = until_cancelled
        question = client.send("What?")
        for work in (lambda: client.ask("What?"), lambda: list(client.stream("What?")), question.result):
            error = spinning.in_callback(work)
            assert isinstance(error, WouldDeadlock)
            assert "send()" in str(error)
            assert "MultiThreadedExecutor" in str(error)
        question.cancel()
        with pytest.raises(Cancelled):
            question.result(WAIT)


def test_sending_in_a_callback_of_the_only_thread_works(vlm: ScriptedVlm, node: Any) -> None:
    with Spinning(SingleThreadedExecutor(context=node.context), node) as spinning:
        client = VlmClient(node, server_timeout=WAIT)
        question = spinning.in_callback(lambda: client.send("What?"))
        assert question.result(WAIT).text == "yes"


def test_text_arrives_while_the_only_thread_of_the_executor_is_busy(vlm: ScriptedVlm, node: Any) -> None:
    listening, busy, arrived, end = (threading.Event() for _ in range(4))

    def script(goal: Goal) -> AskImage.Result:
        while not busy.wait(0.05):
            goal.say("")  # lost until the client's subscription is discovered
        goal.say("a red box")
        assert end.wait(WAIT)
        return goal.result()

    def note_change() -> None:
        if question.stage == AskImage.Feedback.STAGE_DECODE:
            listening.set()
        if question.text:
            arrived.set()

    def wait_for_text() -> bool:
        busy.set()
        return arrived.wait(WAIT)

    vlm.script = script
    with Spinning(SingleThreadedExecutor(context=node.context), node) as spinning:
        client = VlmClient(node, server_timeout=WAIT)
        question = client.send("What is it?")
        question.on_change(note_change)
        note_change()
        assert listening.wait(WAIT)
        assert spinning.in_callback(wait_for_text) is True
        end.set()
        assert question.result(WAIT).text == "a red box"


def test_waiting_in_a_callback_works_with_several_threads(vlm: ScriptedVlm, node: Any) -> None:
    with Spinning(MultiThreadedExecutor(num_threads=2, context=node.context), node) as spinning:
        client = VlmClient(node, server_timeout=WAIT)
        assert spinning.in_callback(lambda: client.ask("What?")).text == "yes"


def test_an_executor_that_would_deadlock_is_refused_with_a_way_out(vlm: ScriptedVlm, node: Any) -> None:
    experimental = pytest.importorskip("rclpy.experimental", reason="this ROS has no EventsExecutor")
    executor = experimental.EventsExecutor(context=node.context)
    executor.add_node(node)
    client = VlmClient(node, server_timeout=WAIT)
    for call in (client.ask, client.send):
        with pytest.raises(WouldDeadlock, match=r"EventsExecutor.*VlmClient\(\)"):
            call("What?")
    executor.remove_node(node)


def test_a_node_that_nobody_spins_is_named(vlm: ScriptedVlm, node: Any) -> None:
    with pytest.raises(NotSpinning, match="behaviour"):
        VlmClient(node, server_timeout=0.3).ask("What?")


def test_shutting_ros_down_ends_the_question(vlm: ScriptedVlm, node: Any) -> None:
    vlm.script = until_cancelled
    with Spinning(SingleThreadedExecutor(context=node.context), node):
        client = VlmClient(node, server_timeout=WAIT)
        question = client.send("What?")
        assert next(question.deltas()) == "red"
        node.context.shutdown()
        with pytest.raises(Cancelled, match="ROS was shut down"):
            question.result(WAIT)
    vlm.goals[0].cancelled.set()


@pytest.mark.parametrize("executor", [SingleThreadedExecutor, MultiThreadedExecutor])
def test_clients_that_come_and_go_do_not_end_whoever_spins_their_node(node: Any, executor: type[Executor]) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads meet each other everywhere
    try:
        with Spinning(executor(context=node.context), node) as spinning:
            for _ in range(4):
                node.create_timer(0.001, lambda: None)
            for _ in range(300):
                VlmClient(node).close()
            assert spinning.in_callback(lambda: "alive") == "alive"
    finally:
        sys.setswitchinterval(interval)


def test_closing_between_a_reply_and_what_follows_it_does_not_end_whoever_spins(vlm: ScriptedVlm, node: Any) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    client = VlmClient(node, server_timeout=WAIT)
    first = client.send("What?")
    while not first.done():  # once a question was answered, no reply gets lost because the client is unknown
        executor.spin_once(0.1)
    vlm.script = until_cancelled
    question = client.send("What?")
    goals = client._tracker._action_client
    while not any(reply.done() for [(_, reply)] in goals._awaited.values()):  # its callback is the executor's next task
        executor.spin_once(WAIT)
    client.close()
    for _ in range(10):
        executor.spin_once(0.01)
    assert isinstance(question.exception(), Cancelled)
    executor.remove_node(node)
    executor.shutdown()


def test_destroying_the_ros_node_ends_its_questions_at_once_and_every_call_says_so(vlm: ScriptedVlm, node: Any) -> None:
    def wait() -> None:
        with pytest.raises(Cancelled, match=r"ROS node behaviour.* was destroyed"):
            waiting.result(WAIT)
        ended.append(time.monotonic())

    vlm.script = until_cancelled
    with Spinning(SingleThreadedExecutor(context=node.context), node):
        client = VlmClient(node, server_timeout=WAIT)
        question, waiting = client.send("What?"), client.send("What?")
        assert next(question.deltas()) == next(waiting.deltas()) == "red"
        ended: list[float] = []
        waiter = threading.Thread(target=wait)
        waiter.start()
        node.destroy_node()
        began = time.monotonic()
        assert question.done()
        assert isinstance(question.exception(), Cancelled)
        for call in (question.result, lambda: client.ask("More?"), client.tasks, client.wait_for_server):
            with pytest.raises(Cancelled, match=r"ROS node behaviour.* was destroyed"):
                call()
        assert client.send("More?").done()
        assert time.monotonic() - began < 2.0
        waiter.join()
        assert ended[0] - began < 5.0
        assert client._tracker._open_goals == {}
        client.close()
    for goal in vlm.goals:
        goal.cancelled.set()


def test_whoever_waits_for_a_node_or_its_tasks_hears_that_the_ros_node_was_destroyed(node: Any) -> None:
    client = VlmClient(node, node_name="nobody", server_timeout=WAIT)
    errors: list[VlmError] = []

    def note_the_error(wait: Callable[[], object]) -> None:
        try:
            wait()
        except VlmError as error:
            errors.append(error)

    waiting = [threading.Thread(target=note_the_error, args=(wait,)) for wait in (client.wait_for_server, client.tasks)]
    for thread in waiting:
        thread.start()
    while not client._tracker._server_waiters or client._task_list is None:
        assert all(thread.is_alive() for thread in waiting)
    node.destroy_node()
    for thread in waiting:
        thread.join(WAIT)
    assert [type(error) for error in errors] == [Cancelled, Cancelled]
    client.close()


def test_a_closed_client_says_so_whatever_it_is_asked() -> None:
    client = VlmClient()
    client.close()
    for call in (lambda: client.ask("What?"), client.tasks, client.wait_for_server):
        with pytest.raises(ServerUnavailable, match="closed"):
            call()


def test_a_question_to_a_ros_node_that_was_destroyed_ends_all_the_same(vlm: ScriptedVlm, node: Any) -> None:
    vlm.script = until_cancelled
    with Spinning(SingleThreadedExecutor(context=node.context), node):
        client = VlmClient(node, server_timeout=WAIT)
        question = client.send("What?")
        assert next(question.deltas()) == "red"
        node.destroy_node()
        question.cancel()
        client.close()
    assert isinstance(question.exception(), Cancelled)


def test_it_asks_the_node_of_its_own_namespace() -> None:
    server = ScriptedVlm(namespace="robot1")
    try:
        with VlmClient(namespace="robot1", server_timeout=WAIT) as client:
            assert client.action == "/robot1/vlm/ask_image"
            assert client.ask("What?").text == "yes"
        with VlmClient(node_name="/robot1/vlm", server_timeout=WAIT) as client:
            assert client.ask("What?").text == "yes"
    finally:
        server.close()


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(vlm: ScriptedVlm, client: VlmClient) -> None:
    def script(goal: Goal) -> AskImage.Result:
        goal.say(f"{goal.request.prompt}!")
        return goal.result()

    vlm.script = script
    wrong: list[object] = []

    def ask(number: int) -> None:
        try:
            for turn in range(10):
                prompt = f"{number}.{turn}"
                if client.ask(prompt).text != f"{prompt}!" or "".join(client.stream(prompt)) != f"{prompt}!":
                    wrong.append(prompt)
        except VlmError as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Images.


def test_images_travel_pixel_by_pixel_and_in_order(vlm: ScriptedVlm, client: VlmClient, tmp_path: Path) -> None:
    colour = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    PIL.Image.fromarray(colour).save(tmp_path / "a.png")
    PIL.Image.fromarray(colour).save(tmp_path / "a.bmp")
    client.ask("?", images=[colour, grey[:, ::-1], tmp_path / "a.bmp", Image(encoding="8UC1"), tmp_path / "a.png"])
    sent = vlm.goals[-1].request
    assert [image.encoding for image in sent.images] == ["rgb8", "mono8", "rgb8", "8UC1"]
    assert bytes(sent.images[0].data) == bytes(sent.images[2].data) == colour.tobytes()
    assert bytes(sent.images[1].data) == grey[:, ::-1].tobytes()
    assert (sent.images[0].height, sent.images[0].width, sent.images[0].step) == (2, 3, 9)
    assert [image.format for image in sent.compressed_images] == ["png"]
    assert bytes(sent.compressed_images[0].data) == (tmp_path / "a.png").read_bytes()

    file = CompressedImage(format="png", data=(tmp_path / "a.png").read_bytes())
    file.header.frame_id = "first"
    client.ask("?", images=[file, grey])
    sent = vlm.goals[-1].request
    assert [image.encoding for image in sent.images] == ["rgb8", "mono8"]
    assert bytes(sent.images[0].data) == colour.tobytes()
    assert sent.images[0].header.frame_id == "first"
    assert not sent.compressed_images

    client.ask("?", images=str(tmp_path / "a.png"))
    assert len(vlm.goals[-1].request.compressed_images) == 1


def test_an_image_that_is_none_is_refused_with_its_name(client: VlmClient, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for image, sentence in (
        (tmp_path / "missing.jpg", "missing.jpg cannot be read"),
        (tmp_path / "notes.txt", "notes.txt is not an image"),
        (np.zeros((2, 2, 3)), "float64"),
        (np.zeros((2, 2, 4), np.uint8), r"\[2, 2, 4\]"),
        (7, "not int"),
    ):
        with pytest.raises(BadImage, match=sentence):
            client.send("?", images=[image])
