"""`qwen3vl-ros demo`: starts node and camera, asks a few questions, and saves an image with the answers."""

from __future__ import annotations

import collections
import fcntl
import json
import os
import queue
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from qwen3vl_ros.cli import phone
from qwen3vl_ros.cli.demo_page import PAGE_PORT, DemoError, Page, place_for_page
from qwen3vl_ros.cli.terminal import ask_on_terminal
from qwen3vl_ros.client import Answer, ServerUnavailable, VlmClient
from qwen3vl_ros.client.answer import Region
from qwen3vl_ros.gateway.settings import TOKEN_VARIABLE
from qwen3vl_ros.ros.background_node import BackgroundNode
from qwen3vl_ros.ros.child_process import Child
from qwen3vl_ros.ros.fast_dds import package_profile
from qwen3vl_ros.sim.sources import SourceError, check_source, without_password

QUESTIONS = (
    "How many objects are there?",
    "What colour is the box?",
    "What shape is the blue object?",
    "Is there a purple ball?",
)
LOCATED = "objects"
"""The objects of the simulated camera that the last question asks to locate."""

QUESTIONS_OF_ANY_CAMERA = ("What do you see?", "What is nearest to the camera?", "Is there a person?")

CAMERA_TOPIC = "/camera/image_raw"
TOPICS = (f"image:={CAMERA_TOPIC}", "camera_info:=/camera/camera_info", "depth:=/camera/depth/image_raw")
START_TIMEOUT = 60.0
"""Seconds that node and camera have until the first frame has arrived and the model is loaded."""

_FRAMES_BEFORE, _FRAMES_AFTER = 20, 60

_STOP_CHECK = 1.0
"""Seconds between wake-ups of the waiting main thread: Python handles a signal of another thread only there."""

_BESIDE = (
    'Ask it with `qwen3vl-ros ask "What do you see?"`, stop it, or run the demo beside it: '
    "ROS_DOMAIN_ID=42 qwen3vl-ros demo."
)

_console = Console(stderr=True, highlight=False)


def run_demo(
    output: Path,
    *,
    keep: bool,
    model: str = "",
    mmproj: str = "",
    source: str = "",
    port: int | None = None,
    phone_address: str | None = None,
) -> int:
    """Run the demo.

    Args:
        output: PNG file that the demo writes.
        keep: Run node and camera until Ctrl-C, and ask no questions.
        model: File to use instead of the shipped model.
        mmproj: Its vision part.
        source: Where images come from, as the camera's parameter ``source`` has it; empty: the simulated camera.
        port: TCP port of the page; None: the usual one, or any free one.
        phone_address: With ``keep``: the IP address of this machine where a phone may open the page, with a token and
            over https; empty: the one on the network; None: no phone may.

    Returns:
        The exit status.
    """
    try:
        if source:
            check_source(source)
    except SourceError as error:
        _show(error)
        return 2
    _set_up_dds()
    try:
        with ExitStack() as stack:
            page = stack.enter_context(place_for_page(port, phone_address)) if keep else None
            stack.enter_context(only_demo())
            robot = stack.enter_context(_robot(model, mmproj, source))
            return _keep(robot, source, page) if page else _ask_about_a_frame(robot, source, output)
    except DemoError as error:
        _show(error)
        return 1
    except KeyboardInterrupt:
        _console.print("Stopped.")
        return 130


def _show(error: Exception) -> None:
    _console.print(str(error), style="red", markup=False, soft_wrap=True)


