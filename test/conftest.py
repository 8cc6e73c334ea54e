"""What the tests share: a private ROS graph, the node under test as a process, and a client that waits for events."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import examples
import ros_domain

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SUPPORT = HERE / "support"

# `import qwen3vl_ros` is to find the built package, not the sources, which lack the generated interfaces: the root,
# which `import training` needs, comes last, also if pytest was started there.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (ROOT, HERE)] + [str(ROOT)]

TORCH = (
    "engines/llama/test_llama_clips.py",
    "engines/llama/test_llama_engine.py",
    "engines/llama/test_llama_slots.py",
    "engines/llama/test_qwen3_5.py",
    "engines/llama/test_llama_thinking.py",
    "engines/llama/test_saved_prefixes.py",
    "training/test_clip_data.py",
    "training/test_comparing.py",
    "training/test_finetune.py",
    "training/test_model_card.py",
    "training/test_scores_measure.py",
    "vlm/test_thinking.py",
    "training/test_training.py",
    "training/test_training_data.py",
)
OPENVINO = tuple(
    f"engines/openvino/test_{part}.py"
    for part in ("openvino_engine", "openvino_clips", "openvino_thinking", "openvino_conformance", "encoder_cache")
)
BROWSER = tuple(
    f"gateway/test_page{part}.py"
    for part in (
        "",
        "_answers",
        "_camera",
        "_correction",
        "_history",
        "_live",
        "_model",
        "_states",
        "_video",
        "_watches",
    )
)
NEEDS = {
    **dict.fromkeys(TORCH, ("torch", "model")),
    **dict.fromkeys(OPENVINO, ("openvino_genai", "model")),  # not in Jazzy's environment: only ROS is tested there
    "engines/openai/test_openai_real_servers.py": ("xllamacpp", "model"),
    **dict.fromkeys(BROWSER, ("playwright", "browser")),
    "gateway/test_gateway_clients.py": ("schemathesis", "slow"),
    "test_site.py": ("mkdocs", "slow"),
}
"""Test files that cannot be read without a library, which it is, and the mark of their tests."""

SLOW = (
    *("test_linear_time.py", "cli/test_download.py", "cli/test_model.py", "cli/test_modelscope.py"),
    *("engines/maix/test_maix_engine.py", "vision/test_depth.py", "sim/test_sources.py"),
    *("engines/test_engine_chain.py", "engines/test_engine_process.py", "gateway/test_gateway_videos.py"),
    *("vision/test_bag.py", "vision/test_video_file.py"),
)
"""Test files of which each takes 5 s of processor time or more: for processes that it starts, or to compute."""

ONCE = (
    # Commands: what they make of arguments and print. They ask through VlmClient, whose tests run everywhere.
    *(f"cli/test_{part}.py" for part in ("batch", "camera_options", "chat", "clip_options", "model", "watch_command")),
    # What the model is shown and says. The goal's way to it is that of vlm/test_vlm_node.py.
    *(f"vlm/test_{part}.py" for part in ("image_tokens", "meaning", "moments", "session_goals", "thinking")),
    "vlm/test_videos_and_bags.py",
    # Engines and their processes. The service that changes them is called in cli/test_node_commands.py, too.
    "vlm/test_engine_choice.py",
)
"""Test files of which all that talks over DDS has the mark ``once``: other files use the same parts of ROS."""

LONG = (
    *(
        "engines/openvino/test_openvino_engine.py",
        "cli/test_demo.py",
        "vlm/test_vlm_node.py",
        "vlm/test_engine_choice.py",
    ),
    *("test_documented_programs.py", "cli/test_node_commands.py", "gateway/test_page_states.py", "cli/test_model.py"),
    *("gateway/test_gateway_ros.py", "vlm/test_answers.py", "training/test_model_card.py", "vlm/test_watches.py"),
    *("gateway/test_page_model.py", "gateway/test_page_live.py", "vlm/test_hostile_goals.py", "client/test_client.py"),
    *("engines/openvino/test_openvino_conformance.py", "gateway/test_page_history.py", "gateway/test_page_camera.py"),
    *("gateway/test_page_correction.py", "gateway/test_gateway_clients.py", "gateway/test_page.py", "cli/test_cli.py"),
    *("gateway/test_page_watches.py", "gateway/test_page_answers.py", "sim/test_camera_node.py", "test_linear_time.py"),
    *(
        "vision/test_depth.py",
        "engines/test_engine_conformance.py",
        "vlm/test_session_goals.py",
        "training/test_finetune.py",
    ),
    *("sim/test_source_camera.py", "engines/openvino/test_openvino_clips.py", "gateway/test_page_video.py"),
    *("engines/llama/test_qwen3_5.py", "benchmark/test_benchmark_scripts.py", "gateway/test_gateway_videos.py"),
    "gateway/test_mcp_robot.py",
)
"""Test files that take longest, those first: begun at the end, one of them would keep one core alone."""

SHARED_NODES = ("vlm", "shared_reciter")
"""Fixtures of a node that tests share."""

NOT_IN_CHECK = {"ros", "browser", "model", "slow"}
"""Marks of the tests that `make check` leaves out."""

ros_domain.isolate()
# A shell that runs the tests in the background has Ctrl-C ignored, by them and by what they start, and nohup SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--check", action="store_true", help="run what `make check` runs: no model, browser or node")
    parser.addoption("--thorough", action="store_true", help="try all examples of Hypothesis's, not a quarter")


def pytest_configure(config: pytest.Config) -> None:
    examples.load(check=config.getoption("check", False), thorough=config.getoption("thorough", False))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a file unread that would fail for want of a library; for a check all of them, whose imports take long."""
    if not collection_path.is_relative_to(HERE):
        return None
    library, _ = NEEDS.get(collection_path.relative_to(HERE).as_posix(), ("", ""))
    missing = library and (config.getoption("check", False) or importlib.util.find_spec(library) is None)
    return True if missing else None


