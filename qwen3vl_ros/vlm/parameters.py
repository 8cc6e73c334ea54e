"""Every parameter of the node ``vlm``: its default, description, range, and when it may change.

The one place where they are described: ``ros2 param describe`` shows these texts, and config/vlm.yaml is written from
them by ``python -m qwen3vl_ros.vlm.parameters > config/vlm.yaml``.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qwen3vl_ros.engines.registry import available
from qwen3vl_ros.ros.parameter_fields import FIT, FITS, choice, flag, listed, number, text, texts
from qwen3vl_ros.vlm.engine_parameters import ENGINES, Llama, Maix, MaixHttp, Openai, Openvino

BUSY_POLICIES = ("queue", "reject", "preempt")
TRANSPORTS = ("raw", "compressed")
ROTATIONS = (0, 90, 180, 270)
AUTO = "auto"
_FOREVER = 86400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters as they are now. ``live`` ones may change at any time, the others while unconfigured.

    The groups at the end are the engines' own, ``llama.model`` and so on; :data:`ENGINES` has them by name.
    """

    autostart: bool = flag(True, "Configure and activate as soon as the node runs.")
    engine: str = text(
        AUTO,
        "Engine that runs the model (`qwen3vl-ros engines` lists what is installed), or auto: the first of `engines` "
        "that works, now and later.",
    )
    engines: tuple[str, ...] = texts(
        ("maix_http", "maix", "openai", "openvino", "llama"),
        "For engine auto: engines in order of preference. One that fails repeatedly is left for the next, and taken "
        "again when it is back.",
    )
    fallback_failures: int = number(
        3, 1, 1000, "For engine auto: failures in a row after which an engine is left for the next."
    )
    fallback_after: float = number(
        10.0, 0.1, 3600.0, "For engine auto: seconds that an engine may load or restart before the next one is started."
    )
    heartbeat_timeout: float = number(
        10.0, 2.0, 600.0, "Seconds without a sign of life after which the engine's process is restarted."
    )
    cameras: tuple[str, ...] = texts(
        ("",),
        "Names of the cameras. Camera NAME has the topics NAME/image, NAME/camera_info, NAME/depth and "
        "NAME/depth_info; the one without a name, image, camera_info, depth and depth_info. A goal that names none "
        "looks through the first.",
    )
    transport: str = text("raw", "How images arrive: `image` or `image/compressed`.", choices=TRANSPORTS)
    fit: str = text("", FIT + " Empty: as the engine's own parameter says.", choices=("", *FITS))
    rotation: int = choice(
        0,
        ROTATIONS,
        "Degrees clockwise that images are turned before the model sees them: 180 for a camera that is mounted "
        "upside down. Regions come back in pixels of the image as it was published.",
    )
    tiles: str = text(
        "1x1",
        "Columns and rows of parts, 9 of each at most, as which the model sees an image: 2x1 for a very wide one. "
        "Each part counts as an image; they overlap by a fifth, and what is found in two of them becomes one region.",
    )
    depth_tolerance: float = number(
        0.05, 0.0, 10.0, "Greatest difference of the stamps of an image and its depth image, seconds.", live=True
    )
    coordinates: str = text(
        "relative_1000",
        "What coordinates in the model's answers count: thousandths of the image (relative_1000: Qwen3-VL) or pixels "
        "of the image that it saw (Qwen2.5-VL).",
        live=True,
        choices=("relative_1000", "pixels"),
    )
    max_frame_age: float = number(
        2.0,
        0.001,
        _FOREVER,
        "Default maximum frame age in seconds.",
        live=True,
    )
    frame_timeout: float = number(
        5.0,
        0.0,
        _FOREVER,
        "Seconds to wait for a fresh frame before NO_FRAME. 0: as long as the goal has time.",
        live=True,
    )
    timeout: float = number(
        120.0,
        0.001,
        _FOREVER,
        "Seconds from acceptance to result, queueing included, where a goal does not say.",
        live=True,
    )
    queue_size: int = number(8, 0, 1000, "Goals that may wait; one more ends with BUSY.", live=True)
    busy_policy: str = text(
        "queue",
        "What a goal meets when another one runs: it waits, it ends with BUSY, or it takes the place of goals of lower "
        "or equal priority, which end with PREEMPTED.",
        live=True,
        choices=BUSY_POLICIES,
    )
    full_text_interval: float = number(
        0.0,
        0.0,
        60.0,
        "Least seconds between two feedback messages that carry the full text; deltas always come.",
        live=True,
    )
    diagnostics_period: float = number(
        1.0, 0.1, 60.0, "Seconds between two messages on /diagnostics; 5 at least while nobody listens."
    )
    task_files: tuple[str, ...] = texts(
        ("",), "Files of tasks of your own, beside the package's config/tasks.yaml; later ones win."
    )
    system_prompt: str = text("", "Instruction that precedes every question that brings none.", live=True)
    temperature: float = number(-1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True)
    top_p: float = number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True)
    top_k: int = number(-1, -1, 1_000_000, "Default of GenerationOptions; negative: the model's.", live=True)
    min_p: float = number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True)
    repetition_penalty: float = number(
        -1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True
    )
    seed: int = number(-1, -1, 2**63 - 1, "Default of GenerationOptions; negative: a random one each time.", live=True)
    max_tokens: int = number(
        512, -1, 10_000_000, "Default of GenerationOptions; negative: until the context is full.", live=True
    )
    maix_http: MaixHttp = field(default_factory=MaixHttp)
    maix: Maix = field(default_factory=Maix)
    openai: Openai = field(default_factory=Openai)
    openvino: Openvino = field(default_factory=Openvino)
    llama: Llama = field(default_factory=Llama)


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """The parameters of :class:`Settings` that each camera may have of its own."""

    transport: str
    fit: str
    rotation: int
    tiles: str


