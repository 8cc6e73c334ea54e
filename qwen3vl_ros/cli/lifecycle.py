"""`qwen3vl-ros lifecycle`: prints the lifecycle state of a running node, and changes it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState

from qwen3vl_ros.cli.connection import StatusReader
from qwen3vl_ros.cli.progress import waiting_for_node

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_PATIENCE = 120.0
"""Seconds to wait for a transition; deactivation ends the open questions first."""


def show(connection: Connection) -> int:
    """Print the state; return the exit status. Raises ServerUnavailable and NotSpinning."""
    print(_state(connection))
    return 0


def change(connection: Connection, transition: str) -> int:
    """Do ``transition`` and print the new state; return the exit status. Raises ServerUnavailable and NotSpinning."""
    reader = StatusReader(connection)
    reply = connection.call(GetAvailableTransitions, "get_available_transitions", GetAvailableTransitions.Request())
    possible = {offered.transition.label: offered.transition for offered in reply.available_transitions}
    if transition not in possible:
        print(
            f"A node that is {_state(connection)} cannot {_verb(transition)}; it can {_listed(possible)}.",
            file=sys.stderr,
        )
        return 2
    request = ChangeState.Request(transition=possible[transition])
    with waiting_for_node(reader, _verb(transition)):
        done = connection.call(ChangeState, "change_state", request, patience=_PATIENCE).success
    if not done:
        reason = reader.status.message if reader.status is not None else ""
        print(
            f"{connection.name} did not {_verb(transition)}: {reason or 'its log says why.'}\nIt is "
            f"{_state(connection)} now.",
            file=sys.stderr,
        )
        return 1
    if transition != "shutdown":
        print(_state(connection))
    return 0


def _state(connection: Connection) -> str:
    label: str = connection.call(GetState, "get_state", GetState.Request()).current_state.label
    return label


def _verb(transition: str) -> str:
    return {"cleanup": "clean up", "shutdown": "shut down"}.get(transition, transition)


def _listed(possible: dict[str, object]) -> str:
    return ", ".join(map(_verb, possible)) or "do nothing now: a transition is going on"