def pytest_collection_finish() -> None:
    """Leave the directory that pytest was started in: child processes look there first for what they import."""
    os.chdir(SUPPORT)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their files and fixtures, leave out what a check does not run, and put the longest files first.

    Tests that talk over DDS carry the mark ``ros``: a run with another ROS distribution takes those alone.
    """
    for item in items:
        if {"ros", "start_vlm", "vlm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ros)
        file = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        if file in NEEDS:
            item.add_marker(NEEDS[file][1])
        if file in SLOW:
            item.add_marker(pytest.mark.slow)
        if file in ONCE:
            item.add_marker(pytest.mark.once)
    items.sort(key=_place)
    if config.getoption("check", False):
        kept = [item for item in items if not NOT_IN_CHECK & {mark.name for mark in item.iter_markers()}]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _place(item: pytest.Item) -> tuple[int, Path, int]:
    """Long files first, and in each file the tests that share a node together: one that starts its own ends it."""
    file = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
    names = getattr(item, "fixturenames", ())
    shared = next((place for place, name in enumerate(SHARED_NODES) if name in names), len(SHARED_NODES))
    return LONG.index(file) if file in LONG else len(LONG), item.path, shared


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
def shared_vlm(ros: RosClient) -> Iterator[SharedVlm]:  # noqa: F821
    """The node that a module's tests share.

    It is gone when the module is: other modules have servers of their own under that name.
    """
    from vlm_process import SharedVlm

    shared = SharedVlm(ros)
    yield shared
    shared.close()


@pytest.fixture
def start_vlm(ros: RosClient, shared_vlm: SharedVlm) -> Iterator[Callable[..., VlmProcess]]:  # noqa: F821
    """Start the built node with parameters, as users do; every process is gone after the test."""
    from vlm_process import VlmProcess

    shared_vlm.close()
    started: list[VlmProcess] = []

    def start(**parameters: object) -> VlmProcess:
        started.append(VlmProcess(ros, parameters))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def vlm(shared_vlm: SharedVlm) -> VlmProcess:  # noqa: F821
    """A node with the shipped model, ready for questions, and shared: tests leave it as they found it."""
    return shared_vlm.get()
