"""What every benchmark is given: models, the ROS graph, how often to repeat, and where to say how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ros_graph import RosGraph


@dataclass(frozen=True)
class Bench:
    """``large``: a model of the shapes of Qwen3-VL-2B; ``small``: the one that ships with the package.

    ``threads``: of the engine, 0 = one per physical core. ``quick``: only see whether it runs. ``say`` shows a step.
    """

    graph: RosGraph
    large: Path
    small: Path
    threads: int
    quick: bool
    say: Callable[[str], None]

    def times(self, repeats: int) -> int:
        """How often to repeat what a full run repeats that often."""
        return max(1, repeats // 5) if self.quick else repeats
