"""What takes long to make is made once, and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from made_once import digest, made_once

MAKER = """
import sys
from pathlib import Path
from made_once import made_once

def make(folder):
    with log.open("a") as file:
        file.write("made\\n")
    for number in range(1000):
        (folder / str(number)).touch()

folder, log = map(Path, sys.argv[1:])
assert len(list(made_once(folder, make).iterdir())) == 1000
"""


def test_processes_that_want_it_at_once_get_it_whole_from_one_of_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path / "cache" / "made"), str(tmp_path / "log")]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parent) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_what_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        made_once(tmp_path / "made", fail)
    folder = made_once(tmp_path / "made", lambda partial: (partial / "whole").touch())
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_other_bytes_another_order_or_another_package_have_another_name(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    first = digest((one, other), ("pytest",))
    assert first == digest((one, other), ("pytest",))
    assert len({first, digest((other, one), ("pytest",)), digest((one,), ("pytest",)), digest((one, other))}) == 4
    one.write_text("3")
    assert digest((one, other), ("pytest",)) != first
