"""Arguments of launch files, checked before anything starts.

launch converts an argument when it comes to the action that uses it. If that fails, it ends, and what it has started
before goes on without it (`ros2 launch ... web:=maybe` left a node behind).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_path

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_TRANSPORTS = {"image_transport": ("raw", "compressed"), "depth_transport": ("raw", "compressedDepth")}


class ArgumentError(RuntimeError):
    """An argument cannot be used; the text is a sentence that names it."""


def check_vlm(given: Mapping[str, str]) -> None:
    """Check the arguments of vlm.launch.py, of which ``given`` may lack some.

    Raises:
        ArgumentError: One cannot be used.
    """
    for name in ("autostart", "use_sim_time", "web", "respawn"):
        flag(given, name)
    port(given, "web_port")
    one_of(given, "log_level", _LOG_LEVELS)
    for name, transports in _TRANSPORTS.items():
        one_of(given, name, transports)
    file(given, "params_file")
    if given.get("base_url") and given.get("engine") not in ("openai", "maix_http"):
        raise ArgumentError("base_url is for the engines openai and maix_http: add engine:=openai or engine:=maix_http")


def no_source(given: Mapping[str, str]) -> None:
    """Raise ArgumentError for the argument ``source``, which a launch file with a simulation has from vlm.launch.py."""
    if source := given.get("source"):
        raise ArgumentError(f"source:={source}: the images come from the simulation; use vlm.launch.py for a source")


def flag(given: Mapping[str, str], name: str) -> bool | None:
    """Return whether an argument is true; None where it is empty. Raises ArgumentError."""
    value = given.get(name, "")
    if value and value.lower() not in _FLAGS:
        raise ArgumentError(f"{name}:={value}: it is true or false")
    return _FLAGS.get(value.lower())


def number(given: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    """Return an argument as a number from ``low`` to ``high``; None where it is empty. Raises ArgumentError."""
    text = given.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ArgumentError(f"{name}:={text}: it is a number from {low:g} to {high:g}")
    return value


def port(given: Mapping[str, str], name: str) -> int | None:
    """Return an argument as a TCP port; None where it is empty. Raises ArgumentError."""
    value = number(given, name, 0, 65535)
    if value is not None and value != int(value):
        raise ArgumentError(f"{name}:={value:g}: it is a whole number from 0 to 65535")
    return None if value is None else int(value)


def one_of(given: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """Return an argument, which is empty or one of ``choices``. Raises ArgumentError."""
    value = given.get(name, "")
    if value and value not in choices:
        raise ArgumentError(f"{name}:={value}: it is one of {', '.join(choices)}")
    return value


def file(given: Mapping[str, str], name: str) -> str:
    """Return an argument, which is empty or the path of a file that is there. Raises ArgumentError."""
    path = given.get(name, "")
    if path and not Path(path).is_file():
        raise ArgumentError(f"{name}:={path}: there is no such file")
    return path


def require_packages(names: Iterable[str], why: str) -> None:
    """Raise ArgumentError unless these ROS packages are installed. ``why``: what they are for, after "for"."""
    for name in names:
        try:
            get_package_share_path(name)
        except PackageNotFoundError:
            raise ArgumentError(
                f"the ROS package {name} is not installed: it is needed for {why} (apt install "
                f"ros-$ROS_DISTRO-{name.replace('_', '-')})"
            ) from None
