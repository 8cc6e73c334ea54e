"""The RTSP server of gstreamer_rtsp.py as a process that a test starts, kills and starts again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
PROGRAM = Path(__file__).parent / "gstreamer_rtsp.py"
PACKAGES = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi"
_CHECK = "import gi; gi.require_version('GstRtspServer', '1.0')"


def need_gstreamer() -> None:
    """Skip the test where GStreamer's server is not installed, but never in CI."""
    try:
        installed = (
            subprocess.run([SYSTEM_PYTHON, "-c", _CHECK], stderr=subprocess.DEVNULL, check=False).returncode == 0
        )
    except FileNotFoundError:
        installed = False
    if not installed:
        sentence = f"GStreamer's RTSP server is not installed: apt install {PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)


class RtspServer:
    """One port, on which a server may run."""

    def __init__(self, video: Path | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._video = video
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; when this returns it can be connected to."""
        command = [SYSTEM_PYTHON, str(PROGRAM), str(self.port), *([str(self._video)] if self._video else [])]
        # Not this environment's Python: the bindings are the system's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def address(self, path: str) -> str:
        return f"rtsp://127.0.0.1:{self.port}/{path}"

    def freeze(self) -> None:
        """Make it send nothing more, and keep its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
