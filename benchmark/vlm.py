"""The node ``vlm`` as a process of its own, started as users start it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.msg import VlmStatus

from bench import Bench
from processes import HERE, running
from ros_graph import Listener


@dataclass(frozen=True)
class Vlm:
    """A node that is ready. ``start_time``: seconds from the start of its process; ``load_time``: the model's of it."""

    pid: int
    worker_pid: int
    start_time: float
    load_time: float


@contextlib.contextmanager
def vlm(
    bench: Bench,
    model: Path,
    *,
    engine: str = "llama",
    namespace: str = "",
    remap: Mapping[str, str] | None = None,
    parameters: Mapping[str, object] | None = None,
) -> Iterator[Vlm]:
    """Run the node with ``model``, ready to be asked. ``remap``: topics under other names. ``parameters``: of the node.

    The benchmark's own client asks the node without a namespace and hears nothing of another one.
    """
    arguments = ["-m", "qwen3vl_ros.vlm.node", "--ros-args", "-p", f"engine:={engine}"]
    arguments += ["-p", f'{engine}.model:="{model}"', "-p", f"{engine}.n_threads:={bench.threads}"]
    if namespace:
        arguments += ["-r", f"__ns:={namespace}"]
    for name, other in (remap or {}).items():
        arguments += ["-r", f"{name}:={other}"]
    for name, value in (parameters or {}).items():
        arguments += ["-p", f"{name}:={value}"]
    with Listener(bench.graph, VlmStatus, f"{namespace}/vlm/status") as status:
        begin = time.monotonic()
        with running(arguments, {"PYTHONPATH": str(HERE / "engine")}) as process:
            # A failed load shows as UNCONFIGURED with a message; so does the moment before the load, without one.
            when, ready = status.wait_for(lambda s: s.state == VlmStatus.READY or _has_failed(s))
            if ready.state != VlmStatus.READY:
                raise RuntimeError(f"the node cannot load {model}: {ready.message}")
            if not namespace:
                bench.graph.connect()
            yield Vlm(process.pid, ready.engine_pid, when - begin, ready.load_time)


def _has_failed(status: VlmStatus) -> bool:
    return status.state == VlmStatus.UNCONFIGURED and status.message not in ("", "not configured")
