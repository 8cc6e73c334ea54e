"""`qwen3vl-ros demo` as users run it: the real node, the shipped model, the simulated camera."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import expect

import child_process
from browser import Tabs, chromium
from qwen3vl_ros.cli.demo import only_demo
from vlm_process import alive, wait_gone

pytestmark = pytest.mark.ros
PATIENCE = 120.0

Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def domain() -> int:
    """A ROS domain that only this test uses: demo and tests have nodes of the same name."""
    return int(os.environ["ROS_DOMAIN_ID"]) + 101


@pytest.fixture
def demo(domain: int, tmp_path: Path) -> Iterator[Demo]:
    for left in shared_memory_ports(domain):  # by a test run that was killed
        (Path("/dev/shm") / left).unlink(missing_ok=True)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, command: str = "demo") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            child_process.command("qwen3vl_ros.cli.main", command, *arguments),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)


def descendants(pid: int) -> list[int]:
    """Its children, their children and so on."""
    children = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):  # a child belongs to the thread that started it
        with contextlib.suppress(FileNotFoundError):  # the thread has just ended: its children have another now
            children += [int(child) for child in (thread / "children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def wait_running(process: subprocess.Popen[str]) -> list[int]:
    """Wait until `demo --keep` says that it runs, with a page that can be opened; the processes that it started."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "Running until Ctrl-C" in line:
            pids = descendants(process.pid)
            assert len(pids) >= 4, "camera, node, the node's worker and the page"
            (address,) = re.findall(r"http://[\d.:]+", "".join(lines))
            with urllib.request.urlopen(address, timeout=PATIENCE) as page:
                assert "<title>" in page.read().decode()
            return pids
    raise AssertionError("".join(lines))


def shared_memory_ports(domain: int) -> list[str]:
    """What Fast DDS left of participants of this domain: https://docs.ros.org, 7400 + 250 * domain + ..."""
    ports = range(7400 + 250 * domain, 7400 + 250 * (domain + 1))
    names = [path.name for path in Path("/dev/shm").iterdir()]
    return [name for name in names if (port := re.search(r"port(\d+)", name)) and int(port[1]) in ports]


def test_the_demo_ends_by_itself_with_answers_and_the_annotated_frame(demo: Demo, domain: int, tmp_path: Path) -> None:
    process = demo()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.strip()
    assert err.count("tokens in") == 5
    assert "reused" in err, "four questions are about a frame that the model has seen already"
    assert str(tmp_path / "demo.png") in err
    with PIL.Image.open(tmp_path / "demo.png") as image:
        assert image.width >= 448
        assert image.height > 448
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 100
    assert shared_memory_ports(domain) == []


@pytest.mark.once
def test_up_answers_from_another_terminal_until_it_is_interrupted(demo: Demo, domain: int) -> None:
    process = demo("--keep")
    pids = wait_running(process)
    ask = demo("What colour is the box?", "--max-tokens", "16", "--wait", "60", command="ask")
    out, err = ask.communicate(timeout=PATIENCE)
    assert ask.returncode == 0, err
    assert out.strip()

    second = demo()
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert f"A demo runs here already (pid {process.pid})" in err

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [pid for pid in pids if alive(pid)] == []
    assert shared_memory_ports(domain) == []


