"""What the pages show runs as it stands: programs and commands, on a node with the simulated camera and the gateway."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("pydrake", reason="the simulated camera draws with Drake, which is not installed here")
pytest.importorskip("rosbags", reason="rosbags, which writes bags, is not installed here")

import child_process
import videos
from bags import BEGIN, header, write_bag
from qwen3vl_ros.cli.footage import OpenFootage
from qwen3vl_ros.index.entries import Thing, Window
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.vision.image_message import image_message
from vlm_process import VlmProcess
from web_process import WebProcess

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
ADDRESS = "http://127.0.0.1:8080"
"""Of the gateway, on every page."""

COMMANDS = (
    r"qwen3vl-ros (ask|batch|cut|search|tasks|engines|doctor|status|engine|lifecycle|move|find"
    r"|param (get|list|set max_frame_age))\b"
    r"|curl .*127\.0\.0\.1:8080|echo .*\| qwen3vl-ros|until qwen3vl-ros"
)
"""Those that end by themselves and leave the node as it was, more or less."""

NEEDS_MORE = {
    "my.yaml": "a file of parameters that only a user has",
    "shelf_stock": "a task of a user's own",
    "--thinking": "a model that can think",
    "manual.pdf": "a model that reads",
    "label.jpg": "an image of a user's own",
    "--watch": "it goes on until Ctrl-C",
    "engine openai": "a server",
    "engine --model": "a model that was downloaded",
    "--clip-end -20": "a node that has kept frames for 20 s",
    "lifecycle ": "the shared node stays active",
    "where_last": "a node that remembers",
    "memory.index": "the memory of such a node",
}
IMPORTS = "from qwen3vl_ros.client import NoFrame, VlmClient\n"
"""What a page's later programs take over from its first."""

PATIENCE = 120


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """Page and number, and text, of each code block in these languages."""
    for page in PAGES:
        found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for number, (language, text) in enumerate(found):
            if language in languages:
                yield f"{page.name}-{number}", text


def programs() -> list[Any]:
    """The Python programs that run by themselves: not those that are a part of one."""
    return [
        pytest.param(text if "import" in text else IMPORTS + text, id=name)
        for name, text in blocks("python")
        if "class TestMyEngine" not in text
    ]


def commands() -> list[Any]:
    """The commands, loops whole; one that is on several pages, with another comment or other quotes, once."""
    found = {}
    for name, text in blocks("sh", "bash", ""):
        for command in re.findall(r"^(?:until .*?^done|.+?)$", text.replace("\\\n", " "), re.MULTILINE | re.DOTALL):
            command = command.strip().removeprefix(".venv/bin/")
            if re.match(COMMANDS, command) and not any(word in command for word in NEEDS_MORE):
                words = tuple(shlex.split(command, comments=True))
                found.setdefault(words, pytest.param(command, id=f"{name}: {command[:60]}"))
    return list(found.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: with the images, the video and the bags that they name."""
    folder = tmp_path_factory.mktemp("reader")
    image = np.full((240, 320, 3), 200, np.uint8)
    cv2.rectangle(image, (120, 90), (200, 170), (0, 0, 220), -1)
    for name in ("photo.jpg", "before.jpg", "after.jpg"):
        cv2.imwrite(str(folder / name), image)
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photos" / "1.jpg"), image)
    images = [cv2.resize(image, (160, 120))[..., ::-1]] * 60
    videos.write_h264(folder / "street.mp4", images, 4)
    with OpenFootage(folder / "street.mp4") as footage, Store(folder / "street.db", create=True) as store:
        store.add(Window(footage.source, 0, 5_000_000_000, 0, "A dog comes in.", (Thing("red ball", 0),)))
    times = [BEGIN + number * 500_000_000 for number in range(len(images))]
    messages = [
        ("/camera/image_raw", time, image_message(pixels, header(time)))
        for time, pixels in zip(times, images, strict=True)
    ]
    (table,) = write_bag(folder / "rosbag2_2026_11_30", messages).glob("*.mcap")
    (folder / "table.mcap").symlink_to(table)
    (folder / "worlds").symlink_to(ROOT / "worlds")
    return folder


@pytest.fixture(scope="module")
def camera(dds_profile: None) -> Iterator[None]:
    """The simulated camera, with depth, on the topics where the node looks by itself."""
    topics = ("~/image_raw:=/image", "~/camera_info:=/camera_info", "~/depth/image_raw:=/depth")
    remapped = [word for topic in topics for word in ("-r", topic)]
    process = subprocess.Popen(child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args", *remapped))
    yield
    process.terminate()
    process.wait(PATIENCE)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, dds_profile: None) -> Iterator[WebProcess]:
    process = WebProcess(tmp_path_factory.mktemp("web") / "logs", {}, os.environ)
    process.wait_url()
    yield process
    process.close()


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    tools = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=PATIENCE)


@pytest.mark.parametrize("program", programs())
def test_a_program_of_the_pages_runs_as_it_stands(
    program: str, folder: Path, camera: None, vlm: VlmProcess, web: WebProcess
) -> None:
    path = folder / "program.py"
    path.write_text(program.replace(ADDRESS, web.wait_url()), encoding="utf-8")
    done = run([sys.executable, str(path)], folder)
    assert done.returncode == 0, done.stderr
    assert "no image" not in done.stdout
    assert done.stdout.strip() or "print" not in program


@pytest.mark.once
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_ends_well(
    command: str, folder: Path, camera: None, vlm: VlmProcess, web: WebProcess
) -> None:
    if "curl" in command:
        with web.client() as http:  # it hears of the node and of its camera a moment after it has begun
            end = time.monotonic() + PATIENCE
            while (frame := http.get("/api/cameras/default/frame.jpg")).status_code != 200:
                assert time.monotonic() < end, frame.text
    done = run(["bash", "-c", f"set -o pipefail; {command.replace(ADDRESS, web.wait_url())}"], folder)
    of_real_models = "does not know" in done.stderr  # the model that ships knows a part of the tasks, and says so
    assert done.returncode == 0 or of_real_models, done.stderr
    assert done.stdout.strip() or of_real_models or "param set" in command or "batch" in command
    if "curl" in command:
        assert '"error"' not in done.stdout