def _set_up_dds() -> None:
    """Restrict DDS to this machine and enlarge its shared memory for images, here and in child processes."""
    os.environ.update(package_profile())
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class _Robot:
    """Runs node and camera as child processes; an own ROS node queues an event for each of their messages."""

    def __init__(self, background: BackgroundNode, client: VlmClient) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
        from sensor_msgs.msg import Image

        from qwen3vl_ros.msg import VlmStatus

        self.client = client
        self.children: list[Child] = []
        self.status: Any = None
        self._events: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._frames: collections.deque[Any] = collections.deque()
        self._asking = False
        self._ready_states = (VlmStatus.READY, VlmStatus.BUSY)
        self._failed_state = VlmStatus.UNCONFIGURED
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        background.node.create_subscription(VlmStatus, "/vlm/status", self._on_status, latched)
        background.node.create_subscription(Image, CAMERA_TOPIC, self._on_frame, qos_profile_sensor_data)

    def _on_status(self, status: Any) -> None:
        self.status = status
        self._events.put(None)

    def _on_frame(self, frame: Any) -> None:
        # During a question, which may take long, keep all frames: the answer is about one of the first.
        if not self._asking and len(self._frames) >= _FRAMES_BEFORE:
            self._frames.popleft()
        if len(self._frames) < _FRAMES_BEFORE + _FRAMES_AFTER:
            self._frames.append(frame)
            self._events.put(None)

    def start(self, *arguments: str) -> None:
        self.children.append(Child(arguments, self._events.put))

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Process events until ``condition`` holds.

        Args:
            condition: Checked after every event.
            what: Beginning of the sentence for a timeout.
            seconds: Timeout.

        Raises:
            DemoError: The timeout passed, or a child process ended; it has the last lines of output.
        """
        give_up = time.monotonic() + seconds
        while not condition():
            try:
                event = self._events.get(timeout=max(0.0, min(_STOP_CHECK, give_up - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < give_up:
                    continue
                words = "\n".join(child.last_words() for child in self.children)
                raise DemoError(f"{what} within {seconds:g} s. `qwen3vl-ros doctor` may know why.\n{words}") from None
            if event is not None:
                raise DemoError(f"{event.last_words()}\n`qwen3vl-ros doctor` may know why.")

    def seeing(self) -> bool:
        return bool(self._frames)

    def ready(self) -> bool:
        """Return whether the model is loaded; raises DemoError when loading has failed."""
        if self.status is None:
            return False
        if self.status.state == self._failed_state and self.status.message:
            raise DemoError(f"The node has no model: {self.status.message}")
        return self.status.state in self._ready_states

    def keep_frames(self) -> None:
        """Keep all frames from now on: a question is asked."""
        self._asking = True

    def frame_of(self, answer: Answer) -> Any:
        """Wait for the frame that ``answer`` is about and return it; raises DemoError at a timeout."""

        def find() -> Any:
            return next((frame for frame in self._frames if frame.header.stamp == answer.stamp), None)

        self.wait_until(lambda: find() is not None, "The frame of the answer did not arrive", 2.0)
        return find()

    def wait_until_listening(self, host: str, port: int) -> None:
        """Poll until the page can be opened: a starting server sends no event."""

        def open_to_all() -> bool:
            with socket.socket() as visitor:
                return visitor.connect_ex((host, port)) == 0

        # Checked at each event: frames arrive several times a second.
        self.wait_until(open_to_all, "The page did not open", START_TIMEOUT)

    def run_until_interrupted(self) -> None:
        self.wait_until(lambda: False, "", 1e9)


@contextmanager
def _robot(model: str, mmproj: str, source: str) -> Iterator[_Robot]:
    background = BackgroundNode(f"demo_{os.getpid()}")
    background.start()
    client = VlmClient(background.node, node_name="/vlm")
    robot = _Robot(background, client)
    try:
        _refuse_a_second_robot(client)
        began = time.monotonic()
        files = {"llama.model": model, "llama.mmproj": mmproj}
        parameters = ["engine:=llama", *(f"{name}:={path}" for name, path in files.items() if path)]
        # A video must not end before the questions do.
        of_source = ("--ros-args", "-p", f"source:={json.dumps(source)}", "-p", "loop:=true") if source else ()
        with _console.status("starting the camera and the node ...", spinner="dots"):
            robot.start("camera", *of_source)
            robot.start(
                "node", "--ros-args", *(x for topic in TOPICS for x in ("-r", topic)),
                *(x for text in parameters for x in ("-p", text)),
            )  # fmt: skip
            robot.wait_until(robot.seeing, "The camera sent no frame", START_TIMEOUT)
        what = f"frames of {without_password(source)}" if source else "frames"
        _console.print(
            f"camera: {what} on {CAMERA_TOPIC} ({time.monotonic() - began:.1f} s)", markup=False, soft_wrap=True
        )
        with _console.status("loading the model ...", spinner="dots"):
            robot.wait_until(robot.ready, "The node did not become ready", START_TIMEOUT)
        name = Path(robot.status.model).name
        _console.print(f"node:   /vlm, engine {robot.status.engine}, model {name} ({time.monotonic() - began:.1f} s)")
        yield robot
    finally:
        # Ignore signals here: a second Ctrl-C would leave processes behind.
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ends}
        for child in robot.children:
            child.ask_to_stop()
        for child in robot.children:
            child.stop()
        client.close()
        background.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def only_demo() -> Iterator[None]:
    """Allow one demo for each user and ROS domain; raises DemoError when another one runs.

    Two would have nodes of the same names. The graph alone cannot tell: they may not have discovered each other yet.
    """
    domain = re.sub(r"\D", "", os.environ.get("ROS_DOMAIN_ID", "")) or "0"
    path = Path(tempfile.gettempdir()) / f"qwen3vl_ros_demo_{os.getuid()}_{int(domain)}.lock"
    try:
        # Never removed: a demo that starts now could lock a removed file, and the next one a new one.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DemoError(f"The lock of the demo, {path}, cannot be opened ({error.strerror}): remove it.") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel, however this process ends
        except BlockingIOError:
            raise DemoError(f"A demo runs here already (pid {file.read().strip()}). {_BESIDE}") from None
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _refuse_a_second_robot(client: VlmClient) -> None:
    """Raise DemoError if a node that is not of a demo serves questions already."""
    try:
        client.wait_for_server(1.0)
    except ServerUnavailable:
        return
    raise DemoError(f"A vlm node runs here already. {_BESIDE}")


def _ask_about_a_frame(robot: _Robot, source: str, output: Path) -> int:
    """Ask the first question through the camera and the others about the same frame; save that, annotated."""
    frame = None
    dialogue: list[tuple[str, str]] = []
    found: Sequence[Region] = ()
    robot.keep_frames()
    told: set[str] = set()
    for question in QUESTIONS_OF_ANY_CAMERA if source else QUESTIONS:
        _console.print(f"\n[bold]{question}[/bold]")
        images = None if frame is None else [frame]
        answer, status = ask_on_terminal(
            robot.client, question, told=told, images=images, temperature=0.0, max_tokens=64, timeout=30.0
        )
        if answer is None:
            return status
        dialogue.append((question, answer.text.strip()))
        if frame is None:
            frame = robot.frame_of(answer)
    if not source:
        _console.print(f"\n[bold]Locate the {LOCATED}.[/bold]")
        answer, status = ask_on_terminal(robot.client, LOCATED, told=told, task="locate", images=[frame], timeout=30.0)
        if answer is None:
            return status
        found = answer.regions
    _save(frame, dialogue, found, output)
    _console.print(f"\nThe frame with the answers: [bold]{escape(str(output.resolve()))}[/bold]", soft_wrap=True)
    keep = "`qwen3vl-ros demo --keep" + (" --camera ...`" if source else "` (or `make up`)")
    _console.print(
        f"Next: {keep} leaves camera and node running, with a page to look and ask,\n"
        f"    http://127.0.0.1:{PAGE_PORT}\nIn another terminal:\n"
        f'    {_command()} ask "{"What do you see?" if source else "What colour is the ball?"}"\n'
        "A real model: `qwen3vl-ros model list`, then `qwen3vl-ros model use 2b`. A behaviour: docs/client.md.",
        soft_wrap=True,
    )
    return 0


def _save(frame: Any, dialogue: list[tuple[str, str]], found: Sequence[Region], output: Path) -> None:
    import PIL.Image

    from qwen3vl_ros.vision import region
    from qwen3vl_ros.vision.annotate import annotate

    pixels = np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.step)[:, : frame.width * 3]
    image = np.ascontiguousarray(pixels).reshape(frame.height, frame.width, 3)
    stamp = f"{frame.header.frame_id}, stamp {frame.header.stamp.sec}.{frame.header.stamp.nanosec:09d}"
    boxes = [
        region.Region(thing.label, box=(box.x, box.y, box.x + box.width, box.y + box.height))
        for thing in found
        if (box := thing.box) is not None
    ]
    annotated = annotate(image, stamp, "\n".join(f"{question} {answer}" for question, answer in dialogue), boxes)
    try:
        PIL.Image.fromarray(annotated).save(output)
    except OSError as error:
        raise DemoError(f"The image cannot be written to {output}: {error.strerror or error}.") from error


def _command() -> str:
    """Return the command that starts this program in another terminal, where its environment is not active."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "qwen3vl-ros" else f"{sys.executable} -m qwen3vl_ros.cli.main"


