"""What the node tells others: the latched status, diagnostics, and every question with its answer."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import Health, State
from qwen3vl_ros.msg import Answer, VlmStatus
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.ros.polling_subscription import Closed
from qwen3vl_ros.vlm import diagnostics
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import SAMPLE_PERIOD
from qwen3vl_ros.vlm.job import Code, GoalResult, first_frame_id
from qwen3vl_ros.vlm.messages import answer_message
from qwen3vl_ros.vlm.parameters import Settings, described
from qwen3vl_ros.vlm.scheduler import Scheduler

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True, slots=True)
class View:
    """The node as it is now. ``message`` says what is wrong with the node itself; ``scheduler`` None = not active.

    ``newcomer``: in a sentence, the engine that loads to take over from ``engine``; "" = none. ``tasks``: names of the
    ready-made tasks.
    """

    settings: Settings
    message: str
    engine: EngineChain | None
    newcomer: str
    scheduler: Scheduler | None
    tasks: tuple[str, ...]


class Reporter:
    """Publishes what ``look`` shows. Every method may be called from any thread."""

    def __init__(self, node: Node, look: Callable[[], View], deadlines: Deadlines) -> None:
        self.last_error = ""
        self._node = node
        self._look = look
        self._deadlines = deadlines
        self._totals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._diagnosed = -math.inf
        self._status = node.create_publisher(VlmStatus, "~/status", _LATCHED)
        self._answers = node.create_publisher(Answer, "~/answers", 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.set_period(look().settings.diagnostics_period)

    def set_period(self, seconds: float) -> None:
        """Publish diagnostics that often from now on, by the clock on the wall, whatever simulated time does.

        While nobody listens, every 5 s at most: then cameras are looked at, whose rate is told to whoever comes.
        Not with a timer of the node: for each call its executor looks at all that the node has, which takes longer.
        """
        with self._lock:
            self._period = seconds
            self._due = self._deadlines.add(time.monotonic() + seconds, self._diagnose)

    def count_accepted(self) -> None:
        """A question was accepted."""
        with self._lock:
            self._totals["accepted"] += 1

    def finished(self, request: AskRequest | None, goal_id: str, result: GoalResult) -> None:
        """A question has its result: count it, and publish it on ~/answers."""
        with self._lock:
            self._totals["prompt_tokens"] += result.usage.prompt_tokens
            self._totals["completion_tokens"] += result.usage.completion_tokens
            if result.error is None:
                self._totals["succeeded"] += 1
            elif result.error.code == Code.CANCELLED:
                self._totals["cancelled"] += 1
            else:
                self._totals["failed"] += 1
                self.last_error = result.error.message
        message = answer_message(request, goal_id, result)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.header.frame_id = first_frame_id(result.headers)
        self._answers.publish(message)
        self.publish_status()

    def publish_status(self) -> None:
        """Publish the state as it is now; the lock keeps the newest one last."""
        with self._lock:
            view = self._look()
            scheduler = view.scheduler
            status = VlmStatus(message=view.message, engine=view.settings.engine, state=VlmStatus.UNCONFIGURED)
            status.header.stamp = self._node.get_clock().now().to_msg()
            if view.engine is not None:
                health = view.engine.health
                status.message = "; ".join(
                    filter(None, (health.message or view.message or health.passed_over, view.newcomer))
                )
                status.engine_pid = health.pid
                status.engine_memory = health.memory
                status.load_time = health.load_time
                status.engine_restarts = health.restarts
                if health.description is not None:
                    status.engine, status.model = health.description.engine, health.description.model
                    status.context_length = health.description.context_length or 0
                    status.max_images = health.description.max_images or 0
                if health.state is not State.READY:
                    status.state = VlmStatus.LOADING
                elif scheduler is None:
                    status.state = VlmStatus.INACTIVE
                else:
                    status.state = VlmStatus.BUSY if scheduler.running else VlmStatus.READY
            status.tasks = list(view.tasks)
            if scheduler is not None:
                status.queue_length, status.queue_capacity = scheduler.waiting, view.settings.queue_size
            status.goals_accepted = self._totals["accepted"]
            status.goals_succeeded = self._totals["succeeded"]
            status.goals_failed = self._totals["failed"]
            status.goals_cancelled = self._totals["cancelled"]
            status.prompt_tokens = self._totals["prompt_tokens"]
            status.completion_tokens = self._totals["completion_tokens"]
            self._status.publish(status)

    def _diagnose(self) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._due.when:
                return  # planned anew meanwhile
            self._due = self._deadlines.add(now + self._period, self._diagnose)
            # It takes a millisecond from an engine that uses every core.
            if now - self._diagnosed < SAMPLE_PERIOD and not self._diagnostics.get_subscription_count():
                return
            self._diagnosed = now
        with contextlib.suppress(Closed):  # a camera, this very moment
            self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        view, name = self._look(), self._node.get_fully_qualified_name()
        settings, scheduler = view.settings, view.scheduler
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        health = Health(State.CLOSED, view.message) if view.engine is None else view.engine.health
        chosen = settings.engines != described()["engines"].default
        array.status.append(diagnostics.engine_status(name, settings.engine, health, chosen=chosen))
        if scheduler is not None:
            for camera, camera_health in scheduler.camera_health().items():
                array.status.append(diagnostics.camera_status(name, camera, camera_health, settings.max_frame_age))
        waiting, running = (0, 0) if scheduler is None else (scheduler.waiting, len(scheduler.running))
        array.status.append(
            diagnostics.queue_status(name, waiting, settings.queue_size, running, dict(self._totals), self.last_error)
        )
        self._diagnostics.publish(array)
