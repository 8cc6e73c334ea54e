"""`qwen3vl-ros chat` and the terminal's side of `ask`, against a real action server whose behaviour the test writes."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import ModelCard, VlmStatus
from rclpy.qos import DurabilityPolicy, QoSProfile

import child_process
from scripted_vlm import WAIT, Goal, ScriptedVlm, until_cancelled
from terminal import CTRL_C, CTRL_D, UP, Terminal

pytestmark = pytest.mark.ros
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ToldVlm(ScriptedVlm):
    """A scripted node that also says what its model is for."""

    def __init__(self) -> None:
        super().__init__()
        self._status = self.node.create_publisher(VlmStatus, "~/status", LATCHED)

    def tell(self, **card: object) -> None:
        self._status.publish(VlmStatus(state=VlmStatus.READY, model_card=ModelCard(**card)))


@pytest.fixture(scope="module")
def server() -> Iterator[ToldVlm]:
    server = ToldVlm()
    yield server
    server.close()


@pytest.fixture
def vlm(server: ToldVlm) -> ToldVlm:
    server.rewrite(lambda goal: goal.result(text=f"answer {len(server.goals)}"))
    server.tell(conversation=True)
    return server


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    """Where the lines are kept that were typed."""
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def chat(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A chat whose lines come from a pipe."""
    command = child_process.command("qwen3vl_ros.cli.main", "chat", "--wait", str(WAIT), *arguments)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=2 * WAIT)


def history(goal: Goal) -> list[tuple[str, list[str]]]:
    return [(turn.role, list(turn.content)) for turn in goal.request.history]


def test_each_question_brings_those_before_it_with_their_answers(vlm: ToldVlm) -> None:
    done = chat("What is it?\n\nAnd its colour?\n", "--system", "Be short.", "--camera", "front")
    assert (done.returncode, done.stdout) == (0, "answer 1\nanswer 2\n")
    first, second = vlm.goals
    assert (first.request.prompt, history(first)) == ("What is it?", [])
    assert second.request.prompt == "And its colour?"
    assert history(second) == [("user", ["What is it?"]), ("assistant", ["answer 1"])]
    assert [goal.request.system_prompt for goal in vlm.goals] == ["Be short.", "Be short."]
    assert [goal.request.cameras for goal in vlm.goals] == [["front"], ["front"]]


def test_a_model_without_conversation_is_asked_afresh_and_the_user_told_once(vlm: ToldVlm) -> None:
    vlm.tell(conversation=False)
    done = chat("What is it?\nAnd its colour?\nAnd its shape?\n")
    assert [history(goal) for goal in vlm.goals] == [[], [], []]
    assert done.stderr.count("each question is asked afresh") == 1
    assert "afresh" not in done.stdout


def test_an_image_belongs_to_the_first_question_of_its_conversation(vlm: ToldVlm, tmp_path: Path) -> None:
    for name in ("a.png", "b c.png"):
        PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    script = f"One?\nTwo?\n/image {tmp_path}/b c.png\nThree?\n/image /nowhere.png\n/image\nFour?\n"
    done = chat(script, "--image", str(tmp_path / "a.png"))
    one, two, three, four = vlm.goals
    assert [len(goal.request.compressed_images) for goal in vlm.goals] == [1, 1, 1, 0]
    assert [goal.request.text_only for goal in vlm.goals] == [False, True, False, False]
    assert history(two) == [("user", ["", "One?"]), ("assistant", ["answer 1"])]
    assert history(one) == history(three) == history(four) == []
    assert "/nowhere.png cannot be read" in done.stderr
    assert done.returncode == 2


def test_lines_with_a_slash_are_commands(vlm: ToldVlm) -> None:
    done = chat("One?\n/task locate red cup\n/new\nTwo?\n/sing\n/help\n/quit\nThree?\n")
    one, task, two = vlm.goals
    assert (task.request.task, task.request.prompt, history(task)) == ("locate", "red cup", [])
    assert (one.request.task, two.request.task, history(two)) == ("", "", [])
    assert "There is no /sing" in done.stderr
    assert "/image FILE" in done.stderr
    assert done.stdout == "answer 1\nanswer 2\nanswer 3\n"


