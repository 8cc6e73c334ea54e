"""Leaves for py_trees that ask the robot's cameras: Ask, Locate, Check and WatchFor.

    pip install 'py_trees>=2.2,<3'

docs/behaviours.md is the manual, examples/behaviour_tree.py a tree.
"""

try:
    import py_trees as _py_trees  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "qwen3vl_ros.behaviours needs py_trees, which is not installed here: pip install 'py_trees>=2.2,<3', or "
        "apt install ros-$ROS_DISTRO-py-trees."
    ) from _error

from qwen3vl_ros.behaviours.ask import Ask
from qwen3vl_ros.behaviours.check import Check, Checked
from qwen3vl_ros.behaviours.locate import Locate
from qwen3vl_ros.behaviours.watch_for import WatchFor

__all__ = ["Ask", "Check", "Checked", "Locate", "WatchFor"]
