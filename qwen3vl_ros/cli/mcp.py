"""`qwen3vl-ros mcp`: the robot's tools for an agent that starts this command and talks to it over stdin and stdout."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from qwen3vl_ros.cli import arguments

if TYPE_CHECKING:
    from qwen3vl_ros.gateway.ros_backend import RosBackend

_EPILOG: Final = """Agents start it themselves; what their configuration needs:
  {"mcpServers": {"robot": {"command": "qwen3vl-ros", "args": ["mcp"]}}}
docs/mcp.md has the tools. The gateway (qwen3vl-ros web) serves the same at /mcp over HTTP.
"""
_LOOK_PERIOD: Final = 0.05
"""Seconds between two looks for the node and its cameras."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; see :func:`qwen3vl_ros.cli.node_commands.add`."""
    mcp = command("mcp", _mcp, "Serve tools for an agent (MCP) on stdin and stdout: look, find, watch.", epilog=_EPILOG)
    mcp.add_argument(
        "--timeout", metavar="S", type=arguments.seconds, default=120.0, help="seconds for an answer (default 120)"
    )
    arguments.add_node(mcp)


def _mcp(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.gateway.mcp.endpoint import MISSING, sdk_is_there

    if not sdk_is_there():
        print(f"mcp: {MISSING}.", file=sys.stderr)
        return 1
    # Stdout is the protocol's; the SDK moves it away from everybody else, but what C buffers is written at the end.
    os.environ["RCUTILS_LOGGING_USE_STDOUT"] = "0"
    import anyio

    from qwen3vl_ros.ros.fast_dds import package_profile

    os.environ.update(package_profile())
    anyio.run(_serve, parsed.node, parsed.wait, parsed.timeout)
    return 0


async def _serve(node_name: str, wait: float, timeout: float) -> None:
    """Serve until stdin ends, or a signal comes."""
    import anyio
    import anyio.to_thread
    from mcp.server.stdio import stdio_server

    closing: list[Callable[[], None]] = []
    async with anyio.create_task_group() as group:
        await group.start(_end_on_signals, closing)
        async with stdio_server() as (requests, replies):
            from qwen3vl_ros.gateway.mcp.server import create_server
            from qwen3vl_ros.gateway.mcp.tools import RobotTools
            from qwen3vl_ros.gateway.ros_backend import RosBackend
            from qwen3vl_ros.ros.background_node import BackgroundNode

            background = BackgroundNode(f"qwen3vl_ros_mcp_{os.getpid()}")
            backend = RosBackend(background.node, f"/{node_name.strip('/')}")

            def close() -> None:
                backend.close()
                background.stop()

            closing.append(close)
            background.start()
            await anyio.to_thread.run_sync(_find, backend, wait)
            server = create_server(RobotTools(backend, timeout))
            await server.run(requests, replies, server.create_initialization_options())
            await anyio.to_thread.run_sync(close)
        group.cancel_scope.cancel()


async def _end_on_signals(closing: Sequence[Callable[[], None]], *, task_status: Any) -> None:
    """End the process, after ``closing``: what reads stdin can be interrupted by nothing else."""
    import anyio
    import anyio.to_thread

    ends = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if not _ignored(number)]
    with anyio.open_signal_receiver(*ends) as signals:
        task_status.started()
        async for _ in signals:
            for close in closing:
                await anyio.to_thread.run_sync(close)
            os._exit(0)


def _ignored(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _find(backend: RosBackend, wait: float) -> None:
    """Wait until the node's status and cameras are known, so that the first tool is not told of an absent node."""
    deadline = time.monotonic() + wait
    while (backend.status().state == "absent" or not backend.cameras()) and time.monotonic() < deadline:
        time.sleep(_LOOK_PERIOD)
