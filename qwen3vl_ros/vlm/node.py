"""The node ``vlm``: asks a vision-language model about what a camera sees.

A lifecycle node. Configured: the engine's process runs and loads its model. Active: goals are accepted (they wait while
the model loads). What activate creates deactivate ends, what configure creates cleanup frees.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import BadRequest, Description
from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.process import Health, State
from qwen3vl_ros.prompts.task_files import TaskFileError, load_tasks
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.ros.spinning import SpinThread
from qwen3vl_ros.ros.stop_signal import StopSignal
from qwen3vl_ros.srv import Ask, CorrectAnswer, ListTasks, ResetSession, SetEngine
from qwen3vl_ros.vlm import large_buffers, parameters
from qwen3vl_ros.vlm.cameras import open_cameras
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.engine_swap import EngineSwap, PendingEngine
from qwen3vl_ros.vlm.job import Code, GoalError, GoalReply, GoalResult, Job
from qwen3vl_ros.vlm.memory import Memory
from qwen3vl_ros.vlm.messages import fill_result, request_from, task_message, timeout_of
from qwen3vl_ros.vlm.recorder import Recorder, serve_correction
from qwen3vl_ros.vlm.replies import ActionReply, ServiceReply
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.sessions import Sessions
from qwen3vl_ros.vlm.status import NodeSnapshot, StatusPublisher
from qwen3vl_ros.vlm.transforms import Transforms
from qwen3vl_ros.vlm.visualization import Display
from qwen3vl_ros.vlm.watch_services import WatchServices

_FEEDBACK = QoSProfile(depth=1000)
"""Keeps every token for a client that is busy for a while; the default depth is ten."""

_REQUESTS = QoSProfile(depth=1000)
"""Keeps every request of a burst: beyond ten, the default, the middleware drops the oldest silently."""


_RESULT_KEPT = 60
"""Seconds that a result is kept for a client that asks for it late; not longer, because every status message lists all
kept goals and is sent to every client whenever any goal's state changes."""


