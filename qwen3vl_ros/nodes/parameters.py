"""Every parameter of the node ``vlm``: its default, description, range, and when it may change.

The one place where they are described: ``ros2 param describe`` shows these texts, and config/vlm.yaml is written from
them by ``python -m qwen3vl_ros.nodes.parameters > config/vlm.yaml``.
"""

from __future__ import annotations

import difflib
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qwen3vl_ros.engines.registry import available

BUSY_POLICIES = ("queue", "reject", "preempt")
TRANSPORTS = ("raw", "compressed")
FITS = ("contain", "cover", "fill")
AUTO = "auto"
_FOREVER = 86400.0
_FIT = "How a picture of another shape gets to the encoder's size: with black bars, cropped, or stretched."


def _text(default: str, description: str, *, live: bool = False, choices: Sequence[str] = ()) -> Any:
    if choices:
        description += " One of: " + ", ".join(choices) + "."
    return field(default=default, metadata={"description": description, "live": live, "choices": tuple(choices)})


def _texts(default: tuple[str, ...], description: str) -> Any:
    return field(default=default, metadata={"description": description, "live": False})


def _flag(default: bool, description: str) -> Any:
    return field(default=default, metadata={"description": description, "live": False})


def _number(default: float, low: float, high: float, description: str, *, live: bool = False) -> Any:
    return field(default=default, metadata={"description": description, "live": live, "range": (low, high)})


@dataclass(frozen=True, slots=True)
class MaixHttp:
    """Engine maix_http: the NPU of a MaixCAM2 or another AX630C, through its HTTP service."""

    base_url: str = _text("http://127.0.0.1:12346", "Address of the service, on the board itself or over the network.")
    model: str = _text("", "Model that the service runs. Empty: the one it lists.")
    prompt_limit: int = _number(
        0,
        0,
        262144,
        "Tokens that system prompt, picture and question may have together. 0: the P of the model's name, else 320 for "
        "the MaixCAM2's model.",
    )
    context_length: int = _number(
        0,
        0,
        262144,
        "Tokens that prompt and answer may have together. 0: the CTX of the model's name, else 448 for the MaixCAM2's "
        "model.",
    )
    input_size: int = _number(
        0, 0, 4096, "Width and height in pixels of the model's encoder. 0: 448, as the service does not say."
    )
    fit: str = _text("contain", _FIT, choices=FITS)
    load_timeout: float = _number(180.0, 1.0, 3600.0, "Seconds that the service gets to load its model.")
    first_token_timeout: float = _number(
        60.0,
        1.0,
        3600.0,
        "Seconds from a request to the first token; also how long another client's question is waited for.",
    )
    token_timeout: float = _number(15.0, 0.5, 3600.0, "Seconds from one token to the next.")


@dataclass(frozen=True, slots=True)
class Maix:
    """Engine maix: the same NPU through MaixPy, on the board."""

    model: str = _text(
        "/root/models/Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448-maixcam2/model.mud",
        "Model description file (.mud).",
    )
    model_class: str = _text("Qwen3VL", "Class of maix.nn that runs it.", choices=("Qwen3VL", "InternVL"))
    fit: str = _text("contain", _FIT, choices=FITS)
    load_timeout: float = _number(180.0, 1.0, 3600.0, "Seconds that the model gets to load.")


