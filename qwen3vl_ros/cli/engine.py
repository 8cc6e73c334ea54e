"""`qwen3vl-ros engine`: says which engine of a running node answers, and changes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builtin_interfaces.msg import Duration

from qwen3vl_ros.cli.connection import StatusReader
from qwen3vl_ros.cli.progress import waiting_for_node
from qwen3vl_ros.client.exceptions import EngineFailure
from qwen3vl_ros.engines.registry import available
from qwen3vl_ros.srv import SetEngine

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_PATIENCE = 900.0
"""Seconds to wait for the node's reply: it gives up loading after 600 and may first finish another change."""


def show(connection: Connection) -> int:
    """Print the engine that answers, with its model, and the others that are installed; return the exit status.

    Raises:
        ServerUnavailable: There is no node.
    """
    status = StatusReader(connection).first()
    for name in sorted({*available(), *filter(None, [status.engine])}):
        if name == status.engine:
            print(f"* {name}  {status.model}".rstrip())
        else:
            print(f"  {name}")
    if status.message:
        print(status.message, file=sys.stderr)
    print(
        "`qwen3vl-ros engine NAME` changes to another one; `qwen3vl-ros engines` says which can be used on this "
        "machine.",
        file=sys.stderr,
    )
    return 0


def change(connection: Connection, name: str, model: str, mmproj: str, grace: float) -> int:
    """Have the node load another engine or model and change to it; return the exit status.

    Args:
        connection: To the node.
        name: The engine; "" = the current one.
        model: Model file, directory or served name; "" = as the node's parameters say.
        mmproj: The projector of a GGUF model; "" = likewise.
        grace: Seconds for the questions that the old engine is answering; 0 = as long as they take.

    Raises:
        ServerUnavailable: There is no node.
        NotSpinning: The node did not reply.
    """
    request = SetEngine.Request(engine=name, model=_path(model), mmproj=_path(mmproj))
    request.grace = Duration(sec=int(grace), nanosec=int(grace % 1 * 1e9))
    reader = StatusReader(connection)
    with waiting_for_node(reader, f"loading {model or name}"):
        response = connection.call(SetEngine, "set_engine", request, patience=_PATIENCE)
    if not response.success:
        print(response.message, file=sys.stderr)
        if response.engine:
            print(f"Still in use: {response.engine}, model {response.model or 'none'}.", file=sys.stderr)
        return EngineFailure.exit_status
    print(f"{response.engine}  {response.model}".rstrip())
    if response.message:
        print(response.message, file=sys.stderr)
    return 0


def _path(text: str) -> str:
    """Return a file of this machine by its whole path, as the node runs in another folder; anything else as it is.

    Links stay: in the Hugging Face cache a file has its name by one.
    """
    path = Path(text).expanduser()
    return str(path.absolute()) if text and path.exists() else text
