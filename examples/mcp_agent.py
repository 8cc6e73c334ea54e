"""An agent that finds an object with a robot's tools (MCP), and has no language model: its plan is written down here.

    qwen3vl-ros demo --keep                                             # in one terminal: a camera and the node
    python examples/mcp_agent.py "red box"                              # in another one, over stdio
    python examples/mcp_agent.py "red box" --url http://127.0.0.1:8080/mcp

It sees no image: it asks whether the robot can look, has it find the object, and asks what is there where it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

TRIES = 5


class CannotLook(Exception):
    """The robot cannot look now; the text is its own sentence."""


@dataclass(frozen=True)
class Found:
    """Where an object is: metres in ``frame`` at ``stamp``, seconds of the robot's clock; ``score``: 0 to 1."""

    position: tuple[float, float, float]
    frame: str
    stamp: float
    score: float | None


async def use(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return what a tool answers. Raises CannotLook with its sentence where it fails."""
    result = await client.call_tool(tool, arguments)
    text = "".join(part.text for part in result.content if part.type == "text")
    if result.is_error:
        raise CannotLook(text)
    answer: dict[str, Any] = json.loads(text)
    return answer


async def find_object(client: Client, thing: str, frame: str = "", after: float = 0.0) -> Found | str:
    """Return where ``thing`` is, or a sentence that says why that is unknown.

    Args:
        client: Connected to a robot.
        thing: Such as "red box".
        frame: Of the position, such as "map"; "" for the camera's own.
        after: An answer about an older image does not count, such as after something was moved.
    """
    status = await use(client, "status")
    if not status["ready"]:
        return f"The robot cannot look: {status['why']}"
    why = ""
    for _ in range(TRIES):
        answer = await use(client, "find", thing=thing, frame=frame)
        if answer["found"] and answer["stamp"] >= after:
            x, y, z = answer["position"]
            return Found((x, y, z), answer["frame"], answer["stamp"], answer.get("score"))
        why = answer.get("why", "the robot's images are too old.")
    seen = await use(client, "look", question="What do you see?")
    return f"There is no {thing} to be found: {why} What is seen: {seen['answer']}"


async def run(thing: str, frame: str, url: str) -> int:
    """Find an object and print where it is; return the exit status."""
    if url:
        token = os.environ.get("QWEN3VL_WEB_TOKEN", "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = streamable_http_client(url, http_client=httpx2.AsyncClient(headers=headers, timeout=180))
    else:
        transport = stdio_client(
            StdioServerParameters(command="qwen3vl-ros", args=["mcp"], env=dict(os.environ)), errlog=sys.stderr
        )
    async with Client(transport) as client:
        found = await find_object(client, thing, frame)
    if isinstance(found, str):
        print(found)
        return 1
    print(f"{thing}: {found.position} m in {found.frame}, score {found.score}")
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Find an object with a robot's tools (MCP).")
    parser.add_argument("thing", help='what to find, such as "red box"')
    parser.add_argument("--frame", default="", help="frame of the position (default: the camera's own)")
    parser.add_argument("--url", default="", help="of a gateway's /mcp (default: start `qwen3vl-ros mcp`)")
    given = parser.parse_args()
    return anyio.run(run, given.thing, given.frame, given.url)


if __name__ == "__main__":
    sys.exit(main())
