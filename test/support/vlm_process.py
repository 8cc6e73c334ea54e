"""The built node ``vlm`` as a process of its own, started as users start it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3vl_ros.msg import VlmStatus

import child_process
from ros_client import PATIENCE, RosClient


class VlmProcess:
    """The node and, through its status, its worker. Parameters of an engine: ``llama__model`` is ``llama.model``."""

    def __init__(self, ros: RosClient, parameters: Mapping[str, object]) -> None:
        self._ros = ros
        self.output = ""
        command = child_process.command("qwen3vl_ros.vlm.node", "--ros-args")
        for name, value in ({"engine": "llama"} | parameters).items():
            command += ["-p", f"{name.replace('__', '.')}:={_yaml(value)}"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parent
        )
        self.pid = self._process.pid

    def wait_status(self, wanted: Any) -> VlmStatus:
        """The first status of this very process for which ``wanted`` is true."""
        with self._ros.status() as status:
            try:
                return status.wait_for(wanted)
            except RuntimeError:
                was = self._process.poll()
                self.stop()
                raise AssertionError(f"no such status; the node {was=} said: {self.output or 'nothing'}") from None

    def wait_ready(self) -> VlmStatus:
        return self.wait_status(lambda s: s.state == VlmStatus.READY)

    def wait_connected(self) -> VlmProcess:
        """Wait until it answers questions; what it says then reaches us from the first word."""
        self.wait_ready()
        self._ros.meet()
        return self

    def worker(self) -> int:
        """Process id of the engine's worker."""
        return int(self.wait_ready().engine_pid)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Exit status after ``number``."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Exit status, waited for; a process that does not end is killed, and a RuntimeError."""
        try:
            self.output += self._process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.output += self._process.communicate()[0]
            raise RuntimeError(f"the node does not end; it said: {self.output or 'nothing'}") from None
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop()
        elif self._process.stdout is not None:
            self._process.stdout.close()


class SharedVlm:
    """A node that several tests use, one after the other: two of a name must never run at once."""

    def __init__(self, ros: RosClient) -> None:
        self._ros = ros
        self._parameters: Mapping[str, object] = {}
        self._process: VlmProcess | None = None

    def get(self, **parameters: object) -> VlmProcess:
        """The node with these parameters, ready for questions: the one that runs, if it was started with them."""
        if self._process is None or self._parameters != parameters or not alive(self._process.pid):
            self.close()
            self._parameters, self._process = parameters, VlmProcess(self._ros, parameters)
            self._process.wait_connected()
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = None


def shared_memory(pid: int) -> set[Path]:
    """Files in /dev/shm that a process uses, but for the ports of Fast DDS: those belong to all who talk to them."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    paths = {Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if "/dev/shm/" in line}
    return {path for path in paths if "_port" not in path.name}


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_gone(pid: int) -> None:
    """Wait until a process that is no child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        import select

        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} lives on"
    finally:
        os.close(descriptor)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
