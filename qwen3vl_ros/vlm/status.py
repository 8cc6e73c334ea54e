"""Publishes what the node reports: the latched status, diagnostics, and every question with its answer."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import CANNOT_ANSWER, Health, State
from qwen3vl_ros.engines.tool_template import DETAIL, NONE
from qwen3vl_ros.msg import Answer, CameraHistory, ModelCard, VlmStatus, WatchState
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.ros.polling_subscription import Closed
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.frame_source import SAMPLE_PERIOD, CameraHealth
from qwen3vl_ros.vlm.history import HistorySpan
from qwen3vl_ros.vlm.job import Code, GoalResult
from qwen3vl_ros.vlm.memory import MemoryHealth
from qwen3vl_ros.vlm.messages import answer_message
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.recorder import RecorderHealth
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.watches import Watches

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """The node's current state. ``message`` says what is wrong with the node itself; ``scheduler`` None = not active.

    ``pending``: a sentence about the engine that is loading to replace ``engine``; "" = none. ``tasks``: names of the
    ready-made tasks. ``sessions``: conversations that are kept. ``recording``: None = nothing is recorded;
    ``memory``: None = it is off.
    """

    settings: Settings
    message: str
    engine: EngineChain | None
    pending: str
    scheduler: Scheduler | None
    tasks: tuple[str, ...]
    sessions: int
    watches: Watches
    recording: RecorderHealth | None
    memory: MemoryHealth | None


class StatusPublisher:
    """Publishes ~/status, ~/answers and /diagnostics. Every method may be called from any thread."""

    def __init__(self, node: Node, take_snapshot: Callable[[], NodeSnapshot], deadlines: Deadlines) -> None:
        self.last_error = ""
        self._node = node
        self._take_snapshot = take_snapshot
        self._deadlines = deadlines
        self._totals: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._diagnosed = -math.inf
        self._namesake = ""
        self._status = node.create_publisher(VlmStatus, "~/status", _LATCHED)
        self._answers = node.create_publisher(Answer, "~/answers", 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.set_period(take_snapshot().settings.diagnostics_period)

    def set_period(self, seconds: float) -> None:
        """Publish diagnostics every ``seconds`` of wall time from now on, independent of simulated time.

        Without subscribers, sample every 5 s so that the frame rate is known when one connects.
        A timer of the node would cost more, since its executor checks every entity of the node for each call.
        """
        with self._lock:
            self._period = seconds
            self._due = self._deadlines.add(time.monotonic() + seconds, self._diagnose)

    def count_accepted(self) -> None:
        """Count an accepted question."""
        with self._lock:
            self._totals["accepted"] += 1

    def count_tokens(self, result: GoalResult) -> None:
        """Count the tokens of an answer that no goal has asked for."""
        with self._lock:
            self._totals["prompt_tokens"] += result.usage.prompt_tokens
            self._totals["completion_tokens"] += result.usage.completion_tokens

    def finished(self, request: AskRequest | None, goal_id: str, result: GoalResult) -> None:
        """Count a question that has its result, and publish it on ~/answers."""
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
        message.end_time = self._node.get_clock().now().to_msg()
        message.header = result.headers[0] if result.headers else Header(stamp=message.end_time)
        self._answers.publish(message)
        self.publish()

    def publish(self) -> None:
        """Publish the current state."""
        with self._lock:  # serialized so that the newest state wins
            snapshot = self._take_snapshot()
            scheduler = snapshot.scheduler
            status = VlmStatus(message=snapshot.message, engine=snapshot.settings.engine, state=VlmStatus.UNCONFIGURED)
            status.header.stamp = self._node.get_clock().now().to_msg()
            if snapshot.engine is not None:
                health = snapshot.engine.health
                message = health.message or snapshot.message or "; ".join(health.passed_over.values())
                status.message = "; ".join(filter(None, (message, snapshot.pending)))
                status.engine_pid = health.pid
                status.engine_memory = health.memory
                status.load_time = health.load_time
                status.engine_restarts = health.restarts
                if health.description is not None:
                    status.engine, status.model = health.description.engine, health.description.model
                    status.context_length = health.description.context_length or 0
                    status.max_images = health.description.max_images or 0
                    status.model_card = ModelCard(**asdict(health.description.card))
                if health.state in CANNOT_ANSWER:
                    status.state = VlmStatus.FAILED
                elif health.state is not State.READY:
                    status.state = VlmStatus.LOADING
                elif scheduler is None:
                    status.state = VlmStatus.INACTIVE
                else:
                    status.state = VlmStatus.BUSY if scheduler.running else VlmStatus.READY
            status.tasks = list(snapshot.tasks)
            status.sessions = snapshot.sessions
            status.watches = len(snapshot.watches)
            if scheduler is not None:
                status.histories = [_history_message(*one) for one in scheduler.histories().items()]
                status.queue_length, status.queue_capacity = scheduler.waiting, snapshot.settings.queue_size
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
                return  # set_period() has scheduled another call
            self._due = self._deadlines.add(now + self._period, self._diagnose)
            # Diagnostics cost an engine that uses every core a millisecond.
            if now - self._diagnosed < SAMPLE_PERIOD and not self._diagnostics.get_subscription_count():
                return
            self._diagnosed = now
        with contextlib.suppress(Closed):  # a camera was closed concurrently
            self._publish_diagnostics()

    def _publish_diagnostics(self) -> None:
        snapshot, name = self._take_snapshot(), self._node.get_fully_qualified_name()
        settings, scheduler = snapshot.settings, snapshot.scheduler
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        health = Health(State.CLOSED, snapshot.message) if snapshot.engine is None else snapshot.engine.health
        chosen = settings.engines != Settings().engines
        array.status.append(_engine_diagnostics(name, settings.engine, health, chosen=chosen))
        if scheduler is not None:
            histories = scheduler.histories()
            for camera, camera_health in scheduler.camera_health().items():
                history = histories.get(camera, HistorySpan())
                array.status.append(_camera_diagnostics(name, camera, camera_health, settings.max_frame_age, history))
        waiting, running = (0, 0) if scheduler is None else (scheduler.waiting, len(scheduler.running))
        array.status.append(
            _queue_diagnostics(name, waiting, settings.queue_size, running, dict(self._totals), self.last_error)
        )
        if watches := snapshot.watches.states():
            array.status.append(_watch_diagnostics(name, watches))
        if snapshot.recording is not None:
            array.status.append(_recording_diagnostics(name, snapshot.recording))
        if snapshot.memory is not None:
            array.status.append(_memory_diagnostics(name, snapshot.memory))
        self._look_for_namesake(name)
        level = DiagnosticStatus.ERROR if self._namesake else DiagnosticStatus.OK
        array.status.append(_diagnostics_of(name, "name", level, self._namesake or "no other node has it", {}))
        self._diagnostics.publish(array)

    def _look_for_namesake(self, name: str) -> None:
        """Log an error once while another node on the graph has this full ``name``."""
        names = [f"{space.rstrip('/')}/{own}" for own, space in self._node.get_node_names_and_namespaces()]
        before, self._namesake = self._namesake, ""
        if names.count(name) > 1:
            self._namesake = (
                f"another node is called {name}, too, and questions are answered by either: give one of them another "
                "namespace or name, such as --ros-args -r __ns:=/robot2 (one that was killed is seen for 20 s more)"
            )
        if self._namesake and not before:
            self._node.get_logger().error(self._namesake)
        elif before and not self._namesake:
            self._node.get_logger().info(f"no other node is called {name} any more")


def _history_message(name: str, span: HistorySpan) -> CameraHistory:
    message = CameraHistory(camera=name, frames=span.frames, bytes=span.size)
    for stamp, nanoseconds in ((message.oldest, span.oldest), (message.newest, span.newest)):
        stamp.sec, stamp.nanosec = divmod(nanoseconds, 1_000_000_000)
    return message


# --- diagnostics ------------------------------------------------------------------------------------------------------
# ``node`` is the node's full name. A status is named after its last part, as tools show it; the value "node" has the
# full name, for tools that show several robots.


def _camera_diagnostics(
    node: str, name: str, camera: CameraHealth, max_frame_age: float, history: HistorySpan
) -> DiagnosticStatus:
    """ERROR when frames cannot arrive, WARN when the newest is too old to be used, or something is odd."""
    if camera.problem:
        level, message = DiagnosticStatus.ERROR, camera.problem
    elif camera.age is None:
        level, message = DiagnosticStatus.ERROR, f"no frame has arrived on {camera.topic}"
    elif camera.age > max_frame_age:
        level, message = DiagnosticStatus.WARN, f"the newest frame is {camera.age:.1f} s old"
    elif camera.age < -max_frame_age:
        level, message = DiagnosticStatus.WARN, f"the newest frame is stamped {-camera.age:.1f} s in the future"
    elif camera.doubt:
        level, message = DiagnosticStatus.WARN, camera.doubt
    else:
        level, message = DiagnosticStatus.OK, "frames arrive"
    return _diagnostics_of(
        node,
        f"camera {name}".rstrip(),
        level,
        message,
        {
            "topic": camera.topic,
            "publishers": camera.publishers,
            "rate (Hz)": "unknown" if camera.rate is None else f"{camera.rate:.1f}",
            "age of the newest frame (s)": "none" if camera.age is None else f"{camera.age:.3f}",
            "history": f"{history.frames} frames, {history.seconds:.1f} s, {history.size / 1e6:.1f} MB",
        },
    )


def _engine_diagnostics(node: str, name: str, health: Health, *, chosen: bool) -> DiagnosticStatus:
    """Return the status: ERROR if no answer is possible, WARN while it loads or restarts, or if a preferred one is out.

    ``chosen``: the user listed the engines. In the default list, an unusable engine is no reason for a warning.
    """
    level = {
        State.READY: DiagnosticStatus.OK,
        State.LOADING: DiagnosticStatus.WARN,
        State.RESTARTING: DiagnosticStatus.WARN,
    }.get(health.state, DiagnosticStatus.ERROR)
    if level == DiagnosticStatus.OK and chosen and health.passed_over:
        level = DiagnosticStatus.WARN
    description = health.description
    return _diagnostics_of(
        node,
        "engine",
        level,
        health.message or "; ".join(health.passed_over.values()) or health.state.value,
        {
            "engine": name if description is None else description.engine,
            "model": "" if description is None else description.model,
            "tools": NONE if description is None else description.details.get(DETAIL, NONE),
            "state": health.state.value,
            "pid": health.pid,
            "memory (MB)": f"{health.memory / 1e6:.0f}",
            "load time (s)": f"{health.load_time:.2f}",
            "restarts": health.restarts,
        },
    )


def _queue_diagnostics(
    node: str, waiting: int, capacity: int, running: int, totals: Mapping[str, int], last_error: str
) -> DiagnosticStatus:
    """Return the status: WARN if the next goal would be refused."""
    full = capacity > 0 and waiting >= capacity
    return _diagnostics_of(
        node,
        "queue",
        DiagnosticStatus.WARN if full else DiagnosticStatus.OK,
        "full: the next goal ends with BUSY" if full else "goals are accepted",
        {"waiting": waiting, "capacity": capacity, "running": running, **totals, "last error": last_error},
    )


def _watch_diagnostics(node: str, watches: Sequence[WatchState]) -> DiagnosticStatus:
    """Return the status: WARN if the last question of a watch failed or came late."""
    failing = [one for one in watches if one.error_msg]
    late = [one for one in watches if one.late > 0]
    message = "all are asked in time"
    if failing:
        message = f"{failing[0].watch.watch_id}: {failing[0].error_msg}"
    elif late:
        message = f"{len(late)} come late, because others go before"
    return _diagnostics_of(
        node,
        "watches",
        DiagnosticStatus.WARN if failing or late else DiagnosticStatus.OK,
        message,
        {
            "watches": len(watches),
            "active": sum(one.active for one in watches),
            "muted": sum(one.watch.muted for one in watches),
            "asked": sum(one.asked for one in watches),
            "left out, as the image had not changed": sum(one.unchanged for one in watches),
            "events": sum(one.events for one in watches),
            "failed": sum(one.failed for one in watches),
            "late": len(late),
            "latest (s)": f"{max(one.late for one in watches):.1f}",
        },
    )


def _recording_diagnostics(node: str, recording: RecorderHealth) -> DiagnosticStatus:
    """Return the status: WARN while answers are left out because nothing can be written."""
    return _diagnostics_of(
        node,
        "recording",
        DiagnosticStatus.WARN if recording.problem else DiagnosticStatus.OK,
        recording.problem or "answers are recorded",
        {
            "directory": recording.directory,
            "recorded": recording.recorded,
            "left out": recording.left_out,
            "size (MB)": f"{recording.size / 1e6:.1f}",
        },
    )


def _memory_diagnostics(node: str, memory: MemoryHealth) -> DiagnosticStatus:
    """Return the status: WARN while nothing is remembered."""
    return _diagnostics_of(
        node,
        "memory",
        DiagnosticStatus.WARN if memory.problem else DiagnosticStatus.OK,
        memory.problem or "what the cameras see is remembered",
        {
            "file": memory.path,
            "asked": memory.counters.asked,
            "left out, as the image had not changed": memory.counters.unchanged,
            "failed": memory.counters.failed,
            "size (MB)": f"{memory.size / 1e6:.1f}",
        },
    )


def _diagnostics_of(node: str, part: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in {**values, "node": node}.items()]
    name = f"{node.rpartition('/')[2]}: {part}"
    return DiagnosticStatus(name=name, hardware_id="", level=level, message=message, values=pairs)