def described() -> dict[str, Any]:
    """Every parameter by its full name: a dataclass field with ``default`` and ``metadata``."""
    own = {one.name: one for one in fields(Settings) if one.name not in ENGINES}
    return own | {f"{name}.{one.name}": one for name, group in ENGINES.items() for one in fields(group)}


def declare(node: Node) -> Settings:
    """Declare every parameter on ``node``; returns what they are. Raises rclpy's errors for values out of range.

    The node has declared what its overrides name (``automatically_declare_parameters_from_overrides``): what remains of
    that belongs to third parties' engines, or is a mistake that is logged.
    """
    known = described()
    for name, parameter in known.items():
        if node.has_parameter(name):
            node.undeclare_parameter(name)  # its override stays, and counts in the next line
        node.declare_parameter(name, _ros_value(parameter.default), _descriptor(parameter))
    for name in known:
        problem = _problem(name, node.get_parameter(name).value)
        if problem:
            raise ValueError(problem)
    groups = available()
    for name in node.get_parameters_by_prefix(""):
        if (
            name not in known
            and name.split(".")[0] not in (*groups, "camera", "qos_overrides")
            and name not in _ROS_OWN
        ):
            alike = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            alike += [other for other in known if other.split(".")[-1] == name][:1]
            hint = f"; did you mean {alike[-1]}?" if alike else ""
            node.get_logger().warning(f"there is no parameter {name}, so it has no effect{hint}")
    return read(node)


def declare_camera(node: Node, name: str, settings: Settings) -> CameraSettings:
    """What ``camera.NAME.transport`` and so on say; where they say nothing, the parameters without ``camera.NAME``.

    Raises ValueError.
    """
    values = {one.name: getattr(settings, one.name) for one in fields(CameraSettings)}
    if name:
        for own, value in values.items():
            values[own] = _declare_like(node, f"camera.{name}.{own}", own, value)
    return CameraSettings(**values)


