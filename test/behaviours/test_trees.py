"""What trees with these leaves promise: over DDS, with a node whose answers the test writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("py_trees", reason="py_trees, which the leaves are for, is not installed here")

import py_trees
import rclpy
from py_trees.blackboard import Blackboard
from py_trees.common import Status
from rclpy.executors import SingleThreadedExecutor

from qwen3vl_ros.behaviours import Ask, Check
from scripted_vlm import WAIT, ScriptedVlm, until_cancelled

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedVlm]:
    server = ScriptedVlm()
    yield server
    server.close()


@pytest.fixture
def vlm(server: ScriptedVlm) -> Iterator[ScriptedVlm]:
    Blackboard.clear()
    server.rewrite()
    yield server
    Blackboard.clear()


class Ticking:
    """A tree that a timer of a node ticks, on the one thread that spins the node, as on a robot."""

    def __init__(self, root: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.tree = py_trees.trees.BehaviourTree(root)

    def __enter__(self) -> Ticking:
        self.tree.setup(node=self.node)
        self.timer = self.node.create_timer(0.02, self.tree.tick)
        return self

    def until(self, happened: Any) -> None:
        end = self.node.get_clock().now().nanoseconds + WAIT * 1e9
        while not happened():
            assert self.node.get_clock().now().nanoseconds < end, py_trees.display.unicode_tree(self.tree.root)
            self.executor.spin_once(timeout_sec=1.0)

    def __exit__(self, *_: object) -> None:
        self.tree.shutdown()
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


def test_a_tree_that_a_node_ticks_has_its_answers_without_ever_waiting(vlm: ScriptedVlm) -> None:
    may_answer = threading.Event()

    def script(goal: Any) -> Any:
        assert may_answer.wait(WAIT)
        return goal.result(text="yes", probability=0.9)

    vlm.rewrite(script)
    root = py_trees.composites.Sequence("look", memory=True)
    root.add_children([Ask("what", "What is it?", key="what"), Check("sure", "Is it so?")])
    with Ticking(root) as robot:
        robot.until(lambda: len(vlm.goals) == 1)
        ticks = robot.tree.count
        robot.until(lambda: robot.tree.count > ticks + 5)  # while the node thinks
        assert root.status is Status.RUNNING
        may_answer.set()
        robot.until(lambda: root.status is Status.SUCCESS)
        robot.timer.cancel()
    assert Blackboard.get("what").text == "yes"
    assert Blackboard.get("checked").probabilities == (pytest.approx(0.9),)


def test_a_branch_of_higher_priority_has_the_goal_cancelled_on_the_node(vlm: ScriptedVlm) -> None:
    vlm.rewrite(until_cancelled)
    urgent = py_trees.behaviours.CheckBlackboardVariableExists("urgent?", "urgent")
    root = py_trees.composites.Selector("do", memory=False, children=[urgent, Ask("what", "What is it?")])
    with Ticking(root) as robot:
        robot.until(lambda: bool(vlm.goals) and root.tip().feedback_message == "red")  # it streams
        Blackboard.set("urgent", True)
        robot.until(vlm.goals[0].cancelled.is_set)
        assert root.status is Status.SUCCESS
        assert not Blackboard.exists("answer")


def ours() -> set[threading.Thread]:
    """Threads that are not the server's, whose pool grows."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("ThreadPoolExecutor")}


def test_a_tree_without_a_node_has_one_client_for_all_its_leaves_and_leaves_no_thread(vlm: ScriptedVlm) -> None:
    before = ours()
    root = py_trees.composites.Parallel("both", py_trees.common.ParallelPolicy.SuccessOnAll())
    leaves = [Ask(name, f"What is {name}?", key=name) for name in ("this", "that")]
    root.add_children(leaves)
    tree = py_trees.trees.BehaviourTree(root)
    tree.setup()
    assert leaves[0].client is leaves[1].client
    end = time.monotonic() + WAIT
    while not all(leaf.status is Status.SUCCESS for leaf in leaves):
        assert time.monotonic() < end
        tree.tick()
        time.sleep(0.02)
    assert {goal.request.prompt for goal in vlm.goals} == {"What is this?", "What is that?"}
    tree.shutdown()
    assert ours() == before
    with pytest.raises(RuntimeError, match="setup"):
        _ = leaves[0].client