@dataclass(frozen=True, slots=True)
class Openai:
    """Engine openai: any server with OpenAI's chat completions."""

    base_urls: tuple[str, ...] = _texts(
        ("",), "Addresses up to and with /v1, in order of preference: while one is dead, the next one is used."
    )
    model: str = _text("", "Model to ask for. Empty: the only one that the server lists.")
    api_key_env: str = _text("OPENAI_API_KEY", "Environment variable that has the API key.")
    api_key_file: str = _text("", "File that has the API key; wins over the environment.")
    concurrency: int = _number(4, 1, 256, "Questions that are sent at a time.")
    max_image_tokens: int = _number(
        1024, 1, 16384, "Tokens a picture may take, one per 32x32 pixels: a larger one is scaled down before sending."
    )
    jpeg_quality: int = _number(90, 1, 100, "Quality of the JPEG that is sent.")
    context_length: int = _number(0, 0, 10_000_000, "Tokens of prompt and answer together. 0: what the server says.")
    connect_timeout: float = _number(3.0, 0.1, 600.0, "Seconds that connecting to an address may take.")
    first_token_timeout: float = _number(60.0, 0.1, 3600.0, "Seconds from a request to the first token.")
    token_timeout: float = _number(20.0, 0.1, 3600.0, "Seconds from one token to the next.")
    retries: int = _number(
        2, 0, 20, "Times that a request without an answer yet is sent again, after 429, 5xx or a lost connection."
    )
    retry_dead_after: float = _number(30.0, 0.1, 3600.0, "Seconds after which an address that was dead is tried again.")


@dataclass(frozen=True, slots=True)
class Openvino:
    """Engine openvino: Qwen3-VL as OpenVINO IR."""

    model: str = _text("", "Directory of the exported model; docs/openvino.md has the command that makes one.")
    device: str = _text("CPU", "OpenVINO device: CPU, GPU, NPU, AUTO, ...")
    max_image_tokens: int = _number(300, 1, 16384, "Tokens a picture may take, one per 32x32 pixels.")
    context_length: int = _number(4096, 256, 262144, "Tokens that pictures, prompt and answer may have together.")


