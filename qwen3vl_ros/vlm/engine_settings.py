"""Builds the specifications of engines from the node's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node

from qwen3vl_ros.engines.chain import Policy
from qwen3vl_ros.engines.process import EngineSpec
from qwen3vl_ros.vlm.engine_parameters import ENGINES
from qwen3vl_ros.vlm.parameters import AUTO, Settings


def engine_specs(node: Node, settings: Settings) -> Sequence[EngineSpec]:
    """Specify the engines that the parameters ask for, the most preferred one first.

    An engine of this package gets its group of parameters, a third party's the parameters set under its name. Relative
    paths are relative to the current directory, ~ is the home directory. Raises OSError or RuntimeError for a path that
    cannot be resolved.
    """
    names = dict.fromkeys(settings.engines if settings.engine == AUTO else (settings.engine,))
    return [engine_spec(node, settings, name) for name in names if name]


def engine_spec(node: Node, settings: Settings, name: str) -> EngineSpec:
    """Specify the engine ``name``."""
    return EngineSpec(name, _config(node, settings, name), settings.heartbeat_timeout)


def task_files(settings: Settings) -> list[Path]:
    """Return the package's file of tasks, then the user's."""
    own = Path(get_package_share_directory("qwen3vl_ros"), "config", "tasks.yaml")
    return [own, *(Path(path).expanduser() for path in settings.task_files if path)]


def policy(settings: Settings) -> Policy:
    """Read the policy for failing over to the next engine."""
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
