"""A child Python sees the modules of its parent, dies as it is told, and is ended for sure."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen3vl_ros.engines import child_python

MODULE = """
import ctypes, json, sys

def main(*arguments):
    print(json.dumps(arguments), sys.argv, flush=True)
    return 7

def death_signal():
    signal_number = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(signal_number))  # PR_GET_PDEATHSIG
    return signal_number.value
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that only ``sys.path`` of this process names."""
    (tmp_path / "childs_part.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def output(*arguments: Any, **options: Any) -> tuple[str, int]:
    with child_python.start(*arguments, stdout=subprocess.PIPE, text=True, **options) as child:
        return child.communicate(timeout=30.0)[0], child.returncode


def test_it_sees_its_parents_modules_and_takes_what_json_can_say(modules: Path) -> None:
    assert output("childs_part", 1, [float("inf"), "ü"], {"a": None}) == (
        '[1, [Infinity, "\\u00fc"], {"a": null}] [\'-c\']\n',
        7,
    )


def test_it_imports_nothing_from_the_current_directory(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = modules / "current"
    current.mkdir()
    for name in ("json", "importlib", "ctypes"):
        (current / f"{name}.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    monkeypatch.chdir(current)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert output("childs_part", death_signal=signal.SIGTERM) == ("[] ['-c']\n", 7)


@pytest.mark.parametrize("wanted", [None, signal.SIGTERM, signal.SIGKILL])
def test_it_gets_the_signal_that_was_asked_for_when_its_parent_dies(
    modules: Path, wanted: signal.Signals | None
) -> None:
    (modules / "asking.py").write_text("from childs_part import death_signal as main", encoding="utf-8")
    assert output("asking", death_signal=wanted) == ("", int(wanted or 0))


def test_its_socket_closes_with_it(modules: Path) -> None:
    echo = "from multiprocessing.connection import Connection\n"
    echo += "def main(descriptor, word): Connection(descriptor).send(word)"
    (modules / "echo.py").write_text(echo, encoding="utf-8")
    child, connection = child_python.start_connected("echo", "hello")
    with connection:
        assert connection.recv() == "hello"
        with pytest.raises(EOFError):
            connection.recv()
    assert child_python.end(child, 30.0) == 0


def test_what_does_not_end_by_itself_is_killed_and_only_that(modules: Path) -> None:
    assert child_python.end(child_python.start("childs_part"), 30.0) == 7
    endless = "import time\ndef main():\n    while True: time.sleep(60)"
    (modules / "endless.py").write_text(endless, encoding="utf-8")
    child = child_python.start("endless")
    assert child_python.end(child) == -signal.SIGKILL
    assert child_python.end(child) == -signal.SIGKILL
