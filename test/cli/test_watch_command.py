"""`qwen3vl-ros watch`, against the real node: what it prints, saves and runs, and that its watch ends with it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import child_process
from lamp import Lamp, Room
from qwen3vl_ros.cli import watch_arguments
from qwen3vl_ros.cli.main import _parser

pytestmark = pytest.mark.ros
pytest_plugins = ["lamp_fixtures"]
WAIT = 60.0


def start(*arguments: str) -> subprocess.Popen[str]:
    command = child_process.command("qwen3vl_ros.cli.main", "watch", *arguments, "--wait", str(WAIT))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=2 * WAIT)
    return process.returncode, out, err


def wait_asked(lamp: Lamp) -> None:
    while not any(state.asked for state in lamp.states()):
        threading.Event().wait(0.02)


def test_an_event_is_printed_saved_and_given_to_the_command(lamp: Lamp, room: Room, tmp_path: Path) -> None:
    lamp.start()
    command = f'cat > "{tmp_path}/$WATCH_KIND.json"; echo "$WATCH_MESSAGE $WATCH_ANSWER" > {tmp_path}/said'
    period = ("--min-period", "0.05")
    saved = tmp_path / "saved"
    watching = start(
        *("Is the lamp on?", "--exec", command, "--json", "--save", str(saved), "--count", "1"),
        *("--message", "Light $(touch here)", *period),
    )
    wait_asked(lamp)
    room.switch(light=True)
    out, err = watching.communicate(timeout=WAIT)
    assert watching.returncode == 0, err
    event = json.loads(out)
    assert (event["kind"], event["text"], event["message"]) == ("on", "Yes", "Light $(touch here)")
    assert json.loads((tmp_path / "on.json").read_text()) == event
    assert (tmp_path / "said").read_text() == "Light $(touch here) Yes\n"
    assert sorted(path.name.rpartition("_")[2] for path in saved.iterdir()) == [
        "after.jpg",
        "annotated.jpg",
        "before.jpg",
    ]
    assert lamp.states() == []


def test_ctrl_c_ends_the_command_and_its_watch_and_a_list_shows_it_before(lamp: Lamp, room: Room) -> None:
    lamp.start()
    room.switch(light=True)
    watching = start("Is the lamp on?", "--name", "mine", "--min-period", "0.05")
    assert watching.stdout is not None
    assert "ON Is the lamp on? -> Yes (0.90)" in watching.stdout.readline()
    status, out, _ = run("--list")
    assert status == 0 and out.startswith("mine: Is the lamp on? true, 1 asked, ")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=WAIT)
    assert (watching.returncode, "watching as mine" in err) == (0, True)
    assert lamp.states() == []


def test_what_the_node_refuses_is_said_and_is_wrong_usage(lamp: Lamp) -> None:
    lamp.start()
    status, out, err = run("Is it on?", "--camera", "back")
    assert (status, out) == (2, "")
    assert "BAD_REQUEST: cameras: there is no camera 'back'" in err


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["a", "--region", "1,2,3,4"], {"region": [(1, 2), (3, 2), (3, 4), (1, 4)]}),
        (["a", "--region", "1,2,3,4,5,6"], {"region": [(1, 2), (3, 4), (5, 6)]}),
        (["a", "--kinds", "on,off"], {"kinds": ["on", "off"]}),
        (["a", "--on", "0.8", "--needed", "2"], {"on_threshold": 0.8, "needed": 2}),
        (["a", "--schema", '{"minItems": 1}'], {"condition_schema": {"minItems": 1}}),
    ],
)
def test_options_are_fields_of_the_watch(words: list[str], fields: dict[str, Any]) -> None:
    assert watch_arguments.fields_of(_parser().parse_args(["watch", *words])) == fields
