"""What a benchmark found, and whether that is good enough."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Figure:
    """One number. ``unit`` "" is a ratio; ``limit`` None is for information; ``detail`` is what it was made of."""

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met; True without one."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return f"{_number(self.value)} {self.unit}".strip()

    @property
    def target(self) -> str:
        """The target in words, "" without one."""
        return (
            "" if self.limit is None else f"{'>=' if self.at_least else '<='} {_number(self.limit)} {self.unit}".strip()
        )


def table(figures: Iterable[Figure]) -> Table:
    """All figures with their targets."""
    result = Table("figure", "measured", "target", "", show_lines=True)
    for figure in figures:
        verdict = "" if figure.limit is None else "ok" if figure.met else "NOT MET"
        result.add_row(
            Text.assemble(figure.name, ("\n" + figure.detail if figure.detail else "", "dim")),
            figure.measured,
            figure.target,
            Text(verdict, "green" if figure.met else "bold red"),
        )
    return result


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0..1) of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the least and the greatest tenth: what a neighbour on the machine did is in those."""
    tenth = len(values) // 10
    return statistics.mean(sorted(values)[tenth : len(values) - tenth])


def median_and_worst(values: Sequence[float], unit: str) -> str:
    """Both in words, with how many there were."""
    return f"median {_number(statistics.median(values))}, worst {_number(max(values))} {unit} of {len(values)}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