@pytest.mark.once
def test_a_process_that_dies_is_shown_with_its_last_lines_and_takes_the_others_with_it(demo: Demo) -> None:
    process = demo("--keep")
    pids = wait_running(process)
    camera = next(pid for pid in pids if b"camera" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(camera, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "`qwen3vl-ros camera` was killed by SIGKILL. Its last lines:" in err
    assert "Looking at" in err
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.once
def test_a_demo_that_is_killed_takes_the_others_with_it(demo: Demo) -> None:
    process = demo("--keep")
    pids = wait_running(process)
    process.kill()
    for pid in pids:
        wait_gone(pid)


@pytest.mark.once
def test_a_demo_whose_terminal_is_closed_ends_like_one_that_is_interrupted(demo: Demo, domain: int) -> None:
    process = demo("--keep")
    pids = wait_running(process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [pid for pid in pids if alive(pid)] == []
    assert shared_memory_ports(domain) == []


def test_a_demo_beside_another_one_is_refused_before_the_graph_shows_it(
    demo: Demo, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    with only_demo():
        second = demo("--keep")
        _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert f"A demo runs here already (pid {os.getpid()})" in err
    with only_demo():
        pass


@pytest.mark.once
def test_the_demo_of_a_video_asks_what_fits_any_image_and_says_what_the_shipped_model_is_for(
    demo: Demo, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")
    import videos

    video = videos.write_with_opencv(tmp_path / "clip.avi", [videos.grey(90, 320, 240)] * 5, 10.0, "MJPG")
    process = demo("--camera", str(video))
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert f"frames of {video} on /camera/image_raw" in err
    assert "What do you see?" in err and "box?" not in err and "Locate" not in err
    assert err.count("a demonstration model: ") == 1
    with PIL.Image.open(tmp_path / "demo.png") as image:
        assert image.width >= 320


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("--camera", "/nowhere/clip.mp4"), 2, "There is no video file /nowhere/clip.mp4."),
        (("--phone",), 2, "--port and --phone are for demo --keep"),
        (("--port", "8081"), 2, "--port and --phone are for demo --keep, which has a page"),
        (("--keep", "--port", "0"), 2, "a TCP port is a number from 1 to 65535"),
    ],
)
def test_what_the_demo_cannot_do_is_a_sentence_at_once(
    demo: Demo, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    process = demo(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (status, "")
    assert sentence in " ".join(err.split())


@pytest.mark.once
def test_a_port_that_is_taken_is_a_sentence_at_once(demo: Demo) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = demo("--keep", "--port", str(port))
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"The page cannot have port {port} (Address already in use): choose another --port." in err


@pytest.mark.once
def test_the_page_has_the_port_that_was_asked_for(demo: Demo) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = demo("--keep", "--port", str(port))
    assert process.stderr is not None
    assert any(f"http://127.0.0.1:{port}" in line for line in process.stderr)


def read_qr_code(text: str) -> str:
    """What the QR code says that a terminal shows, light blocks on a dark ground."""
    lines = [line for line in text.splitlines() if len(line) > 20 and set(line) <= set("█▀▄ ")]
    halves = [[half in "█" + block for half in line] for line in lines for block in "▀▄"]
    pixels = np.array(halves, np.uint8).repeat(8, 0).repeat(8, 1) * 255
    read, _, _ = cv2.QRCodeDetector().detectAndDecode(pixels)
    return str(read)


@pytest.mark.browser
def test_a_phone_opens_the_page_by_the_qr_code_and_has_its_camera_there(demo: Demo) -> None:
    process = demo("--keep", "--phone", "127.0.0.1")
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "Running until Ctrl-C" in line:
            break
    link = read_qr_code(said)
    assert f"    {link}\n" in said
    address, _, token = link.partition("/#token=")
    with chromium() as browser:
        tabs = Tabs(browser)
        context = {"ignore_https_errors": True, "viewport": {"width": 360, "height": 740}, "has_touch": True}
        phone = tabs.open(link, **context)
        expect(phone.locator("#token-form")).to_be_hidden()
        assert phone.url == f"{address}/", "the token is out of sight, and out of what is shared or bookmarked"
        phone.get_by_role("button", name="My camera").click()
        expect(phone.locator("#own-view")).to_be_visible()
        phone.locator("#prompt").fill("Is there a cat?")
        phone.locator("#prompt").press("Enter")
        expect(phone.locator("#caption")).to_contain_text("Camera of this machine")
        phone.reload()
        expect(phone.locator("#token-form")).to_be_hidden()
        stranger = tabs.open(address, **context)
        expect(stranger.locator("#token-form")).to_be_visible()
        tabs.forget_complaints()  # of the stranger's browser, which got status 401
        tabs.close()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert token not in rest


@pytest.mark.once
@pytest.mark.parametrize(
    ("address", "sentence"), [("192.0.2.99", "has no address"), ("phone.local", "not appear to be an IPv4")]
)
def test_an_address_that_a_phone_cannot_have_is_a_sentence(demo: Demo, address: str, sentence: str) -> None:
    process = demo("--keep", "--phone", address)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert sentence in err


@pytest.mark.once
def test_a_model_that_is_not_there_is_a_sentence_at_once(demo: Demo) -> None:
    process = demo("--model", "/nowhere/model.gguf")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (1, "")
    assert "/nowhere/model.gguf" in err
    assert "qwen3vl-ros model use" in err
    assert "Traceback" not in err
