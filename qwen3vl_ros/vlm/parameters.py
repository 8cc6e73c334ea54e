"""Every parameter of the node ``vlm``: its default, description, range, and when it may change; what engines are told.

The one place where they are described: ``ros2 param describe`` shows these texts, and config/vlm.yaml and
docs/parameters.md are written from them by scripts/write_parameters.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qwen3vl_ros.engines.chain import Policy
from qwen3vl_ros.engines.process import EngineSpec
from qwen3vl_ros.engines.registry import available
from qwen3vl_ros.ros import parameters
from qwen3vl_ros.ros.parameters import choice, flag, number, text, texts
from qwen3vl_ros.vision.frames import parse_mount
from qwen3vl_ros.vlm.engine_parameters import FIT, FITS, Llama, Maix, MaixHttp, Openai, Openvino
from qwen3vl_ros.vlm.storage_parameters import History, Memory, Record, Session

BUSY_POLICIES = ("queue", "reject", "preempt")
TRANSPORTS = ("raw", "compressed")
DEPTH_TRANSPORTS = ("raw", "compressedDepth")
ROTATIONS = (0, 90, 180, 270)
AUTO = "auto"
MAX_REASONING_TOKENS = 10_000_000
_FOREVER = 86400.0


def _check_mount(value: str) -> str:
    try:
        parse_mount(value) if value else None
    except ValueError as error:
        return str(error)
    return ""


def _check_tiles(value: str) -> str:
    if re.fullmatch("[1-9]x[1-9]", value):
        return ""
    return f"{value!r} is no COLUMNSxROWS such as 2x1, with 9 of each at most"


def _check_address(value: str) -> str:
    if not value or re.match(r"https?://[^/\s]+", value):
        return ""
    return f"{value!r} is no address such as https://example.org/events"


def _check_max_tokens(value: int) -> str:
    return "" if value else "an answer has at least 1 token; use a negative number for no limit but the context"


def _check_not_zero(value: float) -> str:
    return "" if value else "0 makes no sense; use a negative number for the model's own, 1 for off"


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters as they are now. ``live`` ones may change at any time, the others while unconfigured.

    The last groups are the engines' own, ``llama.model`` and so on; :data:`ENGINES` has them by name.
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
    image_transport: str = choice("raw", TRANSPORTS, "How images arrive: `image` or `image/compressed`.")
    depth_transport: str = choice(
        "raw", DEPTH_TRANSPORTS, "How depth images arrive: `depth` or `depth/compressedDepth`."
    )
    age_by: str = choice(
        "stamp",
        ("stamp", "arrival"),
        "What a frame's age counts from: its stamp, by the node's clock, or its arrival, for a camera whose stamps are "
        "of another clock.",
    )
    calibration: str = choice(
        AUTO,
        (AUTO, "K", "P"),
        "Which matrix of camera_info belongs to the images: K, with the distortion, to images as the camera delivers "
        "them; P to rectified ones. auto: P where the topic's name has a part that begins with rect, as in image_rect.",
    )
    depth_registered: bool = flag(
        False,
        "Depth images are registered to the images, pixel by pixel, although their frame_id is another one.",
    )
    target_frame: str = text(
        "",
        "tf frame of positions and extents, where a goal does not say; empty: the camera's optical frame. Set at the "
        "start, it has the node listen to tf from then on; else from the first goal on that needs it.",
        live=True,
    )
    mount: str = text(
        "",
        'Where the camera is in `mount_frame`, in the place of tf: "x y z roll pitch yaw", metres and radians, of a '
        "camera whose x axis looks ahead, y to the left and z up. Empty: tf says.",
        check=_check_mount,
    )
    mount_frame: str = text("base_link", "Frame of `mount` and `depth_mount`.")
    depth_mount: str = text(
        "",
        "Where the depth camera is, as `mount`, if it is another one than the images'; both are needed then. Empty: in "
        "one place, if their frame_id is the same, else tf says.",
        check=_check_mount,
    )
    fit: str = choice("", ("", *FITS), FIT + " Empty: as the engine's own parameter says.")
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
        check=_check_tiles,
    )
    reuse_tolerance: float = number(
        0.0,
        0.0,
        16.0,
        "Grey levels of 255. Where the mean of no 8x8 block of the image, as the model sees it, has changed by more "
        "since the frame that the model read, it gets the pixels of that again, whose work is done already. 0: always "
        "new ones. Set a little more than the `image_change` of answers about a scene in which nothing moves.",
    )
    reuse_max_age: float = number(
        60.0,
        0.001,
        _FOREVER,
        "For `reuse_tolerance`: seconds after which new pixels are read although nothing changed.",
    )
    depth_tolerance: float = number(
        0.05, 0.0, 10.0, "Greatest difference of the stamps of an image and its depth image, seconds.", live=True
    )
    coordinates: str = choice(
        "relative_1000",
        ("relative_1000", "pixels"),
        "What coordinates in the model's answers count: thousandths of the image (relative_1000: Qwen3-VL) or pixels "
        "of the image that it saw (Qwen2.5-VL).",
        live=True,
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
    busy_policy: str = choice(
        "queue",
        BUSY_POLICIES,
        "What a goal meets when another one runs: it waits, it ends with BUSY, or it takes the place of goals of lower "
        "or equal priority, which end with PREEMPTED.",
        live=True,
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
    top_p: float = number(
        -1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True, check=_check_not_zero
    )
    top_k: int = number(-1, -1, 1_000_000, "Default of GenerationOptions; negative: the model's.", live=True)
    min_p: float = number(-1.0, -1.0, 1.0, "Default of GenerationOptions; negative: the model's.", live=True)
    repetition_penalty: float = number(
        -1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True, check=_check_not_zero
    )
    presence_penalty: float = number(-1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True)
    frequency_penalty: float = number(
        -1.0, -1.0, 2.0, "Default of GenerationOptions; negative: the model's.", live=True
    )
    seed: int = number(-1, -1, 2**63 - 1, "Default of GenerationOptions; negative: a random one each time.", live=True)
    max_tokens: int = number(
        512,
        -1,
        10_000_000,
        "Default of GenerationOptions; negative: until the context is full.",
        live=True,
        check=_check_max_tokens,
    )
    thinking: str = choice(
        "unset",
        ("unset", "off", "on"),
        "Whether the model thinks before it answers, where a goal does not say and the model can do it; unset: as it "
        "does by itself.",
        live=True,
    )
    max_reasoning_tokens: int = number(
        0,
        0,
        MAX_REASONING_TOKENS,
        "Tokens that the model may reason for where a goal does not say; then it has to answer. They come on top of "
        "the default of max_tokens. 0: any number, up to max_tokens.",
        live=True,
    )
    clip_frames: int = number(8, 2, 768, "Frames of a clip where a goal does not say.", live=True)
    watches: tuple[str, ...] = texts(
        ("",), "Watches that run from the start: a JSON object each, with the fields of Watch.msg that are not unset."
    )
    watch_min_period: float = number(
        1.0, 0.0, _FOREVER, "Least seconds between two questions of a watch that does not say.", live=True
    )
    watch_max_period: float = number(
        60.0,
        0.1,
        _FOREVER,
        "Seconds after which a watch that does not say is asked again although its image has not changed.",
        live=True,
    )
    watch_change: float = number(
        6.0,
        0.0,
        255.0,
        "Grey levels of 255. A watch is asked before its greatest period is over where the mean of an 8x8 block of its "
        "image, at most 640 pixels wide, has changed by more since the last answer.",
        live=True,
    )
    watch_webhook: str = text(
        "",
        "Address, http:// or https://, to which every event of a watch is posted as JSON. Empty: none.",
        check=_check_address,
    )
    watch_webhook_secret: str = text(
        "",
        "File whose content, white space at its ends apart, is the key of the signature of what is posted; "
        "`watch_webhook` needs one.",
    )
    history: History = field(default_factory=History)
    session: Session = field(default_factory=Session)
    record: Record = field(default_factory=Record)
    memory: Memory = field(default_factory=Memory)
    maix_http: MaixHttp = field(default_factory=MaixHttp)
    maix: Maix = field(default_factory=Maix)
    openai: Openai = field(default_factory=Openai)
    openvino: Openvino = field(default_factory=Openvino)
    llama: Llama = field(default_factory=Llama)


_KEPT = ("history", "session", "record", "memory")
ENGINES = {name: group for name, group in parameters.groups(Settings).items() if name not in _KEPT}
"""The parameters of each engine of this package. Those of third parties are what a parameter file has under their
name; they are not described here."""


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """The parameters of :class:`Settings` that each camera may have of its own."""

    image_transport: str
    depth_transport: str
    age_by: str
    calibration: str
    depth_registered: bool
    mount: str
    mount_frame: str
    depth_mount: str
    fit: str
    rotation: int
    tiles: str
    reuse_tolerance: float
    reuse_max_age: float


def declare(node: Node) -> Settings:
    """Declare every parameter on ``node``, and what is set for third parties' engines and for single cameras.

    Returns:
        What the parameters are.

    Raises:
        ParameterError: One is set to what it cannot be.
    """
    third_parties = available().keys() - ENGINES.keys()
    return parameters.declare(node, Settings, undescribed=("camera", *third_parties))


def read(node: Node) -> Settings:
    """The parameters as they are."""
    return parameters.read(node, Settings)


def check(changes: Sequence[Parameter[Any]], *, configured: bool) -> SetParametersResult:
    """Whether ``changes`` may be made now; the refusal says why not."""
    fixed = (
        "is read when the node is configured: deactivate it and clean it up first, then set this and configure it again"
    )
    return parameters.check(Settings, changes, fixed=fixed if configured else "")


def declare_camera(node: Node, name: str, settings: Settings) -> CameraSettings:
    """Declare ``camera.NAME.image_transport`` and so on; what is not set is as the parameters without ``camera.NAME``.

    Raises:
        ParameterError: One is set to what it cannot be.
    """
    values = {one.name: getattr(settings, one.name) for one in fields(CameraSettings)}
    if name:
        known = parameters.described(Settings)
        for own, value in values.items():
            full_name = f"camera.{name}.{own}"
            if node.has_parameter(full_name):
                value = node.get_parameter(full_name).value  # as it came with the node, or was set since
            parameters.declare_as(node, full_name, known[own], value)
            values[own] = value
    return CameraSettings(**values)


def engine_specs(node: Node, settings: Settings) -> Sequence[EngineSpec]:
    """Specify the engines that the parameters ask for, the most preferred one first.

    An engine of this package gets its group of parameters, a third party's what was set under its name. Relative paths
    count from the current directory, ~ is the home directory. Raises OSError or RuntimeError for paths without meaning.
    """
    names = dict.fromkeys(settings.engines if settings.engine == AUTO else (settings.engine,))
    return [engine_spec(node, settings, name) for name in names if name]


def wanted_engines(settings: Settings) -> Sequence[str]:
    """Return the engines of ``auto`` that the user asked for: those of a list of their own, or those configured."""
    if settings.engines != Settings().engines:
        return settings.engines
    return [name for name in settings.engines if getattr(settings, name) != ENGINES[name]()]


def engine_spec(node: Node, settings: Settings, name: str) -> EngineSpec:
    """Specify the engine ``name``."""
    return EngineSpec(name, _config(node, settings, name), settings.heartbeat_timeout)


@cache
def ready_made_tasks() -> Path:
    """Return the package's own file of tasks."""
    return Path(get_package_share_directory("qwen3vl_ros"), "config", "tasks.yaml")


def task_files(settings: Settings) -> list[Path]:
    """Return the package's file of tasks, then the user's."""
    return [ready_made_tasks(), *(Path(path).expanduser() for path in settings.task_files if path)]


def policy(settings: Settings) -> Policy:
    """Read when an engine is left for the next one."""
    return Policy(failures=settings.fallback_failures, after=settings.fallback_after)


def _config(node: Node, settings: Settings, name: str) -> dict[str, Any]:
    if name not in ENGINES:
        return {key: parameter.value for key, parameter in node.get_parameters_by_prefix(name).items()}
    config = asdict(getattr(settings, name))
    if name == "llama":
        model = config["model"] or Path(get_package_share_directory("qwen3vl_ros"), "models", "tabletop")
        config["model"] = str(Path(model).expanduser().absolute())
        config["mmproj"] = config["mmproj"] and str(Path(config["mmproj"]).expanduser().absolute())
    return config