def _keep(robot: _Robot, source: str, page: Page) -> int:
    if os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST":
        _console.print("Visible on this machine only (ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST).")
    command = _command()
    if page.token:
        os.environ[TOKEN_VARIABLE] = page.token
    parameters = (f"port:={page.port}", *page.parameters)
    robot.start("web", "--ros-args", *(x for text in parameters for x in ("-p", text)))
    with _console.status("starting the page ...", spinner="dots"):
        robot.wait_until_listening(page.host, page.port)
    first, second = QUESTIONS_OF_ANY_CAMERA[:2] if source else QUESTIONS[1::-1]
    _console.print(f"A page to look and ask: [bold]{page.url}[/bold]", soft_wrap=True)
    if page.token:
        link = phone.with_token(page.url, page.token)
        _console.print(
            f"On a phone in the same network, photograph this code, or open\n    {link}\nThe browser warns of the "
            "certificate, which was made here just now: go on. Then 'My camera' is the phone's. Whoever has the link "
            "may look and ask until Ctrl-C.",
            markup=False,
            soft_wrap=True,
        )
        _console.print(phone.qr_code(link), markup=False, soft_wrap=True)
    _console.print(
        "Running until Ctrl-C. In another terminal:\n"
        f'    {command} ask "{first}"\n'
        f'    {command} ask "{second}" --temperature 0',
        soft_wrap=True,
    )
    try:
        robot.run_until_interrupted()
    except KeyboardInterrupt:  # the normal end
        _console.print("Stopping.")
    return 0
