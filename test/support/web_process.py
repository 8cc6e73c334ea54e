"""The built node ``web`` as a process of its own, started as users start it, and what its clients see."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

import child_process

PATIENCE = 60.0
"""Seconds after which something that should have happened has not."""

_POLL_PERIOD = 0.05
"""Seconds between two requests that ask whether it has."""


class WebProcess:
    """The gateway on a free port of this machine, in the ROS domain of the tests."""

    def __init__(self, logs: Path, parameters: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self.logs = logs
        command = child_process.command("qwen3vl_ros.gateway.node", "--ros-args")
        for name, value in ({"port": 0, "log_directory": str(logs), "rate_limit": 0} | dict(parameters)).items():
            command += ["-p", f"{name}:={yaml.safe_dump(value, default_flow_style=True, width=10000).splitlines()[0]}"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent,
            env=dict(environment),
        )
        self.output = self.url = ""

    def wait_url(self) -> str:
        """Where it listens, as it says itself."""
        assert self._process.stdout is not None
        while not self.url and (line := self._process.stdout.readline()):
            self.output += line
            if "http://" in line:
                self.url = line[line.index("http://") :].split()[0]
        if self.url:
            return self.url
        raise AssertionError(f"the gateway ended with {self._process.wait()}: {self.output}")

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.wait_url(), timeout=PATIENCE, trust_env=False, **options)

    def wait_end(self) -> int:
        """Its exit status, when it ends by itself."""
        self.output += self._process.communicate(timeout=PATIENCE)[0]
        return self._process.returncode

    def stop(self, number: int = signal.SIGINT) -> int:
        """Its exit status after ``number``."""
        self._process.send_signal(number)
        return self.wait_end()

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop()
        elif self._process.stdout is not None:
            self._process.stdout.close()


def wait_status(http: httpx.Client, wanted: Any) -> dict[str, Any]:
    """The first /api/status for which ``wanted`` is true. It can only be asked for: nothing tells of a change."""
    give_up = time.monotonic() + PATIENCE
    while not wanted(status := http.get("/api/status").raise_for_status().json()):
        assert time.monotonic() < give_up, status
        time.sleep(_POLL_PERIOD)
    return status


def wait_ready(http: httpx.Client) -> dict[str, Any]:
    return wait_status(http, lambda status: status["state"] == "ready")
