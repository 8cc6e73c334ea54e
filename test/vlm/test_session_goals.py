"""Conversations that the node keeps, over real DDS: what reaches the model, what the asker is told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer, ChatMessage
from qwen3vl_ros.srv import ResetSession, SetEngine

import child_process
import third_party
from fake_maix_service import FakeMaixService
from fake_openai_server import FakeServer
from qwen3vl_ros.client import VlmClient
from ros_client import RosClient, noise_image
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
Code = AskImage.Result

LISTENER = """
    import json
    import threading
    from pathlib import Path
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Listener:
        '''Writes down the messages that it gets; answers with their number, or what the last one asks for.'''

        def __init__(self, heard, progress, side=64, conversation=True):
            self._heard, self._side, self._conversation = Path(heard), side, conversation

        def describe(self):
            return Description("listener", f"side {self._side}", context_length=2000, max_images=4, concurrency=2,
                               supports=frozenset({"text_only", "max_tokens", "temperature", "system_prompt", "video"}),
                               image_input=ImageInput(size=(self._side, self._side)),
                               card=ModelCard(conversation=self._conversation))

        def generate(self, request, cancel):
            def text_of(part):
                if isinstance(part, str):
                    return part
                return f"<{len(part.frames)} frames>" if isinstance(part, Clip) else f"<{part.shape[1]}>"

            said = [[m.role, "".join(map(text_of, m.content))] for m in request.messages]
            with self._heard.open("a") as heard:
                heard.write(json.dumps(said) + "\\n")
            prompt = said[-1][1]
            if "Die" in prompt:
                import os
                os.abort()
            if "Long" in prompt and len(said) > 3:
                raise PromptTooLong("999 tokens, and the limit is 320")
            answer = prompt.partition("Say ")[2] or f"answer {len(said)}"
            yield Chunk(Stage.DECODE, answer[:3], completion_tokens=1)
            if "Wait" in prompt:
                cancel.wait()
            if "File" in prompt:
                import time
                while not self._heard.with_suffix(".go").exists() and not cancel.wait(0.01):
                    pass
            reason = "cancelled" if cancel.is_set() else "stop"
            usage = Usage(prompt_tokens=100 * len(said), completion_tokens=2)
            yield Chunk(Stage.DECODE, answer[3:], "", 2, reason, usage)

        def close(self):
            pass
"""


class Listener:
    def __init__(self, folder: Path, start_vlm: Callable[..., VlmProcess]) -> None:
        self._file, self._start = folder / "heard", start_vlm

    def start(self, engine: str = "listener", **parameters: Any) -> VlmProcess:
        heard = {f"{name}__heard": str(self._file) for name in ("listener", "other", "forgetful")}
        own = {"other__side": 32, "forgetful__conversation": False}
        node = self._start(engine=engine, **heard, **own, **parameters).wait_connected()
        self._file.write_text("")
        return node

    def go(self) -> None:
        """Let a question with "File" in it end."""
        self._file.with_suffix(".go").touch()

    @property
    def heard(self) -> list[list[str]]:
        """The texts of each question's messages."""
        return [[text for _, text in json.loads(line)] for line in self._file.read_text().splitlines()]


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Listener:
    names = dict.fromkeys(("listener", "other", "forgetful"), "Listener")
    package = third_party.install(tmp_path / "installed", LISTENER, names)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return Listener(tmp_path, start_vlm)


def reset(ros: RosClient, session: str = "") -> ResetSession.Response:
    return ros.call(ResetSession, "/vlm/reset_session", ResetSession.Request(session=session))


def test_a_conversation_goes_on_until_it_is_reset(ros: RosClient, listener: Listener) -> None:
    node = listener.start(session__max_turns=2)
    image = noise_image()
    image.header.frame_id = "lens"
    with ros.listen(Answer, "/vlm/answers") as answers:
        first = ros.ask("One?", session="patrol", images=[image]).result()
        assert (first.error_msg, first.text) == ("", "answer 1")
        assert answers.wait_for().session == "patrol"
    node.wait_status(lambda s: s.sessions == 1)
    followed = ros.ask("Two?", session="patrol", text_only=True).result()
    assert followed.text == "answer 3"
    assert [header.frame_id for header in followed.image_headers] == ["lens"], "it is about the conversation's image"
    response = ros.ask_service(prompt="Three?", session="patrol", images=[noise_image(seed=1)])
    assert (response.error_msg, list(response.notes)) == ("", [])
    last = ros.ask("Four?", session="patrol", text_only=True).result()
    assert list(last.notes) == [
        "the conversation's oldest question was left out, with answers and images: session.max_turns keeps 2"
    ]
    assert listener.heard == [
        ["<64>One?"],
        ["<64>One?", "answer 1", "Two?"],
        ["<64>One?", "answer 1", "Two?", "answer 3", "<64>Three?"],
        ["Two?", "answer 3", "<64>Three?", "answer 5", "Four?"],
    ]
    ros.ask("Alone?", text_only=True).result()
    ros.ask("Elsewhere?", session="other", text_only=True).result()
    assert listener.heard[-2:] == [["Alone?"], ["Elsewhere?"]]
    node.wait_status(lambda s: s.sessions == 2)
    assert not reset(ros, "nobody").success
    assert reset(ros, "patrol").success
    node.wait_status(lambda s: s.sessions == 1)
    ros.ask("Five?", session="patrol", text_only=True).result()
    assert listener.heard[-1] == ["Five?"]
    assert reset(ros).success
    node.wait_status(lambda s: s.sessions == 0)