def test_the_exit_status_tells_of_a_question_that_failed(vlm: ToldVlm) -> None:
    vlm.script = lambda goal: goal.result(AskImage.Result.NO_FRAME, "No frame.")
    done = chat("One?\n")
    assert done.returncode == 4
    assert "No frame." in done.stderr
    missing = subprocess.run(
        child_process.command("qwen3vl_ros.cli.main", "chat", "--node", "/nobody", "--wait", "0.3"),
        input="One?\n", capture_output=True, text=True, check=False, timeout=WAIT,
    )  # fmt: skip
    assert missing.returncode == 3
    assert "No node serves the action /nobody/ask_image" in missing.stderr


def test_ctrl_c_cancels_the_answer_and_at_the_prompt_ends_the_chat(vlm: ToldVlm, state: dict[str, str]) -> None:
    vlm.script = until_cancelled
    with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
        terminal.wait_for("> ")
        terminal.press("What is it?\n")
        terminal.wait_for("red")
        terminal.press(CTRL_C)
        terminal.wait_for("CANCELLED")
        terminal.wait_for("> ")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert vlm.goals[0].cancelled.is_set()
    assert "Traceback" not in terminal.text


def test_a_second_ctrl_c_does_not_wait_for_the_node(vlm: ToldVlm, state: dict[str, str]) -> None:
    def script(goal: Goal) -> AskImage.Result:
        goal.say("red")
        assert goal.cancelled.wait(WAIT)
        assert left.wait(WAIT)  # the node does not confirm the cancel
        return goal.result(AskImage.Result.CANCELLED, "Cancelled.")

    left = threading.Event()
    vlm.script = script
    try:
        with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
            terminal.wait_for("> ")
            terminal.press("What is it?\n")
            terminal.wait_for("red")
            terminal.press(CTRL_C)
            assert vlm.goals[0].cancelled.wait(WAIT)
            terminal.press(CTRL_C)
            assert terminal.end() == 130
    finally:
        left.set()
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_programs_ends_the_chat_and_its_question(
    vlm: ToldVlm, state: dict[str, str], number: int
) -> None:
    vlm.script = until_cancelled
    with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
        terminal.wait_for("> ")
        terminal.press("What is it?\n")
        terminal.wait_for("red")
        terminal.process.send_signal(number)
        assert terminal.end() == 130
    assert vlm.goals[0].cancelled.wait(WAIT)


def test_lines_that_were_typed_come_back_also_in_the_next_chat(vlm: ToldVlm, state: dict[str, str]) -> None:
    with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
        terminal.wait_for("> ")
        terminal.press("What is it?\n")
        terminal.wait_for("answer 1")
        terminal.wait_for("> ")
        terminal.press(f"{UP}\n")
        terminal.wait_for("answer 2")
        terminal.wait_for("> ")
        terminal.press(CTRL_D)
        assert terminal.end() == 0
    with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
        terminal.wait_for("> ")
        terminal.press(f"{UP}\n")
        terminal.wait_for("answer 3")
        terminal.press("/quit\n")
        assert terminal.end() == 0
    assert [goal.request.prompt for goal in vlm.goals] == ["What is it?"] * 3


def test_a_note_on_every_answer_is_told_once_in_a_chat(vlm: ToldVlm, state: dict[str, str]) -> None:
    line = "a demonstration model: It knows boxes only."
    vlm.rewrite(lambda goal: goal.result(text=f"answer {len(vlm.goals)}", notes=[line]))
    with Terminal("chat", "--wait", str(WAIT), environment=state) as terminal:
        terminal.wait_for("> ")
        terminal.press("What is it?\n")
        terminal.wait_for(line)
        terminal.wait_for("> ")
        terminal.press("And now?\n")
        terminal.wait_for("answer 2")
        terminal.press("/quit\n")
        terminal.end()
    assert terminal.text.count(line) == 1
