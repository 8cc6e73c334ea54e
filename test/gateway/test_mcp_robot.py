"""The tools for agents on the model that ships, in the built-in world, with the SDK's client."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")
pytest.importorskip("mcp", reason="the MCP SDK is not installed here")

import anyio
import anyio.to_thread
import httpx
import httpx2
from geometry_msgs.msg import Point, Pose, Quaternion
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from qwen3vl_ros.srv import MoveObject
from sensor_msgs.msg import Image

import child_process
from qwen3vl_ros.gateway.mcp.answers import MOST_TOKENS, count_tokens
from ros_client import PATIENCE, SENSOR_DATA, RosClient
from vlm_process import VlmProcess
from web_process import WebProcess, wait_status

pytestmark = pytest.mark.ros

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mcp_agent.py"
TOKEN = "a-token-of-the-tests"
ROUNDS = 20
CLOSE = 0.05
"""Metres within which a place counts as found. The position hangs on the box, which is the model's own."""

# worlds/tabletop.sdf: the camera stands at EYE and looks down by PITCH; the table's top is at z = 0.75.
EYE, PITCH = np.array([0.30, 0.0, 1.50]), 0.6
THINGS = {"blue ball": ("blue_ball", 0.10), "red box": ("red_box", 0.09)}
"""What is looked for, its name in the world, and the height of its centre above the table."""

HOMES = {"blue ball": (1.08, -0.18), "red box": (1.12, 0.27)}


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    """The example."""
    spec = importlib.util.spec_from_file_location("mcp_agent", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mcp_agent"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(ros: RosClient) -> Iterator[RosClient]:
    """The built-in camera runs."""
    topics = {"image_raw": "image", "camera_info": "camera_info", "depth/image_raw": "depth"}
    command = child_process.command("qwen3vl_ros.sim.camera_node", "--ros-args")
    for ours, theirs in topics.items():
        command += ["-r", f"/camera/{ours}:=/{theirs}"]
    camera = subprocess.Popen(command)
    yield ros
    camera.send_signal(signal.SIGINT)
    assert camera.wait(PATIENCE) == 0


@pytest.fixture
def robot(world: RosClient, vlm: VlmProcess) -> RosClient:
    vlm.wait_connected()
    with world.listen(Image, "/image", SENSOR_DATA) as frames:
        frames.wait_for()
    return world


@asynccontextmanager
async def connected() -> Any:
    """A client of `qwen3vl-ros mcp`, and what it wrote to stderr."""
    command, *words = child_process.command("qwen3vl_ros.cli.main", "mcp", "--wait", "30")
    # rcl's log on stdout would be no protocol: it must not get there even where somebody asks for it.
    environment = {**os.environ, "RCUTILS_LOGGING_USE_STDOUT": "1"}
    async with Client(stdio_client(StdioServerParameters(command=command, args=words, env=environment))) as client:
        yield client


def move(ros: RosClient, thing: str, x: float, y: float) -> np.ndarray:
    """Put a thing elsewhere on the table; returns its centre in the camera's optical frame."""
    name, height = THINGS[thing]
    centre = np.array([x, y, 0.75 + height])
    pose = Pose(position=Point(x=x, y=y, z=centre[2]), orientation=Quaternion(w=1.0))
    assert ros.call(MoveObject, "/camera/move_object", MoveObject.Request(name=name, pose=pose)).success
    sin, cos = np.sin(PITCH), np.cos(PITCH)
    ahead, left, up = centre - EYE
    forward, upward = cos * ahead - sin * up, sin * ahead + cos * up
    return np.array([-left, -upward, forward])


def places() -> Iterator[tuple[str, float, float]]:
    """Where each thing is in each round: apart from all others, so that it is seen whole."""
    random = np.random.default_rng(7)
    taken = {"green cylinder": (1.50, 0.10), "yellow cylinder": (1.46, -0.44), **HOMES}
    for number in range(ROUNDS):
        thing = list(THINGS)[number % 2]
        others = [place for name, place in taken.items() if name != thing]
        while True:
            x, y = random.uniform(0.9, 1.35), random.uniform(-0.4, 0.4)
            if all(np.hypot(x - a, y - b) > 0.3 for a, b in others):
                break
        taken[thing] = (x, y)
        yield thing, x, y


def test_an_agent_finds_what_was_moved_twenty_times_of_twenty(robot: RosClient, agent: ModuleType) -> None:
    async def look_for_all() -> list[tuple[str, Any, float]]:
        rounds = []
        async with connected() as client:
            for thing, x, y in places():
                truth = await anyio.to_thread.run_sync(move, robot, thing, x, y)
                now = robot.node.get_clock().now().nanoseconds / 1e9
                found = await agent.find_object(client, thing, after=now)
                off = np.inf if isinstance(found, str) else float(np.linalg.norm(np.array(found.position) - truth))
                rounds.append((thing, found, off))
        return rounds

    rounds = anyio.run(look_for_all)
    for thing, place in HOMES.items():
        move(robot, thing, *place)
    assert len(rounds) == ROUNDS and [one for one in rounds if not one[2] < CLOSE] == []


def test_the_tools_answer_shortly_over_stdio(robot: RosClient) -> None:
    async def use_all() -> dict[str, Any]:
        answers = {}
        async with connected() as client:
            for tool, arguments in (
                ("status", {}),
                ("look", {"question": "What colour is the ball?"}),
                ("locate", {"thing": "red box"}),
                ("find", {"thing": "purple ball"}),
                ("tasks", {}),
                ("run_task", {"name": "count", "prompt": "objects"}),
                ("get_image", {"width": 64}),
            ):
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content
                assert all(count_tokens(part.text) <= MOST_TOKENS for part in result.content if part.type == "text")
                answers[tool] = result.content
        return answers

    answers = {tool: json.loads(content[-1].text) for tool, content in anyio.run(use_all).items()}
    assert answers["status"]["ready"] and answers["status"]["cameras"] == ["default"]
    assert answers["look"]["answer"] == "blue"
    (box,) = answers["locate"]["things"]
    assert box["label"] == "red box" and len(box["position"]) == 3
    assert not answers["find"]["found"] and "not seen" in answers["find"]["why"]
    assert json.loads(answers["run_task"]["answer"]) == {"count": 4}
    assert answers["get_image"]["camera_pixels"] == [448, 448]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, dds_profile: None) -> Iterator[str]:
    """Address of a gateway that wants a token."""
    environment = os.environ | {"QWEN3VL_WEB_TOKEN": TOKEN}
    process = WebProcess(tmp_path_factory.mktemp("web") / "logs", {}, environment)
    yield f"{process.wait_url()}/mcp"
    process.close()


