"""`qwen3vl-ros model`: which Qwen3-VL this machine can run and how fast, getting one, switching to it, removing it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen3vl_ros.cli.download import Downloaded, Plan
    from qwen3vl_ros.cli.kept_models import KeptModel
    from qwen3vl_ros.engines.catalogue import Entry
    from qwen3vl_ros.engines.fitted_catalogue import FittedCatalogue, FittedModel
    from qwen3vl_ros.engines.machine import Machine

NODE = "/vlm"
CAMERA_TOPIC = "/camera/image_raw"

OPENVINO_NEEDS = "The engine openvino needs `pip install openvino-genai==2026.4.1.0`."

_USAGE_ERROR = 2


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of ``qwen3vl-ros model`` to its parser."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    listing = command(
        "list",
        _list,
        "List the published models: what fits this machine, and how fast each would be. For that, a few layers of "
        "random weights are run the first time, about 20 s.",
    )
    listing.add_argument("--all", action="store_true", help="every quantisation, and the Thinking models as well")
    listing.add_argument(
        "--no-benchmark", action="store_true", help="do not measure; without figures if there are none"
    )
    listing.add_argument(
        "--again", action="store_true", help="measure again, for example on a machine that is idle now"
    )
    listing.add_argument("--json", action="store_true", help="print JSON: sizes in bytes, times in seconds")

    use = command("use", _use, "Download a model, after one question, and switch a running node to it.")
    use.add_argument("name", metavar="NAME", help="such as 2b or 4b-thinking; `qwen3vl-ros model list` has all")
    use.add_argument("--engine", choices=("llama", "openvino"), default="", help="for this engine (default llama)")
    use.add_argument("--quant", metavar="Q", default="", help="quantisation: Q4_K_M (default), Q8_0, F16; int4, int8")
    use.add_argument(
        "--from", dest="hub", choices=("huggingface", "modelscope"), default="huggingface", help="where to download"
    )
    use.add_argument(
        "--node",
        metavar="NAME",
        nargs="?",
        const=NODE,
        default="",
        help=f"switch this node, which runs on this machine (default: {NODE}, if it is there and you are asked)",
    )
    use.add_argument(
        "--wait", metavar="S", type=float, default=3.0, help="seconds to look for a running node (default 3)"
    )
    use.add_argument("--yes", action="store_true", help="do not ask")

    show = command("show", _show, "Say which models were downloaded, where they are, and how to start with them.")
    show.add_argument("name", metavar="NAME", nargs="?", default="", help="only this one, with all there is to say")

    remove = command("remove", _remove, "Delete a downloaded model of the list from the cache, after a question.")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--engine", choices=("llama", "openvino"), default="", help="only that for this engine")
    remove.add_argument("--yes", action="store_true", help="do not ask")


def _list(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.hubs import HUBS
    from qwen3vl_ros.cli.speed_bar import measure
    from qwen3vl_ros.engines import speed
    from qwen3vl_ros.engines.fitted_catalogue import fitted_catalogue
    from qwen3vl_ros.engines.machine import this_machine

    machine = this_machine(HUBS["huggingface"].cache)
    measured = None if parsed.again else speed.load(machine)
    try:
        if measured is None and not parsed.no_benchmark:
            measured = measure(machine)
    except KeyboardInterrupt:
        print("\nStopped. `qwen3vl-ros model list --no-benchmark` lists without measuring.", file=sys.stderr)
        return 130
    if measured and measured.busy:
        print(
            "Other programs used this machine while it was measured: it is faster than the figures say. Measure anew "
            "when it is idle: `qwen3vl-ros model list --again`.",
            file=sys.stderr,
        )
    found = fitted_catalogue(machine, measured)
    if parsed.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _print_list(found, everything=parsed.all)
    return 0


def _print_list(found: FittedCatalogue, *, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    machine = found.machine
    table = Table("NAME", "engine", "quant", box=None, pad_edge=False, header_style="bold")
    for title in ("download", "memory", "first token", "tokens/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for model in found.models:
        if everything or _in_short_list(model):
            style = "bold" if model.recommended else "" if model.fits_memory and model.fits_disk else "dim"
            table.add_row(
                model.name, model.engine, model.quant, _size(model.disk), _size(model.memory),
                "" if model.first_token is None else f"{model.first_token:.1f} s",
                "" if model.tokens_per_second is None else f"{model.tokens_per_second:.1f}",
                Text(_remark(model, machine)), style=style,
            )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(
        f"{machine.cpu}, {machine.cores} cores; {_size(machine.memory_free)} of {_size(machine.memory)} memory and "
        f"{_size(machine.disk_free)} disk free",
        highlight=False,
    )
    console.print(table, highlight=False)
    lines = []
    if found.measured:
        lines.append(
            "Estimated: sizes from the models' shapes; times, about a new 640x480 image, from a few layers of the 2B "
            "that ran here (llama, CPU), scaled by operations and memory traffic; rougher for the a3b and a22b."
        )
        if machine.bf16:
            lines.append("openvino: llama's times with the ratios measured on another machine with AVX512_BF16.")
        else:
            lines.append("openvino has no times: its ratios to llama are known for processors with AVX512_BF16 only.")
    else:
        lines.append("Not measured: no times. Sizes are estimated from the models' shapes.")
    if not everything:
        lines.append(
            "NAME-thinking: the same size and speed per token, but it thinks first. --all: every quantisation."
        )
    lines.append("Should work, not tried: Qwen3.5 (dense) as GGUF, `qwen3vl-ros download OWNER/NAME`.")
    lines.append("Get one: `qwen3vl-ros model use NAME`.")
    console.print("\n".join(lines), highlight=False)


def _in_short_list(model: FittedModel) -> bool:
    from qwen3vl_ros.engines.shapes import QUANTS

    return model.title.endswith("-Instruct") and (model.engine != "llama" or model.quant == QUANTS[0])


def _remark(model: FittedModel, machine: Machine) -> str:
    if model.recommended:
        return "recommended"
    if model.memory > machine.memory:
        return "more than this machine's memory"
    if not model.fits_memory:
        return "more than the memory that is free now"
    return "" if model.fits_disk else "no room on the disk"


def _use(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.download import plan_any
    from qwen3vl_ros.cli.hubs import HUBS, DownloadError
    from qwen3vl_ros.engines.catalogue import UnknownModel, find
    from qwen3vl_ros.engines.machine import this_machine

    if not parsed.yes and not sys.stdin.isatty():
        return _needs_yes()
    try:
        entry = find(parsed.name, parsed.engine, parsed.quant)
    except UnknownModel as error:
        print(error, file=sys.stderr)
        return _USAGE_ERROR
    hub = HUBS[parsed.hub]
    try:
        plan = plan_any(hub, entry.repo, quant=entry.quant if entry.engine == "llama" else "")
        machine = this_machine(hub.cache)
        if entry.memory > machine.memory:
            print(
                f"{entry.title} in {entry.quant} needs about {_size(entry.memory)} of memory, this machine has "
                f"{_size(machine.memory)} in all. `qwen3vl-ros model list` says what fits.",
                file=sys.stderr,
            )
            return 1
        plan.check_room()
        node = parsed.node or (NODE if not parsed.yes and _runs(NODE, parsed.wait) else "")
        print(_about(entry, plan, machine, node), file=sys.stderr)
        if not parsed.yes and not _agreed("Go on?"):
            print("Nothing was done.", file=sys.stderr)
            return 1
        files = plan.fetch()
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it goes on where it stopped.", file=sys.stderr)
        return 130
    print("Checked and complete.", file=sys.stderr)
    if node:
        return _switch(node, entry.engine, files, parsed.wait)
    _print_commands(entry, files)
    return 0


def _about(entry: Entry, plan: Plan, machine: Machine, node: str) -> str:
    """Return what is going to happen."""
    from qwen3vl_ros.cli.download import gigabytes

    lines = [f"{entry.title}, {entry.quant}, for the engine {entry.engine}: {plan.repo} on {plan.hub.name}"]
    if entry.engine == "llama":
        lines += [f"    {file.name}: {gigabytes(file.size)}" for file in plan.files]
    else:
        lines.append(f"    {len(plan.files)} files: {gigabytes(plan.size)}")
    if plan.missing:
        lines.append(f"Downloads {gigabytes(plan.missing)} to {plan.hub.cache}, {_size(machine.disk_free)} are free.")
    else:
        lines.append(f"It is complete in {plan.hub.cache}: nothing to download.")
    lines.append(f"Needs about {_size(entry.memory)} of memory, {_size(machine.memory_free)} are free now.")
    if entry.memory > machine.memory_free:
        lines.append(
            "That is too little now: it would run slowly or be killed. End what you can, or take a smaller one."
        )
    if node:
        lines.append(f"Then the node {node} loads it, answers with the old one meanwhile, and switches.")
    return "\n".join(lines)


def _runs(name: str, wait: float) -> bool:
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.srv import SetEngine

    with Connection(name, wait) as connection:
        return bool(connection.node.create_client(SetEngine, f"{connection.name}/set_engine").wait_for_service(wait))


def _switch(node: str, name: str, files: Downloaded, wait: float) -> int:
    from qwen3vl_ros.cli import engine
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client.exceptions import VlmError

    with Connection(node, wait) as connection:
        try:
            return engine.change(connection, name, str(files.model), str(files.mmproj or ""), grace=0.0)
        except VlmError as error:
            print(
                f"{error} The model is downloaded: `qwen3vl-ros model show` has commands that start a node with it.",
                file=sys.stderr,
            )
            return error.exit_status


def _print_commands(entry: Entry, files: Downloaded) -> None:
    """Print the commands that start with the model."""
    for line in commands(entry.engine, files.model.absolute(), files.mmproj and files.mmproj.absolute()):
        print(line)
    if entry.engine == "openvino":
        print(OPENVINO_NEEDS, file=sys.stderr)
    print(
        f"Start the node with your camera's topic in place of {CAMERA_TOPIC}, or the demo with its simulated camera. "
        f"A node that runs: `qwen3vl-ros model use {entry.name} --node`.",
        file=sys.stderr,
    )


def commands(engine: str, model: Path, mmproj: Path | None) -> list[str]:
    """Return the command lines that start the node, and the demo where it can have this model, with a model."""
    node = ["qwen3vl-ros", "node", "--ros-args", "-r", f"image:={CAMERA_TOPIC}", "-p", f"engine:={engine}"]
    node += ["-p", f"{engine}.model:={model}"]
    demo = ["qwen3vl-ros", "demo", "--keep", "--model", str(model)]
    if mmproj is not None:
        node += ["-p", f"llama.mmproj:={mmproj}"]
        demo += ["--mmproj", str(mmproj)]
    return [shlex.join(node)] + ([shlex.join(demo)] if engine == "llama" else [])


def _show(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.kept_models import kept_models
    from qwen3vl_ros.engines.catalogue import UnknownModel, find

    try:
        name = find(parsed.name).name if parsed.name else ""
    except UnknownModel as error:
        print(error, file=sys.stderr)
        return _USAGE_ERROR
    models = [model for model in kept_models() if name in ("", model.entry.name)]
    if not models:
        print(
            f"{f'{name} is not' if name else 'No model of the list is'} downloaded: `qwen3vl-ros model use "
            f"{name or 'NAME'}` gets one.",
            file=sys.stderr,
        )
        return 1 if name else 0
    for model in models:
        print(f"{model.entry.name:18} {model.entry.engine:8} {model.quant:8} {_size(model.size):>8}  {model.model}")
        if name:
            _print_details(model)
    return 0


def _print_details(model: KeptModel) -> None:
    from qwen3vl_ros.engines.model_card import model_card

    card = model_card(model.entry.title)
    print(f"    {model.entry.title}, from {model.hub.name}: {model.entry.url}")
    print(f"    licence {card.license or 'unknown'}; languages {', '.join(card.languages) or 'unknown'}")
    if model.entry.engine == "llama":
        print(f"    projector {model.mmproj or 'none: the node refuses images'}")
    for line in commands(model.entry.engine, model.model, model.mmproj):
        print(f"    {line}")


def _remove(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.hubs import DownloadError
    from qwen3vl_ros.cli.kept_models import repositories_of
    from qwen3vl_ros.engines.catalogue import UnknownModel, find

    if not parsed.yes and not sys.stdin.isatty():
        return _needs_yes()
    try:
        entry = find(parsed.name, parsed.engine)
    except UnknownModel as error:
        print(error, file=sys.stderr)
        return _USAGE_ERROR
    kept = repositories_of(entry.name, parsed.engine)
    if not kept:
        print(f"{entry.name} is not downloaded: `qwen3vl-ros model show` says what is.", file=sys.stderr)
        return 1
    for hub, repo, files in kept:
        print(f"{repo} from {hub.name}, in {hub.cache}:", file=sys.stderr)
        for file in files:
            print(f"    {file.name}: {_size(file.stat().st_size)}", file=sys.stderr)
    if not parsed.yes and not _agreed("Delete this?"):
        print("Nothing was deleted.", file=sys.stderr)
        return 1
    for hub, repo, _ in kept:
        try:
            hub.remove(repo)
        except DownloadError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"Deleted {repo}.")
    return 0


def _needs_yes() -> int:
    print("There is no terminal to ask on: --yes says yes beforehand.", file=sys.stderr)
    return _USAGE_ERROR


def _agreed(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size < 99.95e9 else f"{size / 1e9:.0f} GB"