def test_a_session_beside_a_history_is_refused_by_name(ros: RosClient, listener: Listener) -> None:
    listener.start()
    before = [ChatMessage(role="user", content=["One?"]), ChatMessage(role="assistant", content=["One."])]
    for fields, words in (
        ({"session": "x", "history": before}, "session: the goal brings a history as well"),
        ({"session": "x" * 300}, "session: the name has 300 characters"),
    ):
        result = ros.ask("Two?", text_only=True, **fields).result()
        assert result.error_code == Code.BAD_REQUEST and result.error_msg.startswith(words)
    assert ros.ask("Two?", text_only=True, history=before).result().text == "answer 3"


def test_a_model_without_conversation_refuses_a_session_by_name(ros: RosClient, listener: Listener) -> None:
    listener.start("forgetful")
    result = ros.ask("One?", text_only=True, session="x").result()
    assert result.error_code == Code.UNSUPPORTED
    assert result.error_msg.startswith("session: the model side 64 knows no conversation")


def test_engines_that_remember_nothing_get_the_conversation_again_or_refuse_it_by_name(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    server, board = FakeServer(lambda exchange: exchange.answer("Two", " boxes.")), FakeMaixService()
    try:
        node = start_vlm(engine="openai", openai__base_urls=[server.url], maix_http__base_url=board.url)
        node.wait_connected()
        ros.ask("How many?", session="x", images=[noise_image()]).result()
        assert ros.ask("And balls?", session="x", text_only=True).result().text == "Two boxes."
        first, second = (exchange.json["messages"] for exchange in server.questions)
        assert [message["role"] for message in second] == ["user", "assistant", "user"]
        assert second[0] == first[0] and any(part["type"] == "image_url" for part in second[0]["content"])
        assert "Two boxes." in json.dumps(second[1]) and "And balls?" in json.dumps(second[2])

        assert ros.call(SetEngine, "/vlm/set_engine", SetEngine.Request(engine="maix_http")).success
        refused = ros.ask("And cups?", session="x", images=[noise_image()]).result()
        assert refused.error_code == Code.UNSUPPORTED
        assert refused.error_msg.startswith("session: ") and "knows no conversation" in refused.error_msg
        assert not board.questions
    finally:
        server.close()
        board.close()


def test_questions_of_a_session_wait_for_each_other_and_those_that_fail_leave_nothing(
    ros: RosClient, listener: Listener
) -> None:
    node = listener.start()
    ros.ask("One?", session="x", text_only=True).result()
    cancelled = ros.ask("Wait.", session="x", text_only=True)
    cancelled.wait_for_text()
    second = ros.ask("Two?", session="x", text_only=True, priority=9)
    third = ros.ask("Three?", session="x", text_only=True, priority=99)
    elsewhere = ros.ask("Elsewhere?", session="y", text_only=True).result()
    assert elsewhere.text == "answer 1", "another session does not wait for a slot that is free"
    assert not second.done and not third.done
    assert cancelled.cancel()
    assert second.result().text == "answer 3" and third.result().text == "answer 5"
    assert listener.heard[-1] == ["One?", "answer 1", "Two?", "answer 3", "Three?"]
    running = ros.ask("File?", session="x", text_only=True)
    running.wait_for_text()
    assert reset(ros, "x").success
    listener.go()
    assert running.result().text == "answer 7"
    assert ros.ask("Anew?", session="x", text_only=True).result().text == "answer 1"
    assert node.wait_ready().queue_length == 0


def test_a_prompt_that_is_too_long_is_asked_again_without_the_oldest_turns(ros: RosClient, listener: Listener) -> None:
    listener.start()
    for prompt in ("One?", "Two?", "Three?"):
        ros.ask(prompt, session="x", text_only=True).result()
    result = ros.ask("Long?", session="x", text_only=True).result()
    assert result.text == "answer 3", result.error_msg
    assert list(result.notes) == [
        "the conversation's 2 oldest questions were left out, with answers and images: the prompt would have been too "
        "long"
    ]
    assert listener.heard[-1] == ["Three?", "answer 5", "Long?"]


def test_a_conversation_survives_the_engine_and_the_change_to_another_one(ros: RosClient, listener: Listener) -> None:
    node = listener.start()
    ros.ask("One?", session="x", images=[noise_image()]).result()
    worker = node.worker()
    assert ros.ask("Die.", session="x", text_only=True).result().error_code == Code.ENGINE_CRASHED
    node.wait_status(lambda s: s.state == s.READY and s.engine_pid not in (0, worker))
    ros.ask("Two?", session="x", text_only=True).result()
    assert listener.heard[-1] == ["<64>One?", "answer 1", "Two?"]
    assert ros.call(SetEngine, "/vlm/set_engine", SetEngine.Request(engine="other")).success
    result = ros.ask("Three?", session="x", text_only=True).result()
    assert (result.model, result.error_msg) == ("side 32", "")
    assert listener.heard[-1] == ["<32>One?", "answer 1", "Two?", "answer 3", "Three?"]
    assert ros.lifecycle("deactivate") and ros.lifecycle("activate")
    assert ros.ask("Four?", session="x", text_only=True).result().text == "answer 7"
    assert ros.lifecycle("deactivate") and ros.lifecycle("cleanup")
    node.wait_status(lambda s: s.state == s.UNCONFIGURED and s.sessions == 0)


def test_a_follow_up_is_about_the_clip_of_the_conversation_with_its_times(ros: RosClient, listener: Listener) -> None:
    listener.start()
    frames = [noise_image(seed=number) for number in range(4)]
    for second, image in enumerate(frames, 1000):
        image.header.stamp.sec = second
    first = ros.ask("What happened?", session="x", images=frames, images_are_clip=True).result()
    assert first.error_msg == ""
    followed = ros.ask("Say At 2.0 seconds.", session="x", text_only=True).result()
    assert [(moment.stamp.sec, moment.image_index) for moment in followed.moments] == [(1002, 2)]
    assert [header.stamp.sec for header in followed.image_headers] == [1000, 1001, 1002, 1003]
    task = ros.ask("it moves", task="when", session="x", text_only=True).result()
    assert task.error_code != Code.UNSUPPORTED and "text_only" not in task.error_msg
    assert [said[0] for said in listener.heard] == ["<4 frames>What happened?"] * len(listener.heard)


def test_the_python_client_asks_in_a_session_and_forgets_it_at_the_end_of_the_block(
    ros: RosClient, listener: Listener
) -> None:
    node = listener.start()
    with VlmClient() as client:
        with client.session() as session:
            assert session.ask("One?", images=[np.zeros((48, 64, 3), np.uint8)]).text == "answer 1"
            assert session.ask("Two?", text_only=True).text == "answer 3"
            assert "".join(session.stream("Three?", text_only=True)) == "answer 5"
            assert client.ask("Four?", text_only=True, session=session.name).text == "answer 7"
            with client.session() as other:
                assert other.send("One?", text_only=True).result().text == "answer 1"
                node.wait_status(lambda s: s.sessions == 2)
            node.wait_status(lambda s: s.sessions == 1)
        node.wait_status(lambda s: s.sessions == 0)
        client.ask("One?", text_only=True, session="kept")
        client.reset_session()
        assert client.ask("Anew?", text_only=True, session="kept").text == "answer 1"


def test_the_command_line_continues_a_session_and_resets_it(ros: RosClient, listener: Listener) -> None:
    listener.start()

    def run(*arguments: str) -> tuple[int, str, str]:
        command = child_process.command("qwen3vl_ros.cli.main", *arguments, "--wait", "60")
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout.strip(), done.stderr

    assert run("ask", "--session", "x", "--text-only", "One?")[:2] == (0, "answer 1")
    assert run("ask", "--session", "x", "--text-only", "Two?")[:2] == (0, "answer 3")
    assert run("session", "reset", "x")[:2] == (0, "the conversation 'x' is forgotten, 2 questions")
    status, out, error = run("session", "reset", "x")
    assert (status, out) == (1, "") and "no conversation 'x' is kept" in error
    assert run("session", "reset", "--all")[:2] == (0, "0 conversations forgotten")
    assert run("session", "reset")[0] == 2


def test_a_follow_up_reads_neither_the_image_nor_the_earlier_question_again(ros: RosClient, vlm: VlmProcess) -> None:
    image = noise_image(320, 240)
    first = ros.ask("How many boxes are there?", session="counting", images=[image]).result()
    assert first.error_msg == "" and first.usage.encode_time > 0
    second = ros.ask("What colour is the box?", session="counting", text_only=True).result()
    assert second.usage.cached_tokens >= first.usage.prompt_tokens and second.usage.encode_time == 0
    again = ros.ask("Is there a ball?", session="counting", images=[image]).result()
    assert again.usage.cached_tokens >= second.usage.prompt_tokens and again.usage.encode_time == 0
    assert again.usage.image_tokens == first.usage.image_tokens, "the same pixels are in the prompt once"
    reset(ros, "counting")
