"""`qwen3vl-ros doctor`, `make doctor`: reports what is installed and what is missing to ask a camera a question.

Works before set-up: this module imports only the standard library at the top, and checks ROS 2 without importing it.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUPPORTED_PYTHONS = ((3, 10), (3, 13))

DRAWING_LIBRARIES = {"libEGL.so.1": "libegl1 libgl1-mesa-dri", "libglib-2.0.so.0": "libglib2.0-0"}
"""Shared libraries that Drake loads but does not ship, and the apt packages with them."""

ROS_SERIES = {"7": "jazzy", "9": "kilted"}
"""Major version of rclpy -> ROS 2 distribution."""

INSTALL = "`make demo` installs it; with ROS 2 installed: rosdep install --from-paths . && colcon build"


class State(enum.Enum):
    """The state of a finding. NOTE: works, with a remark; MISSING: the demo cannot run."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, its state, and what to do about it, if anything."""

    name: str
    state: State
    text: str


def missing_apt_packages() -> list[str]:
    """Return the Debian and Ubuntu packages that set-up needs and this machine lacks."""
    packages = []
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        packages.append("python3-venv")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        packages.append("python3-dev")
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        packages.append("g++")
    for library, package in DRAWING_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            packages.append(package)
    return packages


def missing_system_sentence() -> str:
    """Return a sentence about what the operating system lacks, "" if nothing."""
    oldest, newest = SUPPORTED_PYTHONS
    if not oldest <= sys.version_info[:2] <= newest:
        return (
            f"Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]} is needed, this is {platform.python_version()}:"
            " name another one, for example `make demo PYTHON=python3.12`."
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return (
            f"ROS 2 wheels exist for Linux on x86_64 only, this is {platform.system()} on {platform.machine()}:"
            " install ROS 2 and build with colcon."
        )
    if packages := missing_apt_packages():
        return f"Missing on this machine: run `sudo apt-get install {' '.join(packages)}`, then try again."
    return ""


def share_directory() -> Path:
    """Return the folder of config/, models/ and worlds/: the installed package's share directory, else the checkout."""
    try:
        from ament_index_python import get_package_share_directory

        return Path(get_package_share_directory("qwen3vl_ros"))
    except (ImportError, LookupError):
        return Path(__file__).resolve().parents[2]


def examine() -> Iterator[Finding]:
    """Check everything, dependencies first."""
    yield from _system()
    yield from _ros()
    yield from _engines()
    yield from _models()
    yield from _camera()
    yield from _shared_memory()


def _system() -> Iterator[Finding]:
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        distribution = "unknown"
    yield Finding("operating system", State.OK, f"{distribution}, {platform.machine()}")
    sentence = missing_system_sentence()
    yield Finding("Python", State.OK, f"{platform.python_version()} at {sys.executable}")
    compiler = shutil.which("g++")
    yield Finding("compiler", State.OK if compiler else State.NOTE, compiler or "none: needed once, for set-up")
    yield Finding(
        "system packages", State.MISSING if sentence else State.OK, sentence or "all that set-up and camera need"
    )


def _ros() -> Iterator[Finding]:
    if importlib.util.find_spec("rclpy") is None:
        yield Finding("ROS 2", State.MISSING, INSTALL)
    else:
        try:
            version = importlib.metadata.version("ros-rclpy")
            origin = f"wheels in {sys.prefix}"
            distribution = ROS_SERIES.get(version.split(".")[0], "unknown")
        except importlib.metadata.PackageNotFoundError:
            version = importlib.metadata.version("rclpy")
            origin = "installed"
            distribution = os.environ.get("ROS_DISTRO", ROS_SERIES.get(version.split(".")[0], "unknown"))
        yield Finding("ROS 2", State.OK, f"{distribution} (rclpy {version}), {origin}")
    built = importlib.util.find_spec("qwen3vl_ros.action") is not None
    yield Finding("interfaces", State.OK if built else State.MISSING, "built" if built else INSTALL)
    yield _middleware()
    for package, without in (
        ("cv_bridge", "images are converted by this package's own code"),
        ("launch_ros", "no launch files; `qwen3vl-ros node` and `qwen3vl-ros camera` start the same nodes"),
        ("vision_msgs", "nothing here needs it"),
    ):
        there = importlib.util.find_spec(package) is not None
        yield Finding(package, State.OK if there else State.NOTE, "there" if there else f"not there: {without}")
    domain = os.environ.get("ROS_DOMAIN_ID", "0 (not set)")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (not set)")
    yield Finding("ROS_DOMAIN_ID", State.OK, f"{domain}, discovery range {reach}")


def _middleware() -> Finding:
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if middleware != "rmw_fastrtps_cpp":
        return Finding("middleware", State.OK, middleware)
    own_profile = share_directory() / "config" / "fastdds.xml"
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE") or os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    if profile is None:
        text = "no Fast DDS profile set: launch files and demo set theirs; elsewhere images from VGA up get lost."
        return Finding("middleware", State.NOTE, f"{text} export FASTDDS_DEFAULT_PROFILES_FILE={own_profile}")
    try:
        sizes = re.findall(r"<segment_size>\s*(\d+)\s*</segment_size>", Path(profile).read_text())
    except OSError as error:
        return Finding("middleware", State.NOTE, f"the Fast DDS profile cannot be read: {error}")
    megabytes = max(map(int, sizes), default=0) / 2**20
    if megabytes < 8:
        text = f"{profile} has no shared-memory segment of 8 MB or more: large images get lost. Use {own_profile}"
        return Finding("middleware", State.NOTE, text)
    return Finding("middleware", State.OK, f"{middleware}, {profile} with a segment of {megabytes:.0f} MB")


def _engines() -> Iterator[Finding]:
    for engine in importlib.metadata.entry_points(group="qwen3vl_ros.engines"):
        yield Finding(f"engine {engine.name}", State.OK, engine.value)
    # In a child process: a library compiled for another CPU crashes with SIGILL instead of raising.
    probe = [sys.executable, "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    result = subprocess.run(probe, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        yield Finding("llama-cpp-python", State.OK, result.stdout.strip())
    elif importlib.util.find_spec("llama_cpp") is None:
        yield Finding("llama-cpp-python", State.MISSING, "`make demo` or `pip install -r requirements/llama.txt`")
    else:
        reason = (result.stderr.strip().splitlines() or [f"died with exit code {result.returncode}"])[-1]
        remedy = "pip install --force-reinstall --no-cache-dir -r requirements/llama.txt"
        yield Finding("llama-cpp-python", State.MISSING, f"cannot be loaded: {reason}. Compile it anew: {remedy}")


def _models() -> Iterator[Finding]:
    directory = share_directory() / "models"
    shipped = sorted(directory.rglob("*.gguf"))
    if shipped:
        names = ", ".join(str(file.relative_to(directory)) for file in shipped)
        yield Finding("shipped model", State.OK, names)
    else:
        yield Finding("shipped model", State.MISSING, f"no GGUF file below {directory}: check the clone or build again")
    from qwen3vl_ros.cli.kept_models import kept_models

    try:
        downloaded = [f"{kept.entry.name} ({kept.entry.engine}, {kept.quant})" for kept in kept_models()]
    except ImportError:  # before set-up
        downloaded = []
    text = ", ".join(downloaded) or "none: `qwen3vl-ros model list` says which fit, `qwen3vl-ros model use 2b` gets one"
    yield Finding("downloaded models", State.OK if downloaded else State.NOTE, text)


def _camera() -> Iterator[Finding]:
    from qwen3vl_ros.sim.opengl import RenderError, check_renderer

    try:
        check_renderer()
    except RenderError as error:
        yield Finding("simulated camera", State.MISSING, str(error))
    else:
        yield Finding("simulated camera", State.OK, f"Drake {importlib.metadata.version('drake')} draws here")
    if importlib.util.find_spec("av") is None:
        yield Finding("PyAV", State.NOTE, "not there: no webcam, video or stream as a camera; pip install av")
    else:
        yield Finding("PyAV", State.OK, importlib.metadata.version("av"))
    yield _webcams()


def _webcams(devices: Path = Path("/dev"), names: Path = Path("/sys/class/video4linux")) -> Finding:
    found = sorted(devices.glob("video[0-9]*"), key=lambda device: (len(device.name), device.name))
    if not found:
        return Finding("webcams", State.OK, "none; a video, a stream or images will do: `qwen3vl-ros camera --help`")
    if refused := [str(device) for device in found if not os.access(device, os.R_OK | os.W_OK)]:
        text = f"{', '.join(refused)} may not be opened: sudo usermod -aG video $USER, then log in again"
        return Finding("webcams", State.NOTE, text)
    words = []
    for device in found:
        name = names / device.name / "name"
        words.append(f"{device} ({name.read_text().strip()})" if name.is_file() else str(device))
    number = found[0].name.removeprefix("video")
    return Finding("webcams", State.OK, f"{', '.join(words)}: `qwen3vl-ros demo --camera {number}`")


def _shared_memory() -> Iterator[Finding]:
    from qwen3vl_ros.ros import fast_dds

    directory = Path("/dev/shm")
    try:
        space = os.statvfs(directory)
    except OSError as error:
        yield Finding("/dev/shm", State.MISSING, f"cannot be used: {error}. Images travel through it")
        return
    free = space.f_bavail * space.f_frsize / 2**20
    text = f"{free:.0f} MB free"
    if free < 128:
        text += ": each process takes up to 64 MB; in a container, start it with a larger --shm-size"
    yield Finding("/dev/shm", State.OK if free >= 128 else State.NOTE, text)
    if left := fast_dds.shared_memory_files():
        text = f"{len(left)} files of Fast DDS; `fastdds shm clean` removes those whose process is gone"
        yield Finding("/dev/shm files", State.NOTE, text)
    if sentence := fast_dds.about_other_users():
        yield Finding("other users", State.NOTE, sentence)


def _print(findings: list[Finding]) -> None:
    # Into a file or a pipe nothing is wrapped, so that paths can be copied.
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        for finding in findings:
            print(f"{finding.state.value:8}{finding.name:20}{finding.text}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for overflow in ("ignore", "ignore", "fold"):
        table.add_column(overflow=overflow)
    styles = {State.OK: "green", State.NOTE: "yellow", State.MISSING: "bold red"}
    for finding in findings:
        table.add_row(f"[{styles[finding.state]}]{finding.state.value}[/]", finding.name, finding.text)
    Console().print(table)


def main() -> int:
    """Print the report; return 0 if the demo can run, 1 if something is missing."""
    findings = list(examine())
    _print(findings)
    missing = [finding.name for finding in findings if finding.state is State.MISSING]
    print(f"Missing: {', '.join(missing)}." if missing else "The demo can run: `make demo` or `qwen3vl-ros demo`.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
