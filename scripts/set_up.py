"""Makes the virtual environment of `make`: ROS 2 wheels, everything this package needs, the package itself.

Needs nothing but the standard library. Every step leaves a stamp with a hash of what it was made from; a step whose
stamp still matches is skipped, so running this again costs a fraction of a second.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qwen3vl_ros.cli.doctor import missing_system_sentence  # noqa: E402
from step import StepFailed, run_step  # noqa: E402

PACKAGE_INPUTS = (
    *("package.xml", "CMakeLists.txt", "setup.py", "setup.cfg", "pyproject.toml", "cmake"),
    *("action", "msg", "srv", "config", "launch", "models", "worlds", "qwen3vl_ros"),
)
"""The files and directories that the package is built from."""

LLAMA_CMAKE_ARGS = (
    # llama.cpp's library of command line programs, its HTTP client and its video reader are not in the Python package.
    f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'llama_cpp_python.cmake'}",
    "-DLLAMA_OPENSSL=OFF",
    "-DMTMD_VIDEO=OFF",
)


class SetUp:
    """The steps of making one environment."""

    def __init__(self, environment: Path) -> None:
        self.environment = environment
        self.python = environment / "bin" / "python"
        self.records = environment / "set-up"

    def virtual_environment(self) -> None:
        """Make the environment, unless it is there."""
        if not (self.environment / "bin" / "pip").exists():
            self._run("virtual environment", [sys.executable, "-m", "venv", self.environment])

    def install(self, title: str, requirements: str, **extra_environment: str) -> None:
        """Install a file of requirements/ if it has changed since it was installed."""
        file = ROOT / "requirements" / requirements
        command = [self.python, "-m", "pip", "install", "-v", "-r", file]
        if requirements != "build.txt":  # an older pip, which build.txt replaces, doesn't know this option
            command.append("--progress-bar=raw")
        self._once(title, [file], lambda: self._run(title, command, **extra_environment))

    def install_apart(self, title: str, requirements: str, directory: str) -> None:
        """Install a file of requirements/ without dependencies into a directory that only one program looks into."""
        file = ROOT / "requirements" / requirements
        target = self.environment / directory
        command = [self.python, "-m", "pip", "install", "-v", "--no-deps", "--upgrade", "--target", target, "-r", file]
        self._once(title, [file], lambda: self._run(title, command))

    def install_package(self) -> None:
        """Build and install this package if any of its files has changed."""
        title = "qwen3vl_ros and its interfaces"
        command = [self.python, "-m", "pip", "install", "-v", "--no-deps", "--no-index", "--no-build-isolation", ROOT]
        inputs = (path for name in PACKAGE_INPUTS for path in (ROOT / name, *sorted((ROOT / name).rglob("*"))))
        self._once(title, inputs, lambda: self._run(title, command))

    def _once(self, title: str, inputs: Iterable[Path], action: Callable[[], None]) -> None:
        digest = hashlib.sha256()
        for path in inputs:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path).encode() + path.read_bytes())
        stamp = self.records / f"{title}.stamp"
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            action()
            stamp.write_text(digest.hexdigest())

    def _run(self, title: str, command: list[str | Path], **extra_environment: str) -> None:
        run_step(title, command, {**os.environ, **extra_environment}, self.records / f"{title}.log")


def main() -> int:
    """Run the steps that are due."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", type=Path, help="directory of the virtual environment")
    parser.add_argument("--ros", choices=("kilted", "jazzy"), default="kilted")
    parser.add_argument("--check", action="store_true", help="also install what `make check` needs")
    parser.add_argument("--tests", action="store_true", help="also install what all tests need")
    parser.add_argument("--bench", action="store_true", help="also install what the benchmarks need, with --tests")
    arguments = parser.parse_args()

    if sentence := missing_system_sentence():
        print(sentence, file=sys.stderr)
        return 1
    steps = SetUp(arguments.environment.absolute())
    steps.records.mkdir(parents=True, exist_ok=True)
    with (steps.records / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            steps.virtual_environment()
            steps.install("build tools", "build.txt")
            steps.install(f"ROS 2 {arguments.ros.capitalize()}", f"ros-{arguments.ros}.txt")
            steps.install("Python libraries", "runtime.txt")
            steps.install("llama-cpp-python", "llama.txt", CMAKE_ARGS=shlex.join(LLAMA_CMAKE_ARGS))
            steps.install("Drake, the simulated camera", "sim.txt")
            if arguments.check or arguments.tests:
                steps.install("check tools", "test-check.txt")
            if arguments.tests:
                steps.install("test tools", "test.txt")
                if arguments.ros == "kilted":  # what does not talk to ROS is tested once
                    steps.install("PyTorch and transformers, the tests' reference", "training.txt")
                    steps.install("OpenVINO GenAI", "openvino.txt")
                    steps.install_apart("OpenVINO's exporter", "openvino-export.txt", "openvino-export")
            if arguments.bench:
                steps.install_apart("the exporter's int4 weights", "openvino-bench.txt", "openvino-bench")
            steps.install_package()
        except StepFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
