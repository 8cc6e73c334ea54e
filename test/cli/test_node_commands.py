"""The commands about a running node, against the real node and the shipped model."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from qwen3vl_ros.srv import MoveObject, PointCamera
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

import child_process
from qwen3vl_ros.ros.spinning import SpinThread
from terminal import CTRL_C, Terminal
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
WAIT = 60.0


def start(*arguments: str, wait: float = WAIT) -> subprocess.Popen[str]:
    command = child_process.command("qwen3vl_ros.cli.main", *arguments, "--wait", str(wait))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str, wait: float = WAIT) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, wait=wait)
    out, err = process.communicate(timeout=2 * WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def status() -> dict[str, Any]:
    done = run("status", "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_status_says_how_the_node_is_to_scripts(vlm: VlmProcess) -> None:
    before = status()
    assert (before["node"], before["state"], before["engine"], before["model"]) == (
        "/vlm",
        "ready",
        "llama",
        "Tabletop",
    )
    assert set(before["model_card"]) >= {"domain", "demonstration", "tasks", "conversation", "languages", "license"}
    (camera,) = before["cameras"]
    assert (camera["name"], camera["topic"], camera["age"]) == ("default", "/image", None)
    assert "nobody publishes /image" in camera["problem"]
    assert before["queue"] == {"waiting": 0, "capacity": 8}
    assert run("ask", "What is it?", "--timeout", "60").returncode == 4
    after = status()
    assert after["goals"]["failed"] == before["goals"]["failed"] + 1
    assert "/image" in after["last_error"]


@pytest.mark.once
def test_status_says_it_to_people_and_each_thing_on_its_line(vlm: VlmProcess) -> None:
    done = run("status")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert lines["node"] == "/vlm"
    assert lines["state"] == "ready"
    assert lines["engine"].startswith(f"llama (pid {vlm.worker()}, ")
    assert lines["model"].startswith("Tabletop (")
    assert lines["camera"].startswith("default: /image, rate unknown, no frame, ")
    assert lines["questions"].count(",") == 2


def test_status_can_be_watched_by_scripts_and_on_a_terminal(vlm: VlmProcess) -> None:
    refused = run("status", "--watch")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--json" in refused.stderr
    watching = start("status", "--watch", "--json")
    assert watching.stdout is not None
    with Terminal("status", "--watch", "--wait", str(WAIT)) as terminal:
        terminal.wait_for("0 waiting")
        first = json.loads(watching.stdout.readline())
        assert run("ask", "What is it?", "--text-only").returncode == 0
        answered = first["goals"]["succeeded"] + 1
        for line in watching.stdout:
            if json.loads(line)["goals"]["succeeded"] == answered:
                break
        else:
            pytest.fail("the watch ended")
        terminal.wait_for(f"{answered} answered")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    watching.terminate()
    assert watching.wait(WAIT) == 130
    watching.communicate()


def test_a_node_that_is_gone_is_absent(start_vlm: Callable[..., VlmProcess]) -> None:
    node = start_vlm()
    node.wait_ready()
    watching = start("status", "--watch", "--json")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["state"] == "ready"
    node.stop()
    assert any(json.loads(line)["state"] == "absent" for line in watching.stdout)
    watching.terminate()
    watching.communicate(timeout=WAIT)


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [("status",), ("engine",), ("engine", "llama"), ("param", "list"), ("lifecycle",), ("lifecycle", "activate")],
    ids=" ".join,
)
def test_without_a_node_the_status_is_3_and_the_sentence_says_what_to_run(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--node", "/nobody", wait=0.3)
    assert (done.returncode, done.stdout) == (3, "")
    assert "/nobody/" in done.stderr
    assert "qwen3vl-ros node" in done.stderr


def test_parameters_are_read_set_and_listed(vlm: VlmProcess) -> None:
    try:
        assert run("param", "get", "busy_policy").stdout == "queue\n"
        done = run("param", "set", "busy_policy", "preempt")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert run("param", "get", "busy_policy").stdout == "preempt\n"
    finally:
        run("param", "set", "busy_policy", "queue")
    try:
        # a whole number where a parameter takes any, and a number that is a text
        assert run("param", "set", "max_frame_age", "3").returncode == 0
        assert run("param", "get", "max_frame_age").stdout == "3.0\n"
        assert run("param", "set", "system_prompt", "42").returncode == 0
        assert run("param", "get", "system_prompt").stdout == "42\n"
    finally:
        run("param", "set", "max_frame_age", "2.0")
        run("param", "set", "system_prompt", "")
    assert run("param", "get", "system_prompt").stdout == "\n"
    listed = run("param", "list", "busy").stdout.splitlines()
    assert listed[0] == "busy_policy: queue"
    assert "One of: queue, reject, preempt." in listed[1]
    assert len(run("param", "list").stdout.splitlines()) > 50


def test_a_refused_parameter_is_the_nodes_own_sentence(vlm: VlmProcess) -> None:
    wrong = run("param", "set", "busy_policy", "sing")
    assert (wrong.returncode, wrong.stderr) == (2, "busy_policy: 'sing' is none of queue, reject, preempt\n")
    late = run("param", "set", "llama.model", "/models/other.gguf")
    assert late.returncode == 2
    assert "deactivate it and clean it up first" in late.stderr
    for action in (["get", "busy_polcy"], ["set", "busy_polcy", "queue"]):
        unknown = run("param", *action)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert "no parameter busy_polcy; did you mean busy_policy?" in unknown.stderr
    assert run("param", "list", "nothing_begins_so").returncode == 2


def test_the_lifecycle_goes_round_and_says_what_is_possible(vlm: VlmProcess) -> None:
    assert run("lifecycle").stdout == "active\n"
    refused = run("lifecycle", "configure")
    assert refused.returncode == 2
    assert refused.stderr == "A node that is active cannot configure; it can deactivate, shut down.\n"
    for transition, state in (
        ("deactivate", "inactive"),
        ("cleanup", "unconfigured"),
        ("configure", "inactive"),
        ("activate", "active"),
    ):
        done = run("lifecycle", transition)
        assert (done.returncode, done.stdout) == (0, f"{state}\n"), done.stderr
    vlm.wait_connected()


def test_an_inactive_node_names_the_command_that_activates_it(vlm: VlmProcess) -> None:
    run("lifecycle", "deactivate")
    try:
        done = run("ask", "What is it?")
        assert done.returncode == 3
        assert "`qwen3vl-ros lifecycle activate --node /vlm`" in done.stderr
    finally:
        run("lifecycle", "activate")
    vlm.wait_connected()


def test_a_node_that_cannot_be_configured_says_why(start_vlm: Callable[..., VlmProcess]) -> None:
    node = start_vlm(task_files=["/nowhere/tasks.yaml"], autostart=False)
    done = run("lifecycle", "configure")
    assert done.returncode == 1
    assert "/vlm did not configure: " in done.stderr
    assert "/nowhere/tasks.yaml" in done.stderr
    assert "It is unconfigured now." in done.stderr
    node.stop()


def test_the_engine_is_shown_and_changed(vlm: VlmProcess) -> None:
    shown = run("engine")
    assert "* llama  Tabletop" in shown.stdout.splitlines()
    assert "  openai" in shown.stdout.splitlines()
    worker = vlm.worker()
    changed = run("engine", "llama")
    assert (changed.returncode, changed.stdout) == (0, "llama  Tabletop\n")
    vlm.wait_status(lambda status: status.engine_pid not in (0, worker))
    refused = run("engine", "--model", "/nowhere/model.gguf")
    assert (refused.returncode, refused.stdout) == (7, "")
    assert "/nowhere/model.gguf" in refused.stderr
    assert "Still in use: llama, model Tabletop." in refused.stderr
    vlm.wait_connected()


class Camera:
    """A stand-in for the simulated camera: notes what is to be moved."""

    def __init__(self, node: Any) -> None:
        self.requests: list[MoveObject.Request] = []
        self.turns: list[PointCamera.Request] = []
        node.create_service(MoveObject, "~/move_object", self._move)
        node.create_service(PointCamera, "~/point_camera", self._turn)

    def _move(self, request: MoveObject.Request, response: MoveObject.Response) -> MoveObject.Response:
        self.requests.append(request)
        response.success = request.name != "table"
        response.message = "" if response.success else "table is static and stays where it is."
        return response

    def _turn(self, request: PointCamera.Request, response: PointCamera.Response) -> PointCamera.Response:
        self.turns.append(request)
        response.success = request.pan < 3.0
        response.message = "" if response.success else "The pan is too large."
        return response


@pytest.fixture
def camera() -> Iterator[Camera]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("camera", context=context)
    node.declare_parameter("world", "")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = SpinThread(executor, "camera")
    spinning.start()
    yield Camera(node)
    spinning.stop()
    node.destroy_node()
    context.shutdown()


@pytest.mark.once
def test_an_object_is_moved_and_stays_on_its_table(camera: Camera) -> None:
    done = run("move", "red_box", "1.2", "-0.4")
    assert (done.returncode, done.stdout) == (0, "red_box is at 1.2, -0.4, 0.84, yaw 0\n")
    assert run("move", "red_box", "1.2", "-0.4", "0.5", "--z", "0.9").returncode == 0
    first, second = (request.pose for request in camera.requests)
    assert (first.position.x, first.position.y, first.position.z) == (1.2, -0.4, 0.84)
    assert (first.orientation.z, first.orientation.w) == (0.0, 1.0)
    assert second.position.z == 0.9
    assert 2 * math.atan2(second.orientation.z, second.orientation.w) == pytest.approx(0.5)


@pytest.mark.once
def test_an_object_that_cannot_be_moved_is_told(camera: Camera) -> None:
    unknown = run("move", "purple_box", "1", "0")
    assert unknown.returncode == 2
    assert "no model 'purple_box'; it has: floor, table, red_box" in unknown.stderr
    refused = run("move", "table", "1", "0")
    assert (refused.returncode, refused.stderr) == (2, "table is static and stays where it is.\n")
    absent = run("move", "red_box", "1", "0", "--node", "/nowhere", wait=0.3)
    assert absent.returncode == 3
    assert "`qwen3vl-ros camera`" in absent.stderr


def test_the_camera_is_turned_or_says_why_not(camera: Camera) -> None:
    done = run("turn", "-0.3", "0.1")
    assert (done.returncode, done.stdout) == (0, "The camera is turned: pan -0.3, tilt 0.1\n")
    refused = run("turn", "4")
    assert (refused.returncode, refused.stderr) == (2, "The pan is too large.\n")
    assert [(turn.pan, turn.tilt) for turn in camera.turns] == [(-0.3, 0.1), (4.0, 0.0)]