class VlmNode(LifecycleNode):
    """See the module. ``executor`` spins it, with a single thread."""

    def __init__(self, executor: SingleThreadedExecutor) -> None:
        super().__init__("vlm")
        self._executor = executor
        self._settings = parameters.declare(self)
        self._tasks = Tasks({})
        self._engine: EngineChain | None = None
        self._scheduler: Scheduler | None = None
        self._recorder: Recorder | None = None
        self._correct_answer: Any = None
        self._finalized = False
        self._advised: set[str] = set()
        self._message = "" if self._settings.autostart else "autostart is off: configure and activate the node"
        self._deadlines = Deadlines(self._log_error)
        self._sessions = self._new_sessions()
        self._swap = EngineSwap(
            self,
            executor,
            lambda: self._settings,
            lambda: self._engine,
            self._take_over,
            lambda: self._status.publish(),
        )
        group = self._reentrant = ReentrantCallbackGroup()
        self._watches = WatchServices(
            self,
            executor,
            group,
            lambda: self._settings,
            lambda: self._tasks,
            lambda: self._scheduler,
            self._deadlines,
            lambda: self._status.publish(),
            lambda result: self._status.count_tokens(result),
            self._log_error,
        )
        self._memory = Memory(
            lambda: self._settings,
            lambda: self._tasks,
            self._deadlines,
            self.get_clock().now,
            lambda result: self._status.count_tokens(result),
            self._log_info,
            self._log_warning,
        )
        self._status = StatusPublisher(self, self._take_snapshot, self._deadlines)
        self._display = Display(self, self._log_error)
        self._action_server = ActionServer(
            self,
            AskImage,
            "~/ask_image",
            execute_callback=_never_by_itself,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
            callback_group=group,
            goal_service_qos_profile=_REQUESTS,
            result_service_qos_profile=_REQUESTS,
            cancel_service_qos_profile=_REQUESTS,
            feedback_pub_qos_profile=_FEEDBACK,
            result_timeout=_RESULT_KEPT,
        )
        self._service = self.create_service(Ask, "~/ask", self._on_ask, callback_group=group)
        self._list_tasks = self.create_service(ListTasks, "~/list_tasks", self._on_list_tasks, callback_group=group)
        self._set_engine = self.create_service(SetEngine, "~/set_engine", self._swap.serve, callback_group=group)
        self._reset_session = self.create_service(
            ResetSession, "~/reset_session", self._on_reset_session, callback_group=group
        )
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._read_parameters)
        self._status.publish()

    def _take_snapshot(self) -> NodeSnapshot:
        pending = self._swap.pending  # read once: another thread may change it
        coming = "" if pending is None else str(pending)
        recording = None if self._recorder is None else self._recorder.health()
        return NodeSnapshot(
            self._settings,
            self._message,
            self._engine,
            coming,
            self._scheduler,
            tuple(self._tasks),
            len(self._sessions),
            self._watches.watches,
            recording,
            self._memory.health(),
        )

    # --- lifecycle ---------------------------------------------------------------------------------------------------

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Start the engine's process, which loads the model in the background."""
        self._settings = parameters.read(self)
        self._status.set_period(self._settings.diagnostics_period)
        self._message = ""
        self._sessions.close()
        self._sessions = self._new_sessions()
        try:
            specs = parameters.engine_specs(self, self._settings)
            self._tasks = load_tasks(parameters.task_files(self._settings))
        except TaskFileError as error:
            self._fail(str(error))
            return TransitionCallbackReturn.FAILURE
        except (OSError, RuntimeError) as error:  # such as the home directory of a user that does not exist
            self._fail(f"the parameters of the engine cannot be used: {error}")
            return TransitionCallbackReturn.FAILURE
        if not specs:
            self._fail("the parameter engines names no engine: set it, or the parameter engine to another than auto")
            return TransitionCallbackReturn.FAILURE
        self._engine = EngineChain(specs, self._on_engine_change, self._log_info, parameters.policy(self._settings))
        self._begin_recording()
        self._memory.configure()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and accept goals."""
        assert self._engine is not None
        try:
            cameras = open_cameras(self, self._settings)
        except RuntimeError as error:  # such as a topic name that is none
            self._fail(f"the cameras cannot be used: {error}")
            return TransitionCallbackReturn.FAILURE
        self._scheduler = Scheduler(
            self._engine,
            cameras,
            self._display,
            lambda: self._settings,
            self._sessions,
            self._memory.recall,
            Transforms(self, listen=bool(self._settings.target_frame)),
            self._status.publish,
            self._on_finish,
            self._log_error,
        )
        self._message = ""
        self._scheduler.engine_changed()
        self._watches.activate(self._scheduler)
        self._memory.start(self._scheduler)
        self._status.publish()
        self._fall_back_if_failed(self._engine.health)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Accept no more goals; end every accepted one with SHUTDOWN and its text so far."""
        self._end_goals(Code.SHUTDOWN, "the node was deactivated before the answer was complete")
        return super().on_deactivate(state)

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Unload the model, and forget watches and conversations."""
        self._watches.clear()
        self._tasks = Tasks({})
        self._sessions.close()
        self._close_engine()
        self._end_recording()
        self._memory.close()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """End every goal and unload the model, from any state."""
        self.stop_accepting()
        self._close_engine()
        self._end_recording()
        self._memory.close()
        self._finalized = True
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Unload the model and finalize the node, from any state."""
        self._close_engine()
        self._watches.close()
        self._end_recording()
        self._memory.close()
        self._display.close()
        self._deadlines.close()
        if not self._finalized:
            self.trigger_shutdown()

    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Clean up after a transition that raised, so that the node can be configured again."""
        self._fail("a lifecycle transition failed; the log has the reason")
        self.stop_accepting()
        self._close_engine()
        self._end_recording()
        self._memory.close()
        return TransitionCallbackReturn.SUCCESS

    def start(self) -> None:
        """Configure and activate, if the parameter ``autostart`` says so."""
        if self._settings.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _fail(self, message: str) -> None:
        self._message = self._status.last_error = message
        self.get_logger().error(message)
        self._status.publish()

    def stop_accepting(self) -> Scheduler | None:
        """Accept no more goals and end every accepted one; return the scheduler, None while inactive."""
        scheduler = self._scheduler
        self._end_goals(Code.SHUTDOWN, "the node was shut down before the answer was complete")
        return scheduler

    def _end_goals(self, code: int, message: str) -> None:
        if self._scheduler is not None:
            scheduler, self._scheduler = self._scheduler, None
            self._watches.deactivate()
            self._memory.stop()
            scheduler.close(code, message)
        self._status.publish()

    def _close_engine(self) -> None:
        pending = self._swap.pending
        closer = threading.Thread(target=pending.close) if pending is not None else None
        if closer is not None:  # concurrently with the other engine's: each may take a while
            closer.start()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()
        if closer is not None:
            closer.join()
        self._status.publish()

    def _begin_recording(self) -> None:
        """Record from now on, and take corrections, if a parameter says where."""
        record = self._settings.record
        if record.directory:
            try:
                directory = Path(record.directory).expanduser().absolute()
            except RuntimeError as error:  # such as the home directory of a user that does not exist
                self._log_error(f"nothing is recorded, as record.directory cannot be used: {error}")
                return
            recorder = self._recorder = Recorder(directory, record.megabytes, self._log_info, self._log_warning)
            serve = functools.partial(serve_correction, recorder, self._executor)
            self._correct_answer = self.create_service(
                CorrectAnswer, "~/correct_answer", serve, callback_group=self._reentrant
            )

    def _end_recording(self) -> None:
        if self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            self.destroy_service(self._correct_answer)
            recorder.close()

    def _on_engine_change(self, health: Health) -> None:
        """Wake waiting questions and publish the engine's new state. Runs on the engine's thread."""
        if health.state is State.READY and health.description is not None:
            self.get_logger().info(
                f"engine {health.description.engine} loaded {health.description.model} in {health.load_time:.1f} s"
            )
            self._pass_on(health.description)
        elif health.state in (State.RESTARTING, State.OUT, State.FAILED):
            self._status.last_error = health.message
            self.get_logger().error(health.message)
        scheduler = self._scheduler
        if scheduler is not None:
            scheduler.engine_changed()
        self._status.publish()
        self._fall_back_if_failed(health)

    def _pass_on(self, description: Description) -> None:
        """Log what the engine's library advises about this model, once."""
        advice = description.details.get("advice", "")
        if advice and advice not in self._advised:
            self._advised.add(advice)
            self.get_logger().warning(f"{description.model}: {advice}")

    def _fall_back_if_failed(self, health: Health) -> None:
        """Return to unconfigured, where parameters can be corrected, when the engine cannot load its model."""
        if health.state is State.FAILED:
            self._message = health.message
            self._executor.create_task(self._unconfigure)

    def _unconfigure(self) -> None:
        if self._engine is None or self._engine.health.state is not State.FAILED:
            return
        if self._scheduler is not None:
            self._scheduler.end_all(Code.ENGINE_NOT_READY, self._message)
            self.trigger_deactivate()
        self.trigger_cleanup()

    def _take_over(self, pending: PendingEngine) -> tuple[EngineChain, list[Job]]:
        """Switch to the loaded engine; return the previous one and the jobs that it is answering."""
        assert pending.chain is not None
        assert self._engine is not None
        old, self._engine = self._engine, pending.chain
        jobs = [] if self._scheduler is None else self._scheduler.use(pending.chain)
        pending.listen(self._on_engine_change)
        self._fall_back_if_failed(pending.chain.health)  # it may have failed before the listener was set
        self._status.publish()
        return old, jobs

    # --- questions ---------------------------------------------------------------------------------------------------

    def _on_goal(self, _goal: Any) -> GoalResponse:
        return GoalResponse.REJECT if self._scheduler is None else GoalResponse.ACCEPT

    def _on_accepted(self, goal_handle: ServerGoalHandle[Any, Any, Any]) -> None:
        self._accept(goal_handle.request, ActionReply(goal_handle, self._executor))

    def _on_cancel(self, goal_handle: ServerGoalHandle[Any, Any, Any]) -> CancelResponse:
        scheduler = self._scheduler
        job = None if scheduler is None else scheduler.find(bytes(goal_handle.goal_id.uuid).hex())
        if job is not None:
            job.end(Code.CANCELLED, "a client cancelled the goal")
        return CancelResponse.ACCEPT

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        reply = ServiceReply(self._executor)
        self._accept(request, reply)
        return await reply.respond(response)

    def _on_list_tasks(self, _request: ListTasks.Request, response: ListTasks.Response) -> ListTasks.Response:
        response.tasks = [task_message(task) for task in self._tasks.values()]
        return response

    def _on_reset_session(
        self, request: ResetSession.Request, response: ResetSession.Response
    ) -> ResetSession.Response:
        response.success, response.message = self._sessions.reset(request.session)
        self._status.publish()
        return response

    def _new_sessions(self) -> Sessions:
        return Sessions(self._settings.session, self._deadlines, lambda: self._status.publish())

    def _accept(self, goal: Any, reply: GoalReply) -> None:
        """Hand a goal to the scheduler, or finish it at once with an error if it cannot be accepted."""
        scheduler = self._scheduler
        self._status.count_accepted()
        if scheduler is None:
            message = f"the node is not active: {self._message or 'activate it first'}"
            self._refuse(reply, GoalError(Code.ENGINE_NOT_READY, message))
            return
        settings, tasks = self._settings, self._tasks
        try:
            timeout = timeout_of(goal, settings)
        except BadRequest as error:
            self._refuse(reply, GoalError(Code.BAD_REQUEST, str(error)))
            return
        job = Job(reply, goal.priority, timeout, scheduler.ended, scheduler.finished, self._deadlines)
        scheduler.accept(job, lambda: request_from(goal, settings, tasks))

    def _refuse(self, reply: GoalReply, error: GoalError) -> None:
        result = GoalResult(error)
        reply.finished(result)
        self._status.finished(None, reply.goal_id, result)

    def _log_info(self, message: str) -> None:
        self.get_logger().info(message)

    def _log_warning(self, message: str) -> None:
        self.get_logger().warning(message)

    def _log_error(self, message: str) -> None:
        self.get_logger().error(message)

    def _on_finish(self, job: Job, result: GoalResult) -> None:
        if (recorder := self._recorder) is not None:  # first: who has the answer may correct it at once
            recorder.take(job, result)
        self._status.finished(job.checked, job.reply.goal_id, result)

    # --- parameters --------------------------------------------------------------------------------------------------

    def _check_parameters(self, changes: Sequence[Parameter[Any]]) -> SetParametersResult:
        return parameters.check(changes, configured=self._engine is not None and not self._swap.adopting)

    def _read_parameters(self, _changes: Sequence[Parameter[Any]]) -> None:
        self._settings = parameters.read(self)
        self._status.publish()


