"""Every parameter of the node ``vlm``: its default, description, range, and when it may change.

The one place where they are described: ``ros2 param describe`` shows these texts, and config/vlm.yaml is written from
them by ``python -m qwen3vl_ros.nodes.parameters > config/vlm.yaml``.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

BUSY_POLICIES = ("queue", "reject", "preempt")
TRANSPORTS = ("raw", "compressed")
_FOREVER = 86400.0


def _text(default: str, description: str, *, live: bool, choices: Sequence[str] = ()) -> Any:
    if choices:
        description += " One of: " + ", ".join(choices) + "."
    return field(default=default, metadata={"description": description, "live": live, "choices": tuple(choices)})


def _flag(default: bool, description: str) -> Any:
    return field(default=default, metadata={"description": description, "live": False})


def _number(default: float, low: float, high: float, description: str, *, live: bool = True) -> Any:
    return field(default=default, metadata={"description": description, "live": live, "range": (low, high)})


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters as they are now. ``live`` ones may change at any time, the others while unconfigured."""

    autostart: bool = _flag(True, "Configure and activate as soon as the node runs.")
    engine: str = _text(
        "llama", "Engine that runs the model: `qwen3vl-ros engines` lists what is installed.", live=False
    )
    model: str = _text("", "Model file or directory. Empty: the small model that ships with the package.", live=False)
    mmproj: str = _text("", "Multimodal projector file. Empty: the one beside the model.", live=False)
    context_length: int = _number(
        4096, 256, 262144, "Tokens that pictures, prompt and answer may have together.", live=False
    )
    batch_size: int = _number(256, 32, 4096, "Prompt tokens processed at a time; a cancel waits for one.", live=False)
    threads: int = _number(0, 0, 1024, "CPU threads of the engine. 0: one per physical core.", live=False)
    max_image_tokens: int = _number(
        300,
        1,
        16384,
        "Tokens a picture may take, one per 32x32 pixels; encoding time grows faster than this.",
        live=False,
    )
    heartbeat_timeout: float = _number(
        10.0, 2.0, 600.0, "Seconds without a sign of life after which the engine's process is restarted.", live=False
    )
    transport: str = _text("raw", "How pictures arrive: `image` or `image/compressed`.", live=False, choices=TRANSPORTS)
    max_frame_age: float = _number(
        2.0, 0.001, _FOREVER, "Greatest age of a frame when it is picked, seconds, where a goal does not say."
    )
    frame_timeout: float = _number(
        5.0, 0.0, _FOREVER, "Seconds to wait for a fresh frame before NO_FRAME. 0: as long as the goal has time."
    )
    timeout: float = _number(
        120.0, 0.001, _FOREVER, "Seconds from acceptance to result, queueing included, where a goal does not say."
    )
    queue_size: int = _number(8, 0, 1000, "Goals that may wait; one more ends with BUSY.")
    busy_policy: str = _text(
        "queue",
        "What a goal meets when another one runs: it waits, it ends with BUSY, or it takes the place of goals of lower "
        "or equal priority, which end with PREEMPTED.",
        live=True,
        choices=BUSY_POLICIES,
    )
    full_text_interval: float = _number(
        0.0, 0.0, 60.0, "Least seconds between two feedback messages that carry the full text; deltas always come."
    )
    diagnostics_period: float = _number(1.0, 0.1, 60.0, "Seconds between two messages on /diagnostics.", live=False)
    system_prompt: str = _text("", "Instruction that precedes every question that brings none.", live=True)
    temperature: float = _number(-1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.")
    top_p: float = _number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.")
    top_k: int = _number(-1, -1, 1_000_000, "Default of GenerationOptions; negative: the model's.")
    min_p: float = _number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.")
    repetition_penalty: float = _number(-1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.")
    seed: int = _number(-1, -1, 2**63 - 1, "Default of GenerationOptions; negative: a random one each time.")
    max_tokens: int = _number(512, -1, 10_000_000, "Default of GenerationOptions; negative: until the context is full.")


def declare(node: Node) -> Settings:
    """Declare every parameter on ``node``; returns what they are. Raises rclpy's errors for values out of range."""
    for parameter in fields(Settings):
        node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))
    settings = read(node)
    for parameter in fields(Settings):
        problem = _problem(parameter.name, getattr(settings, parameter.name))
        if problem:
            raise ValueError(problem)
    return settings


def read(node: Node) -> Settings:
    """The parameters as they are."""
    return Settings(**{parameter.name: node.get_parameter(parameter.name).value for parameter in fields(Settings)})


def check(changes: Sequence[Parameter[Any]], *, configured: bool) -> SetParametersResult:
    """Whether ``changes`` may be made now; the refusal says why not."""
    known = {parameter.name: parameter for parameter in fields(Settings)}
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
    metadata = next(parameter.metadata for parameter in fields(Settings) if parameter.name == name)
    choices = metadata.get("choices")
    if choices and value not in choices:
        return f"{name}: {value!r} is none of {', '.join(choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}: {value} is not a finite number"
    if name == "max_tokens" and value == 0:
        return "max_tokens: an answer has at least 1 token; use a negative number for no limit but the context"
    if name in ("top_p", "repetition_penalty") and value == 0:
        return f"{name}: 0 makes no sense; use a negative number for the model's own, 1 for off"
    return ""


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
        "# Every parameter of the node vlm, at its default. Written by: python -m qwen3vl_ros.nodes.parameters",
        "# [live]: may be changed while the node runs; the others while it is unconfigured.",
        "/**/vlm:",
        "  ros__parameters:",
    ]
    for parameter in fields(Settings):
        text = parameter.metadata["description"]
        if "range" in parameter.metadata:
            low, high = parameter.metadata["range"]
            text += f" Range {low:g} to {high:g}."
        if parameter.metadata["live"]:
            text += " [live]"
        lines += [f"    {line}" for line in textwrap.wrap(text, 112, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"    {parameter.name}: {json.dumps(parameter.default)}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_yaml())
