"""Ask a robot's camera a question: Qwen3-VL behind a ROS 2 action that streams its answer."""

import os
import sys
from pathlib import Path
from pkgutil import extend_path

# A program that lies in the root of the repository imports this package from the sources, which lack the generated
# interfaces: those of the built package serve.
if not Path(__file__).with_name("action").exists():
    __path__ = extend_path(__path__, __name__)

# The ROS 2 wheels make the virtual environment a ROS prefix without adding it to AMENT_PREFIX_PATH. Without this, no
# package in it, and no child process, could find the share directories of its packages.
if Path(sys.prefix, "share", "ament_index", "resource_index", "packages", "qwen3vl_ros").exists():
    _prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    if sys.prefix not in _prefixes:
        os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join(filter(None, (sys.prefix, *_prefixes)))

ISSUES = "https://github.com/qwen3vl-ros/qwen3vl_ros/issues"
"""Where to report defects; the same address is in package.xml."""


def defect(what: str) -> str:
    """Return the sentence about an unexpected exception. ``what``: its type and message."""
    return f"a defect of qwen3vl_ros, please report it at {ISSUES}: {what}"


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # imported here, because it takes some milliseconds

        return version("qwen3vl_ros")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
