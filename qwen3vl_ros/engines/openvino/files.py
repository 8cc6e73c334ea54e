"""Checks the directory of an exported model and the device before the ``openvino`` engine loads anything."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3vl_ros.engines.base import ModelNotFound

EXPORT_COMMAND = "optimum-cli export openvino --model Qwen/Qwen3-VL-2B-Instruct --weight-format int4 DIRECTORY"

# The networks that optimum-intel writes for a qwen3_vl and openvino_genai::VLMPipeline reads, each an .xml and a .bin.
_NETWORKS = (
    "language_model",
    "text_embeddings_model",
    "vision_embeddings_model",
    "vision_embeddings_merger_model",
    "vision_embeddings_pos_model",
    "tokenizer",
    "detokenizer",
)
MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    *(f"openvino_{name}.{ending}" for name in _NETWORKS for ending in ("xml", "bin")),
)
_MODEL_TYPE = "qwen3_vl"

# For models that name no limits: the defaults of openvino_genai's ProcessorConfig, processor_config.hpp.
_LEAST_PIXELS, _MOST_PIXELS = 3136, 12845056

TILE = 32
"""Width and height in pixels of the square that becomes one token: Qwen3-VL's patches of 16, merged 2 by 2."""


def find_model(model: str) -> Path:
    """Return the directory ``model``; raises :class:`ModelNotFound` unless it is a complete export of a Qwen3-VL."""
    way_out = f"docs/openvino.md says how to export one: `{EXPORT_COMMAND}`."
    if not model:
        raise ModelNotFound(f"openvino.model is empty: set it to the directory of an exported model. {way_out}")
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelNotFound(f"There is no directory '{model}' with an OpenVINO model. {way_out}")
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelNotFound(
            f"'{model}' is no complete OpenVINO export of a Qwen3-VL: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. {way_out}"
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != _MODEL_TYPE:
        raise ModelNotFound(f"The model in '{model}' is a {kind}, and this engine runs {_MODEL_TYPE}. {way_out}")
    return folder


def check_device(device: str) -> str:
    """Return ``device``, such as "CPU", "GPU.1", "AUTO" or "HETERO:GPU,CPU", if OpenVINO has all its parts.

    Raises:
        ModelNotFound: OpenVINO lacks the device or a part of it.
    """
    import openvino  # not above: what a model consists of is also asked where OpenVINO is not installed

    mode, _, listed = device.partition(":")
    virtual = mode in ("AUTO", "HETERO", "MULTI", "BATCH")
    asked = [part for part in (listed if virtual else device).split(",") if part]
    available = openvino.Core().available_devices
    known = {*available, *(name.partition(".")[0] for name in available)}
    if not device or any(part.lstrip("-").partition("(")[0] not in known for part in asked):
        raise ModelNotFound(
            f"OpenVINO has no device '{device}' here, it has {', '.join(available) or 'none'}. Set openvino.device to "
            "one of these, or install the driver of the one that is missing."
        )
    return device


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Pixels (width x height) that an image has at least and at most after the pipeline's own resizing."""

    least: int
    most: int

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of an image of ``width`` x ``height`` pixels, both multiples of :data:`TILE`.

        openvino_genai enlarges a small image as transformers does: ``smart_resize`` of its qwen2vl/classes.cpp.
        """
        if width * height < self.least:
            scale = math.sqrt(self.least / (width * height))
            width, height = (math.ceil(side * scale / TILE) * TILE for side in (width, height))
        return width * height // TILE**2


def image_limits(folder: Path) -> ImageLimits:
    """Read the limits of the model in ``folder``, by openvino_genai's rules (processor_config.cpp)."""
    config = read_json(folder / "preprocessor_config.json")
    least, most = config.get("min_pixels"), config.get("max_pixels")
    if least is None and most is None:
        size = config.get("size") or {}
        least, most = size.get("shortest_edge"), size.get("longest_edge")
    return ImageLimits(
        _LEAST_PIXELS if least is None else int(least),
        _MOST_PIXELS if most is None else int(most),
    )


def read_json(file: Path) -> dict[str, Any]:
    """Load the JSON object in ``file``; raises :class:`ModelNotFound` when it cannot be read or is not an object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"'{file}' cannot be read ({error}): export the model again, see docs/openvino.md."
        ) from error
    if not isinstance(found, dict):
        raise ModelNotFound(f"'{file}' is not a JSON object: export the model again, see docs/openvino.md.")
    return found