def _never_by_itself(_goal_handle: ServerGoalHandle[Any, Any, Any]) -> AskImage.Result:
    """Refuse: goals are executed by their ActionReply, which has a callback of its own."""
    return fill_result(AskImage.Result(), GoalResult(GoalError(Code.UNKNOWN, "executed outside the queue")))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or SIGHUP; every accepted goal gets its result first."""
    stop = StopSignal()
    large_buffers.return_at_once()
    try:
        rclpy.init(args=list(sys.argv if args is None else args), signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor()
        node = VlmNode(executor)
    except Exception as error:  # noqa: BLE001 whatever is wrong with the parameters is shown as a sentence
        print(f"vlm: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor.add_node(node)
    spinning = SpinThread(executor, "executor", on_failure=stop.fail)  # with a dead one the node must not look alive
    executor.create_task(node.start)  # before it spins: a goal that comes at once must not find the node inactive
    spinning.start()
    status = stop.wait()
    scheduler = _on(executor, node.stop_accepting) if status == 0 else None
    if scheduler is not None:
        scheduler.wait_idle(0.5)
        for _ in range(2):  # pending results are sent once the executor has run its tasks
            _on(executor, lambda: None)
    if status == 0:
        _on(executor, node.close)
    spinning.stop(2.0)  # a thread that still spins keeps the middleware from tidying up its shared memory
    rclpy.shutdown()
    return status


def _on(executor: SingleThreadedExecutor, callback: Callable[[], Any]) -> Any:
    """Run ``callback`` on the executor's thread and return its result, or None after a timeout."""
    done = threading.Event()
    task = executor.create_task(callback)
    task.add_done_callback(lambda _: done.set())
    return task.result() if done.wait(1.3) else None


if __name__ == "__main__":
    sys.exit(main())
