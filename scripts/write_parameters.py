"""Writes what is known of the nodes' parameters: a file in config/ for each node, and docs/parameters.md.

    .venv/bin/python scripts/write_parameters.py            # after a parameter was added or changed
    .venv/bin/python scripts/write_parameters.py --check    # writes nothing; exit status 1 if a file is out of date

Reads the sources, so nothing needs to be built first.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ".venv/bin/python scripts/write_parameters.py"
sys.path.insert(0, str(ROOT))

from qwen3vl_ros.gateway import settings as web  # noqa: E402 found through the line above
from qwen3vl_ros.ros.parameters import as_markdown, as_yaml, groups, title  # noqa: E402
from qwen3vl_ros.sim import settings as camera  # noqa: E402
from qwen3vl_ros.vlm import parameters as vlm  # noqa: E402


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


OF_CAMERAS = _listed(tuple(one.name for one in fields(vlm.CameraSettings)))


@dataclass(frozen=True)
class Node:
    """A node; ``when``: when the parameters may change; ``more``: what its tables don't say."""

    name: str
    page: str
    settings: type
    when: str
    more: str = ""


NODES = (
    Node(
        "vlm",
        "node.md",
        vlm.Settings,
        "Live ones may be changed while the node runs, the others while it is unconfigured.",
        f"Each camera may have its own {OF_CAMERAS}: `camera.NAME.rotation` and so on. "
        "What a parameter file sets under the name of a third party's engine is for that engine: "
        "[engines.md](engines.md).",
    ),
    Node("web", "gateway.md", web.Settings, "All are read when the node starts."),
    Node(
        "camera",
        "cameras.md",
        camera.Settings,
        "Live ones may be changed while the node runs, the others are read when it starts.",
        f"Without a `source` it is [the simulated camera](simulation.md): {_listed(camera.OF_SOURCES)} have no effect "
        f"then; with one, {_listed(camera.OF_SIMULATION)} have none.",
    ),
)

INTRODUCTION = f"""\
# Parameters

<!-- Written by: {COMMAND} -->

Every parameter of the three nodes. `config/vlm.yaml`, `config/web.yaml` and `config/camera.yaml` have the same as
parameter files: copy what you want to change, and name your file in `params_file:=FILE` of `vlm.launch.py` or in
`--ros-args --params-file FILE`. One file may have the parameters of several nodes.

A node does not start with a value of another type or out of range, and says which one. What is set but is no parameter
is logged as a warning, with the name that may be meant. `qwen3vl-ros param list` and `ros2 param describe` show the
descriptions, too.
"""


def parameter_file(node: Node) -> str:
    """Every parameter of a node at its default."""
    head = (
        f"# Every parameter of the node {node.name}, at its default. Written by: {COMMAND}",
        f"# {node.when.replace('Live ones', '[live]:')}",
        f"/**/{node.name}:",
        "  ros__parameters:",
    )
    return "\n".join((*head, as_yaml(node.settings, "    "))) + "\n"


def page() -> str:
    """The tables of all nodes."""
    parts = [INTRODUCTION]
    for node in NODES:
        parts.append(f"## Node `{node.name}`\n")
        about = " ".join(filter(None, (f"[What it does]({node.page}).", node.when, node.more)))
        parts.append(textwrap.fill(about, 120, break_on_hyphens=False) + "\n")
        parts.append(as_markdown(node.settings) + "\n")
        for name, kind in groups(node.settings).items():
            parts.append(f"### `{name}`\n\n{title(kind)} Names begin with `{name}.`\n\n{as_markdown(kind)}\n")
    return "\n".join(parts)


def main() -> int:
    """Write what is out of date, or with --check tell."""
    parser = argparse.ArgumentParser(description="Writes parameter files and docs/parameters.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file is out of date")
    check = parser.parse_args().check
    texts = {f"config/{node.name}.yaml": parameter_file(node) for node in NODES} | {"docs/parameters.md": page()}
    stale = [name for name, text in texts.items() if not _has(ROOT / name, text)]
    for name in stale:
        if check:
            print(f"{name} is out of date; run: {COMMAND}")
        else:
            (ROOT / name).write_text(texts[name], encoding="utf-8")
            print(f"wrote {name}")
    return 1 if check and stale else 0


def _has(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
