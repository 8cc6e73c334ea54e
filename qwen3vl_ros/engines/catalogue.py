"""The published Qwen3-VL models that an engine of this package runs: names, repositories and sizes. No network."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from qwen3vl_ros.engines.shapes import QUANTS, Shapes

DEFAULT_CONTEXT = 4096
"""Tokens that the engine ``llama`` keeps by default: parameter llama.n_ctx."""

DEFAULT_SLOTS = 2
"""Answers for each of which the engine ``llama`` keeps so many by default: parameter llama.slots."""

_OVERHEAD = 0.9e9
"""Memory besides files and KV cache, bytes: measured with a model of the 2B's shapes, docs/performance.md."""


class UnknownModel(ValueError):
    """There is no such model in the catalogue; the message says which there are."""


@dataclass(frozen=True)
class Size:
    """A size of Qwen3-VL. ``published`` is the part of its repositories' names, ``shapes`` is its config.json's.

    ``openvino``: precisions of the ready-made exports of the Instruct model; those of the 2B in int4 were not found.
    """

    name: str
    published: str
    shapes: Shapes
    openvino: tuple[str, ...] = ()


_2B = Shapes()
_8B = Shapes(
    embedding=4096,
    layers=36,
    heads=32,
    feed_forward=12288,
    tied=False,
    vision_embedding=1152,
    vision_layers=27,
    vision_feed_forward=4304,
    deepstack=(8, 16, 24),
)
_30B = replace(
    _8B, embedding=2048, layers=48, kv_heads=4, feed_forward=768, experts=128, active_experts=8
)  # a mixture of experts

SIZES = (
    Size("2b", "2B", _2B, ("int8",)),
    Size("4b", "4B", replace(_2B, embedding=2560, layers=36, heads=32, feed_forward=9728), ("int4",)),
    Size("8b", "8B", _8B, ("int4", "int8")),
    Size("30b-a3b", "30B-A3B", _30B),
    Size("32b", "32B", replace(_8B, embedding=5120, layers=64, heads=64, feed_forward=25600)),
    Size("235b-a22b", "235B-A22B", replace(_30B, embedding=4096, layers=94, heads=64, feed_forward=1536)),
)
"""Shapes: https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/config.json, likewise 4B and so on.

Repositories: https://huggingface.co/Qwen and https://huggingface.co/OpenVINO.
"""

VARIANTS = ("Instruct", "Thinking")


@dataclass(frozen=True)
class Entry:
    """A model as it can be downloaded.

    ``name`` is what the command line takes, ``title`` what Qwen calls the model. ``disk`` and ``memory`` are bytes from
    the shapes: of the published files whose sizes are known, they are right within 3 %.
    """

    name: str
    title: str
    engine: str
    quant: str
    repo: str
    disk: int
    memory: int

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://huggingface.co/{self.repo}"

    @property
    def shapes(self) -> Shapes:
        """The sizes of its layers."""
        return _shapes(self.name)


@cache
def catalogue() -> tuple[Entry, ...]:
    """Return all models, the smallest first, of each the preferred quantisation first."""
    return tuple(entry for size in SIZES for variant in VARIANTS for entry in _entries(size, variant))


def _entries(size: Size, variant: str) -> Iterator[Entry]:
    name = size.name if variant == "Instruct" else f"{size.name}-{variant.lower()}"
    title = f"Qwen3-VL-{size.published}-{variant}"

    def entry(engine: str, quant: str, repo: str, disk: float) -> Entry:
        tokens = DEFAULT_CONTEXT * (DEFAULT_SLOTS if engine == "llama" else 1)
        memory = disk + size.shapes.cache_bytes(tokens) + _OVERHEAD
        return Entry(name, title, engine, quant, repo, round(disk), round(memory))

    for quant in QUANTS:
        yield entry("llama", quant, f"Qwen/{title}-GGUF", size.shapes.text_bytes(quant) + size.shapes.vision_bytes)
    if variant == "Instruct":
        for precision in size.openvino:
            yield entry(
                "openvino", precision, f"OpenVINO/{title}-{precision}-ov", size.shapes.openvino_bytes(precision)
            )


def _shapes(name: str) -> Shapes:
    return next(size.shapes for size in SIZES if name in (size.name, f"{size.name}-thinking"))


def find(name: str, engine: str = "", quant: str = "") -> Entry:
    """Return the model ``name``; without an engine or a quantisation, the preferred one. Case does not count.

    Raises:
        UnknownModel: There is none.
    """
    wanted = name.lower().removeprefix("qwen3-vl-").removesuffix("-instruct")
    names = list(dict.fromkeys(entry.name for entry in catalogue()))
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, 1, 0.5)
        meant = f"; did you mean {close[0]!r}" if close else ""
        raise UnknownModel(
            f"There is no model {name!r}{meant}. `qwen3vl-ros model list` has {', '.join(names)}. Any other GGUF "
            "repository: `qwen3vl-ros download OWNER/NAME`."
        )
    of_name = [entry for entry in catalogue() if entry.name == wanted]
    of_engine = [entry for entry in of_name if not engine or entry.engine == engine]
    if not of_engine:
        there = ", ".join(dict.fromkeys(entry.engine for entry in of_name))
        raise UnknownModel(
            f"There is no ready-made {wanted} for the engine {engine}, only for {there}. "
            "docs/openvino.md says how to export one for openvino."
        )
    for entry in of_engine:
        if not quant or entry.quant.lower() == quant.lower():
            return entry
    has = ", ".join(entry.quant for entry in of_engine)
    raise UnknownModel(f"{of_engine[0].title} has no {quant} for {of_engine[0].engine}; it has {has}.")
