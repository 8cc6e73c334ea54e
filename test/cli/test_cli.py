"""The command qwen3vl-ros as a process, against a real action server whose behaviour the test writes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from builtin_interfaces.msg import Duration, Time
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Moment, Region, Task, TaskSlot
from qwen3vl_ros.srv import ListTasks
from std_msgs.msg import Header

import child_process
import third_party
from qwen3vl_ros.cli import doctor
from scripted_vlm import WAIT, Goal, ScriptedVlm, until_cancelled

Result = AskImage.Result


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedVlm]:
    server = ScriptedVlm()
    yield server
    server.close()


@pytest.fixture
def scripted(server: ScriptedVlm) -> ScriptedVlm:
    server.rewrite()
    return server


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    if arguments[0] == "ask" and "--wait" not in arguments:
        arguments += ("--wait", str(WAIT))  # a busy machine may take longer than users want to wait
    command = child_process.command("qwen3vl_ros.cli.main", *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.ros
def test_stdout_has_the_answer_and_nothing_else(scripted: ScriptedVlm) -> None:
    def script(goal: Goal) -> Result:
        goal.say("a red")
        goal.say(" box")
        result = goal.result(engine="llama", model="/models/tiny.gguf", image_headers=[Header(frame_id="front")])
        result.image_headers[0].stamp.sec = 12
        result.usage.prompt_tokens, result.usage.image_tokens, result.usage.completion_tokens = 312, 196, 5
        result.usage.first_token_time, result.usage.tokens_per_second = 0.25, 23.0
        result.usage.max_image_tokens, result.usage.expected_first_token_time = 256, 0.5
        return result

    scripted.script = script
    done = run("ask", "What is it?", "--max-tokens", "7", "--temperature", "0", "--seed", "1", "--system", "Be short.")
    assert (done.returncode, done.stdout) == (0, "a red box\n")
    told = "312 tokens in (196 of images, at most 256 each)"
    for part in (told, "5 out", "first after 0.25 s (0.50 s expected)", "23.0 tokens/s", "front", "12.000"):
        assert part in done.stderr
    request = scripted.goals[0].request
    assert (request.prompt, request.system_prompt) == ("What is it?", "Be short.")
    assert (request.options.max_tokens, request.options.temperature, request.options.seed) == (7, 0.0, 1)


@pytest.mark.ros
def test_what_a_still_camera_spared_is_on_stderr_and_can_be_declined(scripted: ScriptedVlm) -> None:
    def script(goal: Goal) -> Result:
        result = goal.result(text="Yes", image_headers=[Header(frame_id="front"), Header(frame_id="side")])
        for header, second in zip(result.image_headers, (20, 21), strict=True):
            header.stamp.sec = second
        result.pixel_stamps = [Time(sec=12), Time(sec=21)]
        result.usage.image_change = 1.25
        return result

    scripted.script = script
    done = run("ask", "Is it?")
    assert "image changed by 1.2 of 255, frame of front stamped 20.000, pixels of 8.00 s before" in done.stderr
    assert "frame of side stamped 21.000]" in done.stderr
    assert not scripted.goals[0].request.new_pixels
    scripted.script = lambda goal: goal.result(text="Yes")
    assert "changed" not in run("ask", "--new-pixels", "Is it?").stderr
    assert scripted.goals[1].request.new_pixels


@pytest.mark.once
@pytest.mark.ros
def test_a_clip_is_asked_for_and_its_span_is_on_stderr(scripted: ScriptedVlm) -> None:
    def script(goal: Goal) -> Result:
        result = goal.result(text="A ball left.", image_headers=[Header(frame_id="front") for _ in range(3)])
        for header, second in zip(result.image_headers, (20, 21, 24), strict=True):
            header.stamp.sec = second
        result.pixel_stamps = [header.stamp for header in result.image_headers]
        return result

    scripted.script = script
    options = ("--clip", "4.5", "--clip-end", "100.25", "--clip-frames", "3", "--clip-pick", "change")
    done = run("ask", "What happened?", *options)
    assert done.stdout == "A ball left.\n"
    assert "3 frames of front over 4.00 s, the last stamped 24.000]" in done.stderr
    sent = scripted.goals[0].request
    assert (sent.clip_duration, sent.clip_end) == (
        Duration(sec=4, nanosec=500_000_000),
        Time(sec=100, nanosec=250_000_000),
    )
    assert (sent.clip_frames, sent.clip_pick) == (3, "change")
    before = time.time()
    run("ask", "What happened?", "--clip", "4", "--clip-end", "-20")
    assert before - 20 <= scripted.goals[1].request.clip_end.sec + 1
    assert scripted.goals[1].request.clip_end.sec <= time.time() - 20


@pytest.mark.ros
@pytest.mark.parametrize(("word", "number"), [("1024", 1024), ("auto", AskImage.Goal.MAX_IMAGE_TOKENS_AUTO)])
def test_how_much_of_the_image_is_seen_is_an_option(scripted: ScriptedVlm, word: str, number: int) -> None:
    assert run("ask", "What is it?", "--max-image-tokens", word).returncode == 0
    assert scripted.goals[-1].request.max_image_tokens == number


@pytest.mark.once
@pytest.mark.ros
@pytest.mark.parametrize(
    ("options", "thinking", "limit"),
    [
        ((), AskImage.Goal.THINKING_UNSET, 0),
        (("--thinking", "--max-reasoning-tokens", "64"), AskImage.Goal.THINKING_ON, 64),
        (("--no-thinking",), AskImage.Goal.THINKING_OFF, 0),
    ],
)
def test_thinking_is_asked_for_by_options(
    options: tuple[str, ...], thinking: int, limit: int, scripted: ScriptedVlm
) -> None:
    assert run("ask", "What is it?", *options).returncode == 0
    request = scripted.goals[-1].request
    assert (request.thinking, request.max_reasoning_tokens) == (thinking, limit)


@pytest.mark.ros
def test_how_sure_the_model_was_and_what_is_not_known_are_on_stderr(scripted: ScriptedVlm) -> None:
    scripted.script = lambda goal: goal.result(text="Yes", probability=0.875, probability_mass=0.5)
    done = run("ask", "--task", "yes_no", "Is it?")
    assert done.stdout == "Yes\n"
    assert "probability 0.875 (of 0.5)" in done.stderr
    scripted.script = lambda goal: goal.result(text="Yes", notes=["no probability: it is a secret"])
    done = run("ask", "--task", "yes_no", "Is it?")
    assert done.stdout == "Yes\n"
    assert "no probability: it is a secret\n" in done.stderr
    assert "probability -1" not in done.stderr
    regions = [Region(label="red cup", score=0.75, has_position=True), Region(label="box")]
    regions[0].position.header.frame_id, regions[0].position.point.x = "base_link", 1.25
    scripted.script = lambda goal: goal.result(text="[]", regions=regions)
    done = run("ask", "--task", "locate", "red cup", "--score-threshold", "0.5", "--target-frame", "base_link")
    assert "scores: red cup 0.75" in done.stderr
    assert "red cup at x 1.25, y 0.00, z 0.00 m in base_link" in done.stderr
    assert "box -1" not in done.stderr
    asked = scripted.goals[-1].request
    assert (asked.score_threshold, asked.target_frame) == (0.5, "base_link")


@pytest.mark.ros
def test_times_in_an_answer_about_a_clip_are_lines_on_stderr(scripted: ScriptedVlm) -> None:
    headers = [Header(stamp=Time(sec=9, nanosec=900_000_000)), Header(stamp=Time(sec=13))]
    moments = [
        Moment(label="It falls.", stamp=Time(sec=14, nanosec=400_000_000), end_stamp=Time(sec=75), image_index=1),
        Moment(stamp=Time(sec=10, nanosec=900_000_000), end_stamp=Time(sec=10, nanosec=900_000_000)),
    ]
    scripted.script = lambda goal: goal.result(text="It falls.", image_headers=headers, moments=moments)
    done = run("ask", "When?")
    assert done.stdout == "It falls.\n"
    assert done.stderr.startswith("0:04.5 - 1:05.1  It falls.\n0:01.0\n")


@pytest.mark.ros
def test_the_tasks_of_the_running_node_are_listed_with_what_they_take(scripted: ScriptedVlm) -> None:
    slots = [
        TaskSlot(name="which", type="text", description="Which lamp", required=True),
        TaskSlot(name="how", type="text", description="How", default_json='"now"', choices=["now", "soon"]),
    ]
    lamp = Task(name="lamp", description="Is it on?", main="which", slots=slots, min_images=2)
    other = Task(name="other", description="Something else.", min_images=1)

    def list_tasks(_request: ListTasks.Request, response: ListTasks.Response) -> ListTasks.Response:
        response.tasks = [lamp, other]
        return response

    service = scripted.node.create_service(ListTasks, "~/list_tasks", list_tasks)
    try:
        done, one, none = run("tasks"), run("tasks", "other"), run("tasks", "lamb")
    finally:
        scripted.node.destroy_service(service)
    assert not done.stderr
    assert done.stdout.splitlines() == [
        "lamp: Is it on? Needs 2 images.",
        "    which (text, the prompt, required): Which lamp",
        '    how (text, default "now", one of now, soon): How',
        "other: Something else.",
    ]
    assert (done.returncode, one.returncode, one.stdout) == (0, 0, "other: Something else.\n")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no task lamb; there are lamp, other" in none.stderr
    missing = run("tasks", "--node", "/nowhere", "--wait", "0.5")
    assert missing.returncode == 3
    assert "No node serves /nowhere/list_tasks" in missing.stderr


@pytest.mark.ros
def test_text_is_on_the_terminal_while_the_model_is_still_talking(scripted: ScriptedVlm) -> None:
    scripted.script = until_cancelled
    process = start("ask", "What?")
    assert process.stdout is not None
    assert process.stdout.read(3) == "red"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=WAIT)


@pytest.mark.ros
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_cancels_the_goal_and_prints_what_came(scripted: ScriptedVlm, number: int) -> None:
    def script(goal: Goal) -> Result:
        goal.say("red")
        assert goal.cancelled.wait(WAIT)
        return goal.result(Result.CANCELLED, "A client cancelled the question.", text="red and blue")

    scripted.script = script
    process = start("ask", "What?")
    assert process.stdout is not None
    first = process.stdout.read(3)
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, first + out) == (130, "red and blue\n")
    assert "CANCELLED" in err
    assert "Traceback" not in err
    assert scripted.goals[0].cancelled.is_set()


@pytest.mark.once
@pytest.mark.ros
@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Result.BAD_REQUEST, 2),
        (Result.BAD_IMAGE, 2),
        (Result.NO_FRAME, 4),
        (Result.TIMEOUT, 5),
        (Result.BUSY, 6),
        (Result.PREEMPTED, 6),
        (Result.ENGINE_CRASHED, 7),
        (Result.BAD_RESPONSE, 7),
        (Result.SHUTDOWN, 1),
        (Result.UNKNOWN, 1),
    ],
)
def test_the_exit_status_tells_scripts_what_went_wrong(scripted: ScriptedVlm, code: int, status: int) -> None:
    scripted.script = lambda goal: goal.result(code, "A sentence.", text="half an answer")
    done = run("ask", "What?")
    assert (done.returncode, done.stdout) == (status, "half an answer\n")
    assert "A sentence." in done.stderr


@pytest.mark.ros
def test_without_a_node_the_status_is_3_and_the_sentence_says_what_to_run() -> None:
    done = run("ask", "What?", "--wait", "0.3", "--node", "/nobody")
    assert (done.returncode, done.stdout) == (3, "")
    assert "/nobody/ask_image" in done.stderr
    assert "qwen3vl-ros node" in done.stderr


@pytest.mark.ros
def test_json_is_printed_whole_and_indented(scripted: ScriptedVlm, tmp_path: Path) -> None:
    def script(goal: Goal) -> Result:
        goal.say('{"colour":')
        goal.say('"rot"}')
        return goal.result(json='{"colour":"rötlich"}')

    scripted.script = script
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    for text in (str(tmp_path / "schema.json"), json.dumps(schema)):
        done = run("ask", "Colour?", "--json", text)
        assert (done.returncode, done.stdout) == (0, '{\n  "colour": "rötlich"\n}\n')
    assert [json.loads(goal.request.response_schema) for goal in scripted.goals] == [schema, schema]


@pytest.mark.ros
def test_images_and_cameras_reach_the_node(scripted: ScriptedVlm, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    assert run("ask", "Same?", "--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.jpg")).returncode == 0
    assert [image.format for image in scripted.goals[0].request.compressed_images] == ["png", "jpeg"]
    assert run("ask", "What?", "--camera", "front", "--camera", "rear").returncode == 0
    assert scripted.goals[1].request.cameras == ["front", "rear"]


@pytest.mark.ros
def test_a_reader_that_has_seen_enough_ends_the_question(scripted: ScriptedVlm) -> None:
    read = []

    def script(goal: Goal) -> Result:
        goal.say("red\n")
        while not goal.cancelled.wait(0.05):
            goal.say("more\n")
        read.append(goal)
        return goal.result(Result.CANCELLED, "A client cancelled the question.")

    scripted.script = script
    process = start("ask", "What?")
    assert process.stdout is not None
    assert process.stdout.readline() == "red\n"
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    assert process.wait(WAIT) == 141
    assert scripted.goals[0].cancelled.wait(WAIT)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask"], "PROMPT"),
        (["ask", "x", "--timeout", "0"], "greater than zero"),
        (["ask", "x", "--max-image-tokens", "0"], "greater than zero is needed, or auto"),
        (["ask", "x", "--max-image-tokens", "most"], "greater than zero is needed, or auto"),
        (["ask", "x", "--json", "{no json"], "not JSON"),
        (["ask", "x", "--json", "/nowhere.json"], "cannot be read"),
        (["ask", "x", "--image", "/nowhere.png"], "/nowhere.png cannot be read"),
        (["ask", "x", "--node", "no name"], "cannot be a node's name"),
        (["move", "red_box", "near", "0"], "invalid float"),
        (["param"], "ACTION"),
        (["sing"], "invalid choice"),
    ],
)
def test_wrong_usage_is_status_2_and_a_sentence(arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_nothing_heavy() -> None:
    program = (
        "import sys; from qwen3vl_ros.cli.main import main\n"
        "try: main(['ask', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'rclpy', 'numpy', 'rich', 'huggingface_hub', 'llama_cpp', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "130 cancelled" in done.stdout


def test_every_command_has_help() -> None:
    commands = ("node", "camera", "demo", "ask", "download", "engines", "doctor", "chat", "status", "engine", "move")
    for command in (*commands, "lifecycle", "param", "param set"):
        done = run(*command.split(), "--help")
        assert done.returncode == 0
        assert done.stdout.startswith("usage: qwen3vl-ros")


def test_what_doctor_finds_is_not_wrapped_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = run("doctor").stdout.splitlines()
    (python,) = (line for line in lines if line.split()[1] == "Python")
    assert python.endswith(f" at {sys.executable}")
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "note", "missing"}


def test_doctor_names_webcams_and_the_command_that_shows_one(tmp_path: Path) -> None:
    assert "qwen3vl-ros camera --help" in doctor._webcams(tmp_path, tmp_path).text
    for number in (10, 2):
        (tmp_path / f"video{number}").touch()
        (tmp_path / "names" / f"video{number}").mkdir(parents=True)
        (tmp_path / "names" / f"video{number}" / "name").write_text("Integrated Camera\n")
    found = doctor._webcams(tmp_path, tmp_path / "names")
    assert found.text.index("video2 (Integrated Camera)") < found.text.index("video10")
    assert found.text.endswith("`qwen3vl-ros demo --camera 2`")


def test_doctor_says_who_may_open_a_webcam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "video0").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may open everything
    found = doctor._webcams(tmp_path, tmp_path)
    assert found.state is doctor.State.NOTE
    assert "usermod -aG video" in found.text


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"qwen3vl-ros {importlib.metadata.version('qwen3vl_ros')}\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("qwen3vl-ros life", {"lifecycle"}),
        ("qwen3vl-ros lifecycle de", {"deactivate"}),
        ("qwen3vl-ros engine ll", {"llama"}),
        ("qwen3vl-ros param get llama.mm", {"llama.mmproj"}),
        ("qwen3vl-ros ask --max-", {"--max-frame-age", "--max-image-tokens", "--max-reasoning-tokens", "--max-tokens"}),
    ],
)
def test_the_shell_completes_what_a_command_takes(line: str, words: set[str], tmp_path: Path) -> None:
    """As a shell does that has run `eval "$(register-python-argcomplete qwen3vl-ros)"`."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "_ARGCOMPLETE_IFS": "\n"}
    program = "import sys; from qwen3vl_ros.cli.main import main; sys.argv[0] = 'qwen3vl-ros'; sys.exit(main([]))"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **asked}, check=True, timeout=60)
    assert {word.strip() for word in (tmp_path / "words").read_text().split("\n")} == words


@pytest.mark.ros
def test_engines_says_which_can_be_used_which_auto_takes_and_why_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from a_library_that_nobody_has import Engine"
    package = third_party.install(tmp_path / "installed", source, {"theirs": "Engine"})
    monkeypatch.setenv("PYTHONPATH", str(package))
    away = ("-p", "maix_http.base_url:=http://127.0.0.1:9")
    done = run("engines", "--ros-args", *away)
    assert done.returncode == 0, done.stderr
    verdicts = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "yes" in verdicts["llama"] and "tabletop" in verdicts["llama"]
    assert "not now" in verdicts["maix_http"] and "http://127.0.0.1:9" in verdicts["maix_http"]
    assert "no" in verdicts["openai"] and "base_urls" in verdicts["openai"]
    assert "a_library_that_nobody_has" in verdicts["theirs"]
    assert "engine auto takes llama" in done.stdout

    done = run("engines", "--ros-args", *away, "-p", "llama.model:=/nowhere/model.gguf")
    assert done.returncode == 1
    assert "engine auto takes none of them" in done.stdout
