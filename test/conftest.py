"""What the tests share: a private ROS graph, the node under test as a process, and a client that waits for events."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ros_domain

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SUPPORT = HERE / "support"

# `import qwen3vl_ros` is to find the built package, not the sources, which lack the generated interfaces: the root,
# which `import training` needs, comes last, also if pytest was started there.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (ROOT, HERE)] + [str(ROOT)]

collect_ignore = []
if importlib.util.find_spec("torch") is None:
    collect_ignore += ["engines/llama/test_llama_engine.py", "training/test_model_card.py", "training/test_training.py"]
if importlib.util.find_spec("openvino_genai") is None:  # as in Jazzy's environment, where what talks to ROS is tested
    collect_ignore += ["engines/openvino/test_openvino_engine.py", "engines/openvino/test_openvino_conformance.py"]

ros_domain.isolate()
# A shell that runs the tests in the background has Ctrl-C ignored, by them and by what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """Leave the directory that pytest was started in: child processes look there first for what they import."""
    os.chdir(SUPPORT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that talk over DDS carry the mark ``ros``: a run with another ROS distribution takes those alone."""
    for item in items:
        if {"ros", "start_vlm", "vlm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ros)


@pytest.fixture(scope="session")
def share() -> Path:
    """The share directory of the built package."""
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("qwen3vl_ros"))


@pytest.fixture(scope="session", autouse=True)
def dds_profile() -> None:
    """The Fast DDS profile of the package: sensor-data QoS loses large frames without it."""
    from qwen3vl_ros.ros.fast_dds import package_profile

    os.environ.update(package_profile())


@pytest.fixture(scope="session")
def ros(dds_profile: None) -> Iterator[RosClient]:  # noqa: F821
    """A client of the node under test, spinning in the background."""
    from ros_client import RosClient

    with RosClient() as client:
        yield client


@pytest.fixture(scope="module")
def shared_vlm() -> Iterator[list[VlmProcess]]:  # noqa: F821
    """The node that a module's tests with the fixture ``vlm`` share, if one runs: two of a name must never run at once.

    It is gone when the module is: other modules have servers of their own under that name.
    """
    shared: list[VlmProcess] = []  # noqa: F821
    yield shared
    for process in shared:
        process.close()


@pytest.fixture
def start_vlm(ros: RosClient, shared_vlm: list[VlmProcess]) -> Iterator[Callable[..., VlmProcess]]:  # noqa: F821
    """Start the built node with parameters, as users do; every process is gone after the test."""
    from vlm_process import VlmProcess

    while shared_vlm:
        shared_vlm.pop().close()
    started: list[VlmProcess] = []

    def start(**parameters: object) -> VlmProcess:
        started.append(VlmProcess(ros, parameters))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def vlm(ros: RosClient, shared_vlm: list[VlmProcess]) -> VlmProcess:  # noqa: F821
    """A node with the shipped model, ready for questions, and shared: tests leave it as they found it."""
    from vlm_process import VlmProcess

    if not shared_vlm:
        shared_vlm.append(VlmProcess(ros, {}))
        shared_vlm[0].wait_connected()
    return shared_vlm[0]