@dataclass(frozen=True, slots=True)
class Llama:
    """Engine llama: a GGUF file on this machine's CPU."""

    model: str = _text("", "GGUF file, or a directory with one. Empty: the small model that ships with the package.")
    mmproj: str = _text("", "Multimodal projector file. Empty: the one beside the model.")
    n_ctx: int = _number(4096, 256, 262144, "Tokens that pictures, prompt and answer may have together.")
    n_batch: int = _number(256, 32, 4096, "Prompt tokens processed at a time; a cancel waits for one.")
    n_threads: int = _number(0, 0, 1024, "CPU threads. 0: one per physical core.")
    max_image_tokens: int = _number(
        300, 1, 16384, "Tokens a picture may take, one per 32x32 pixels; encoding time grows faster than this."
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters as they are now. ``live`` ones may change at any time, the others while unconfigured.

    The groups at the end are the engines' own, ``llama.model`` and so on; :data:`ENGINES` has them by name.
    """

    autostart: bool = _flag(True, "Configure and activate as soon as the node runs.")
    engine: str = _text(
        AUTO,
        "Engine that runs the model (`qwen3vl-ros engines` lists what is installed), or auto: the first of `engines` "
        "that works, now and later.",
    )
    engines: tuple[str, ...] = _texts(
        ("maix_http", "maix", "openai", "openvino", "llama"),
        "For engine auto: engines in order of preference. One that fails repeatedly is left for the next, and taken "
        "again when it is back.",
    )
    fallback_failures: int = _number(
        3, 1, 1000, "For engine auto: failures in a row after which an engine is left for the next."
    )
    fallback_after: float = _number(
        10.0, 0.1, 3600.0, "For engine auto: seconds that an engine may load or restart before the next one is started."
    )
    heartbeat_timeout: float = _number(
        10.0, 2.0, 600.0, "Seconds without a sign of life after which the engine's process is restarted."
    )
    cameras: tuple[str, ...] = _texts(
        ("",),
        "Names of the cameras. Camera NAME has the topics NAME/image, NAME/camera_info, NAME/depth and "
        "NAME/depth_info; the one without a name, image, camera_info, depth and depth_info. A goal that names none "
        "looks through the first.",
    )
    transport: str = _text("raw", "How pictures arrive: `image` or `image/compressed`.", choices=TRANSPORTS)
    fit: str = _text("", _FIT + " Empty: as the engine's own parameter says.", choices=("", *FITS))
    depth_tolerance: float = _number(
        0.05, 0.0, 10.0, "Greatest difference of the stamps of a picture and its depth picture, seconds.", live=True
    )
    coordinates: str = _text(
        "thousandths",
        "What coordinates in the model's answers count: thousandths of the picture (Qwen3-VL) or pixels of the picture "
        "that it saw (Qwen2.5-VL).",
        live=True,
        choices=("thousandths", "pixels"),
    )
    max_frame_age: float = _number(
        2.0,
        0.001,
        _FOREVER,
        "Greatest age of a frame when it is picked, seconds, where a goal does not say.",
        live=True,
    )
    frame_timeout: float = _number(
        5.0,
        0.0,
        _FOREVER,
        "Seconds to wait for a fresh frame before NO_FRAME. 0: as long as the goal has time.",
        live=True,
    )
    timeout: float = _number(
        120.0,
        0.001,
        _FOREVER,
        "Seconds from acceptance to result, queueing included, where a goal does not say.",
        live=True,
    )
    queue_size: int = _number(8, 0, 1000, "Goals that may wait; one more ends with BUSY.", live=True)
    busy_policy: str = _text(
        "queue",
        "What a goal meets when another one runs: it waits, it ends with BUSY, or it takes the place of goals of lower "
        "or equal priority, which end with PREEMPTED.",
        live=True,
        choices=BUSY_POLICIES,
    )
    full_text_interval: float = _number(
        0.0,
        0.0,
        60.0,
        "Least seconds between two feedback messages that carry the full text; deltas always come.",
        live=True,
    )
    diagnostics_period: float = _number(1.0, 0.1, 60.0, "Seconds between two messages on /diagnostics.")
    task_files: tuple[str, ...] = _texts(
        ("",), "Files of tasks of your own, beside the package's config/tasks.yaml; later ones win."
    )
    system_prompt: str = _text("", "Instruction that precedes every question that brings none.", live=True)
    temperature: float = _number(-1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True)
    top_p: float = _number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True)
    top_k: int = _number(-1, -1, 1_000_000, "Default of GenerationOptions; negative: the model's.", live=True)
    min_p: float = _number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True)
    repetition_penalty: float = _number(
        -1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True
    )
    seed: int = _number(-1, -1, 2**63 - 1, "Default of GenerationOptions; negative: a random one each time.", live=True)
    max_tokens: int = _number(
        512, -1, 10_000_000, "Default of GenerationOptions; negative: until the context is full.", live=True
    )
    maix_http: MaixHttp = field(default_factory=MaixHttp)
    maix: Maix = field(default_factory=Maix)
    openai: Openai = field(default_factory=Openai)
    openvino: Openvino = field(default_factory=Openvino)
    llama: Llama = field(default_factory=Llama)


ENGINES = {"maix_http": MaixHttp, "maix": Maix, "openai": Openai, "openvino": Openvino, "llama": Llama}
"""The parameters of each engine of this package. Those of third parties are what a parameter file has under their
name; they are not described here."""


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


def declare_choice(node: Node, name: str, choices: Sequence[str], description: str) -> str:
    """A text parameter whose name depends on others, such as that of a camera; what it is. Raises ValueError."""
    was = ""
    if node.has_parameter(name):
        was = node.get_parameter(name).value  # its override, or what was set since
        node.undeclare_parameter(name)
    descriptor = ParameterDescriptor(description=f"{description} One of: {', '.join(choices)}.")
    value = str(node.declare_parameter(name, str(was), descriptor, ignore_override=True).value)
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(choices)}")
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
        return f"{name}: {value!r} is none of {', '.join(choices)}"
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
        "# Every parameter of the node vlm, at its default. Written by: python -m qwen3vl_ros.nodes.parameters",
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