def _declare_like(node: Node, name: str, like: str, default: Any) -> Any:
    """A parameter whose name depends on others; what it is. ``like``: which one describes it."""
    value = default
    declared = node.has_parameter(name)
    if declared:
        value = node.get_parameter(name).value  # its override, or what was set since
    if type(value) is not type(default):
        wanted = {int: "a whole number", str: "text"}[type(default)]
        raise ValueError(f"{name}: {value!r} is not {wanted}")
    if problem := _problem(like, value):
        raise ValueError(problem.replace(like, name, 1))
    if declared:
        node.undeclare_parameter(name)
    node.declare_parameter(name, value, _descriptor(described()[like]), ignore_override=True)
    return value


_ROS_OWN = ("use_sim_time", "start_type_description_service")


def read(node: Node) -> Settings:
    """The parameters as they are."""

    def values(kind: Any, prefix: str) -> dict[str, Any]:
        names = [one.name for one in fields(kind) if one.name not in ENGINES]
        found = {name: node.get_parameter(prefix + name).value for name in names}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}

    groups = {name: group(**values(group, f"{name}.")) for name, group in ENGINES.items()}
    return Settings(**values(Settings, ""), **groups)


def check(changes: Sequence[Parameter[Any]], *, configured: bool) -> SetParametersResult:
    """Whether ``changes`` may be made now; the refusal says why not."""
    known = described()
    for change in changes:
        if change.name not in known:
            continue
        if configured and not known[change.name].metadata["live"]:
            return SetParametersResult(
                successful=False,
                reason=f"{change.name} is read when the node is configured: deactivate it and clean it up first, "
                "then set this and configure it again",
            )
        problem = _problem(change.name, change.value)
        if problem:
            return SetParametersResult(successful=False, reason=problem)
    return SetParametersResult(successful=True)


def _problem(name: str, value: Any) -> str:
    choices = described()[name].metadata.get("choices")
    if choices and value not in choices:
        return f"{name}: {value!r} is none of {listed(choices)}"
    if name == "tiles" and not re.fullmatch("[1-9]x[1-9]", value):
        return f"tiles: {value!r} is no COLUMNSxROWS such as 2x1, with 9 of each at most"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}: {value} is not a finite number"
    if name == "max_tokens" and value == 0:
        return "max_tokens: an answer has at least 1 token; use a negative number for no limit but the context"
    if name in ("top_p", "repetition_penalty") and value == 0:
        return f"{name}: 0 makes no sense; use a negative number for the model's own, 1 for off"
    return ""


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _descriptor(parameter: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=parameter.metadata["description"])
    if "range" in parameter.metadata:
        low, high = parameter.metadata["range"]
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def as_yaml() -> str:
    """The parameter file with every parameter at its default, each under its description."""
    lines = [
        "# Every parameter of the node vlm, at its default. Written by: python -m qwen3vl_ros.vlm.parameters",
        "# [live]: may be changed while the node runs; the others while it is unconfigured.",
        "/**/vlm:",
        "  ros__parameters:",
    ]
    for parameter in fields(Settings):
        if parameter.name not in ENGINES:
            lines += _yaml(parameter, "    ")
    for name, group in ENGINES.items():
        assert group.__doc__
        lines += [f"    # {group.__doc__.splitlines()[0]}", f"    {name}:"]
        for parameter in fields(group):
            lines += _yaml(parameter, "      ")
    return "\n".join(lines)


def _yaml(parameter: Any, indent: str) -> list[str]:
    text = parameter.metadata["description"]
    if "range" in parameter.metadata:
        low, high = parameter.metadata["range"]
        text += f" Range {low:g} to {high:g}."
    if parameter.metadata["live"]:
        text += " [live]"
    comment = textwrap.wrap(text, 116 - len(indent), initial_indent="# ", subsequent_indent="# ")
    return [indent + line for line in (*comment, f"{parameter.name}: {json.dumps(_ros_value(parameter.default))}")]


if __name__ == "__main__":
    print(as_yaml())
