"""Measures what this package adds to a model, in one run and as ratios: `make bench`.

    python benchmark/run.py [--quick] [NAME ...]

What each figure means: docs/performance.md. Exit status 1 if a target is not met, 2 if a benchmark could not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rich.console import Console

from ask_command import ask_command
from bench import Bench
from camera_cpu import camera_cpu
from cancel import cancel
from figures import Figure, table
from gateway_load import gateway_load
from history_cpu import history_cpu
from image_tokens import image_tokens
from memory import memory
from model_speed import model_speed
from openvino_callers import openvino_callers
from openvino_llama import openvino_llama
from restart import restart
from ros_graph import RosGraph, isolate
from same_frame import same_frame
from scores import scores
from several_callers import several_callers
from spinning import spinning
from start_up import start_up
from still_camera import still_camera
from streaming import delay, throughput

BENCHMARKS: dict[str, Callable[[Bench], list[Figure]]] = {
    "throughput": throughput,
    "delay": delay,
    "cancel": cancel,
    "same_frame": same_frame,
    "restart": restart,
    "still_camera": still_camera,
    "camera_cpu": camera_cpu,
    "history_cpu": history_cpu,
    "start_up": start_up,
    "ask_command": ask_command,
    "memory": memory,
    "gateway_load": gateway_load,
    "spinning": spinning,
    "openvino": openvino_llama,
    "openvino_callers": openvino_callers,
    "model_speed": model_speed,
    "several_callers": several_callers,
    "image_tokens": image_tokens,
    "scores": scores,
}

_BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmark"


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the repeats: does it run? Not for figures")
    parser.add_argument("--large", type=Path, help="GGUF file or folder in place of the 2B-shaped random model")
    parser.add_argument("--small", type=Path, help="GGUF file or folder in place of the model that ships")
    parser.add_argument("--threads", type=int, default=0, help="the engine's; 1 on a machine that is busy otherwise")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")

    console = Console()
    large = arguments.large or _random_2b(console)
    small = arguments.small or Path(get_package_share_directory("qwen3vl_ros")) / "models" / "tabletop"
    load = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} CPUs, load average {load:.1f}" + (": figures will be noisy" if load > 0.5 else ""))
    isolate()
    figures: list[Figure] = []
    failed = False
    with RosGraph() as graph:
        for name in arguments.names or BENCHMARKS:
            begin = time.monotonic()
            with console.status(name) as status:

                def say(step: str, name: str = name, status: object = status) -> None:
                    text = f"{name}: {step}"
                    status.update(text) if console.is_terminal else console.print(text)

                try:
                    bench = Bench(graph, large.absolute(), small.absolute(), arguments.threads, arguments.quick, say)
                    found = BENCHMARKS[name](bench)
                except RuntimeError as error:
                    console.print(f"[red]{name}: {error}")
                    failed = True
                    found = []
                figures += found
            for figure in found:  # now, not only in the table: the next one may take minutes
                console.print(f"{figure.name}: {figure.measured}", highlight=False)
            console.print(f"{name}: {time.monotonic() - begin:.0f} s")
    console.print(table(figures))
    return 2 if failed else int(not all(figure.met for figure in figures))


def _random_2b(console: Console) -> Path:
    """The 2B-shaped model, made on first use."""
    folder = _BUILD / "qwen3-vl-2b-random"
    if importlib.util.find_spec("gguf") is None:
        sys.exit("The random model needs the Python package gguf, which `make test-tools` installs.")
    from qwen3vl_ros.engines.llama.random_model import make

    with console.status(f"making a random model with the shapes of Qwen3-VL-2B in {folder} (1.6 GB)"):
        return make(folder)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
