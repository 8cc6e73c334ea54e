"""`qwen3vl-ros watch`: adds a watch, prints its events and runs a command for each, and removes it at the end."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.client.watch import WatchEvent
from qwen3vl_ros.srv import ListWatches

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client import Watching

_IMAGES = ("before", "after", "annotated")


def run(connection: Connection, parsed: argparse.Namespace) -> int:
    """Watch until Ctrl-C, or until the watch is over; return the exit status.

    Raises:
        VlmError: The node is not there, or refuses the watch.
    """
    arguments = dict(parsed.watch)
    client = connection.vlm_client()
    if parsed.save is not None:
        parsed.save.mkdir(parents=True, exist_ok=True)
        arguments["evidence"] = True
    with client.watch(parsed.prompt, **arguments) as watching:
        print(f"watching as {watching.watch_id}; Ctrl-C ends it", file=sys.stderr)
        try:
            _follow(watching, parsed)
        except KeyboardInterrupt:
            return 0  # the usual end
    print("the watch is over", file=sys.stderr)
    return 0


def show(connection: Connection, *, as_json: bool) -> int:
    """List the watches of the node; return the exit status."""
    states = connection.call(ListWatches, "list_watches", ListWatches.Request()).watches
    for state in states:
        report = _report(state)
        if as_json:
            print(json.dumps(report, ensure_ascii=False))
            continue
        active = "muted" if report["muted"] else "true" if report["active"] else "false"
        problem = f"; {report['error']}" if report["error"] else ""
        late = f", {report['late']:.1f} s late" if report["late"] else ""
        counts = f"{report['asked']} asked, {report['unchanged']} left out, {report['events']} events"
        print(f"{report['watch_id']}: {report['what']} {active}, {counts}{late}{problem}")
    return 0


def _follow(watching: Watching, parsed: argparse.Namespace) -> None:
    for count, event in enumerate(watching, 1):
        report = event.as_json()
        print(json.dumps(report, ensure_ascii=False) if parsed.json else _line(event), flush=True)
        if parsed.save is not None:
            _save(event, parsed.save)
        if parsed.exec:
            _execute(parsed.exec, event, report)
        if count == parsed.count:
            return


def _execute(command: str, event: WatchEvent, report: dict[str, Any]) -> None:
    """Run a shell command about an event, to its end; what the model said is in no part of the command itself."""
    environment = {
        "WATCH_ID": event.watch_id,
        "WATCH_KIND": event.kind,
        "WATCH_ACTIVE": "1" if event.active else "0",
        "WATCH_MESSAGE": event.message,
        "WATCH_ANSWER": "" if event.answer is None else event.answer.text,
        "WATCH_STAMP": f"{event.stamp.sec}.{event.stamp.nanosec:09}",  # a float would be off by up to 120 ns
    }
    environment = {name: value.replace("\0", "") for name, value in environment.items()}
    done = subprocess.run(
        command,
        shell=True,
        check=False,
        input=json.dumps(report, ensure_ascii=False).encode(),
        env={**os.environ, **environment},
    )
    if done.returncode:
        print(f"the command ended with status {done.returncode}", file=sys.stderr)


def _save(event: WatchEvent, folder: Path) -> None:
    for name in _IMAGES:
        if image := getattr(event, name):
            (folder / f"{event.watch_id}_{event.sequence:04d}_{event.kind}_{name}.jpg").write_bytes(image)


def _line(event: WatchEvent) -> str:
    stamp = event.seconds
    when = time.strftime("%H:%M:%S", time.localtime(stamp))
    if abs(time.time() - stamp) > 86400:  # of a simulated clock
        when = f"{stamp:.3f}"
    parts = [when, event.kind.upper(), event.message]
    if event.answer is not None:
        parts.append("->")
        parts.append(" ".join(event.answer.text.split()))
        if event.answer.probability is not None:
            parts.append(f"({event.answer.probability:.2f})")
    return " ".join(parts)


def _report(state: Any) -> dict[str, Any]:
    return {
        "watch_id": state.watch.watch_id,
        "what": state.watch.message or state.watch.prompt or state.watch.task,
        "active": state.active,
        "muted": state.watch.muted,
        "asked": state.asked,
        "unchanged": state.unchanged,
        "events": state.events,
        "failed": state.failed,
        "late": state.late,
        "error": state.error_msg,
        "text": state.last_answer.text,
    }