def test_the_example_finds_a_thing_over_http(robot: RosClient, url: str) -> None:
    wait_known(url)
    command = [sys.executable, str(EXAMPLE), "red box", "--url", url]
    environment = os.environ | {"QWEN3VL_WEB_TOKEN": TOKEN}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("red box: (") and "camera_optical_frame" in done.stdout


def test_a_watch_tells_an_agent_what_happened(robot: RosClient, url: str) -> None:
    wait_known(url)

    async def watch() -> dict[str, Any]:
        async with over_http(url) as client:
            added = await client.call_tool("watch", {"question": "Is there a blue ball?", "every": 0.1})
            name = json.loads(added.content[0].text)["watch"]
            with anyio.fail_after(PATIENCE):
                while not (events := json.loads((await client.call_tool("recent_events")).content[0].text))["events"]:
                    await anyio.sleep(0.05)  # nothing tells an agent: it has to ask
            assert not (await client.call_tool("watch", {"stop": name})).is_error
            return dict(events)

    events = anyio.run(watch)
    assert (events["events"][0]["kind"], events["events"][0]["answer"]) == ("on", "yes")


@asynccontextmanager
async def over_http(url: str) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


def wait_known(url: str) -> None:
    """Wait until the gateway knows the node and its camera."""
    with httpx.Client(base_url=url.removesuffix("/mcp"), headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        wait_status(http, lambda status: status["state"] == "ready" and status["cameras"])
