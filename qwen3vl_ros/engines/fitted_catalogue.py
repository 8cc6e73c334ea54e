"""The catalogue as seen from a machine: what fits, how fast it would be, and which one to take. No network, no ROS."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from qwen3vl_ros.engines import speed
from qwen3vl_ros.engines.catalogue import Entry, catalogue
from qwen3vl_ros.engines.machine import Machine
from qwen3vl_ros.engines.shapes import QUANTS

PATIENCE, LEAST_RATE = 15.0, 4.0
"""A recommended model has its first token within so many seconds, and then so many tokens a second."""


@dataclass(frozen=True)
class Fit:
    """Whether a model fits a machine as it is now."""

    disk: bool
    memory: bool


@dataclass(frozen=True)
class FittedModel:
    """A model of the catalogue with what a machine makes of it.

    Sizes are bytes. ``first_token`` is in seconds, about a new 640x480 image; None, as ``tokens_per_second``, where the
    machine was not measured or the model does not fit.
    """

    name: str
    title: str
    engine: str
    quant: str
    repo: str
    url: str
    disk: int
    memory: int
    fits_disk: bool
    fits_memory: bool
    first_token: float | None
    tokens_per_second: float | None
    recommended: bool


@dataclass(frozen=True)
class FittedCatalogue:
    """``measured``: whether there are figures of this machine. Every figure and size is an estimate."""

    machine: Machine
    measured: bool
    models: tuple[FittedModel, ...]


def fits(entry: Entry, machine: Machine) -> Fit:
    """Return whether disk and memory that are free now are enough."""
    return Fit(disk=entry.disk <= machine.disk_free, memory=entry.memory <= machine.memory_free)


def fitted_catalogue(machine: Machine, measured: speed.Measurement | None) -> FittedCatalogue:
    """Return the whole catalogue for a machine."""
    estimates = {
        entry: speed.estimate(entry, measured, machine) if measured and fits(entry, machine).memory else None
        for entry in catalogue()
    }
    best = recommend(machine, estimates)
    listed = []
    for entry, expected in estimates.items():
        fit = fits(entry, machine)
        listed.append(
            FittedModel(
                name=entry.name,
                title=entry.title,
                engine=entry.engine,
                quant=entry.quant,
                repo=entry.repo,
                url=entry.url,
                disk=entry.disk,
                memory=entry.memory,
                fits_disk=fit.disk,
                fits_memory=fit.memory,
                first_token=round(expected.first_token, 2) if expected else None,
                tokens_per_second=round(expected.tokens_per_second, 2) if expected else None,
                recommended=entry is best,
            )
        )
    return FittedCatalogue(machine, measured is not None, tuple(listed))


def recommend(machine: Machine, estimates: dict[Entry, speed.Estimate | None]) -> Entry | None:
    """Return the largest Instruct model that fits and is fast enough, else the smallest that fits; None if none does.

    Of an engine that is not installed, none is recommended; of ``llama``, the preferred quantisation.
    """
    candidates = [
        entry
        for entry in estimates
        if entry.title.endswith("-Instruct")
        and (entry.quant == QUANTS[0] if entry.engine == "llama" else _installed("openvino_genai"))
        and fits(entry, machine) == Fit(disk=True, memory=True)
    ]
    fast = {
        entry: found
        for entry in candidates
        if (found := estimates[entry]) and found.first_token <= PATIENCE and found.tokens_per_second >= LEAST_RATE
    }
    if fast:
        return max(fast, key=lambda entry: (entry.shapes.weights, -fast[entry].first_token))
    return next((entry for entry in candidates if entry.engine == "llama"), None)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
