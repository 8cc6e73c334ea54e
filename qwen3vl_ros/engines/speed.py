"""How fast a Qwen3-VL would be on this machine: from a few layers of random weights, measured, to whole models.

The times of an answer grow linearly with the number of layers, so two models of real widths and few layers give what a
layer takes and what everything else takes. Between sizes, a token is made in the time that its weights need to come
from memory, and images and prompts are read in the time of their multiplications.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwen3vl_ros.engines.catalogue import Entry
from qwen3vl_ros.engines.machine import Machine
from qwen3vl_ros.engines.shapes import Shapes

MEASURED = Shapes()
"""What is measured has these widths, the 2B's, in MEASURED_QUANT."""

MEASURED_QUANT = "Q4_K_M"

IMAGE_SIZE = (640, 480)
IMAGE_TOKENS = 300

OPENVINO_FIRST_TOKEN, OPENVINO_TOKENS_PER_SECOND = 0.43, 0.82
"""The engine openvino's figures over llama's. Measured on one machine only, two cores with AVX512_BF16."""


@dataclass(frozen=True)
class Cost:
    """Seconds: of one layer, and of everything that is there once."""

    layer: float
    rest: float

    @classmethod
    def from_two(cls, few: int, few_seconds: float, many: int, many_seconds: float) -> Cost:
        """Return the line through the times of models of ``few`` and of ``many`` layers."""
        layer = max(0.0, (many_seconds - few_seconds) / (many - few))
        return cls(layer, max(0.0, few_seconds - few * layer))


@dataclass(frozen=True)
class Measurement:
    """What one image takes to be encoded, the prompt with it to be read, and a token to be made.

    ``busy``: other programs used the machine meanwhile, so that it is faster than this.
    """

    encode: Cost
    prefill: Cost
    token: Cost
    busy: bool = False


@dataclass(frozen=True)
class Estimate:
    """``first_token``: seconds until a question about a new 640x480 image is being answered."""

    first_token: float
    tokens_per_second: float


def estimate(entry: Entry, measured: Measurement, machine: Machine) -> Estimate | None:
    """Return what to expect of a model; None where there is no ground for it."""
    if entry.engine == "llama":
        return estimate_shapes(entry.shapes, entry.quant, measured)
    if not machine.bf16:
        return None
    llama = estimate_shapes(entry.shapes, MEASURED_QUANT if entry.quant == "int4" else "Q8_0", measured)
    return Estimate(llama.first_token * OPENVINO_FIRST_TOKEN, llama.tokens_per_second * OPENVINO_TOKENS_PER_SECOND)


def estimate_shapes(shapes: Shapes, quant: str, measured: Measurement) -> Estimate:
    """Return what to expect of a model of these shapes on the engine ``llama``."""
    encode = _scaled(
        measured.encode,
        shapes.vision_layers,
        shapes.vision_layer_work(IMAGE_TOKENS) / MEASURED.vision_layer_work(IMAGE_TOKENS),
        shapes.vision_rest_work(IMAGE_TOKENS) / MEASURED.vision_rest_work(IMAGE_TOKENS),
    )
    prefill = _scaled(
        measured.prefill,
        shapes.layers,
        shapes.layer_weights(active=True) / MEASURED.layer_weights(active=True),
        shapes.head_weights / MEASURED.head_weights,
    )
    token = _scaled(
        measured.token,
        shapes.layers,
        shapes.layer_bytes(quant, active=True) / MEASURED.layer_bytes(MEASURED_QUANT, active=True),
        shapes.head_bytes(quant) / MEASURED.head_bytes(MEASURED_QUANT),
    )
    return Estimate(encode + prefill, 1.0 / token)


def _scaled(cost: Cost, layers: int, layer_ratio: float, rest_ratio: float) -> float:
    return cost.layer * layers * layer_ratio + cost.rest * rest_ratio


def cache_file() -> Path:
    """Return where measurements are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "qwen3vl_ros" / "speed.json"


def load(machine: Machine) -> Measurement | None:
    """Return the measurement of this machine that was kept, if any. One that cannot be read counts as none."""
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))[machine.key]
        return from_json(kept)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def from_json(kept: dict[str, Any]) -> Measurement:
    """Return the measurement that :func:`dataclasses.asdict` made this of; raises LookupError or TypeError."""
    encode, prefill, token = (Cost(**kept[name]) for name in ("encode", "prefill", "token"))
    return Measurement(encode, prefill, token, busy=bool(kept.get("busy")))


def save(machine: Machine, measured: Measurement) -> None:
    """Keep the measurement of this machine beside those of others, whose home directory may be the same.

    Raises:
        OSError: It cannot be written.
    """
    file = cache_file()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    if not isinstance(kept, dict):
        kept = {}
    kept[machine.key] = asdict(measured)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    partial.replace(file)
