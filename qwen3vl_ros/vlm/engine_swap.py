"""The service SetEngine: loads another engine while the current one answers, and switches over when it is ready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from qwen3vl_ros import defect
from qwen3vl_ros.engines.chain import EngineChain, Policy
from qwen3vl_ros.engines.probing import Probe
from qwen3vl_ros.engines.process import EngineSpec, Health, State
from qwen3vl_ros.ros.parameters import described
from qwen3vl_ros.srv import SetEngine
from qwen3vl_ros.vlm.job import Code, Job
from qwen3vl_ros.vlm.parameters import AUTO, ENGINES, Settings, engine_specs, policy

LOAD_TIMEOUT = 600.0
"""Seconds after which an engine that is still loading counts as failed."""

_CLEANED_UP = "the node was cleaned up meanwhile"


class SwapRefused(Exception):
    """The engine was not changed; the text is a sentence that says why."""


class EngineSwap:
    """Serves SetEngine, one call at a time. Everything but :meth:`PendingEngine.load` runs on the executor's thread.

    ``pending``: the engine that loads. ``adopting``: parameters of engines may be set although the node is configured.
    """

    def __init__(
        self,
        node: Node,
        executor: Executor,
        settings: Callable[[], Settings],
        engine: Callable[[], EngineChain | None],
        take_over: Callable[[PendingEngine], tuple[EngineChain, Sequence[Job]]],
        on_change: Callable[[], None],
    ) -> None:
        """Prepare to serve.

        Args:
            node: Has the parameters.
            executor: Spins the node.
            settings: Returns the current parameters.
            engine: Returns the engine that answers; None while the node is unconfigured.
            take_over: Makes a loaded engine the one that answers; returns the previous one and its jobs.
            on_change: Called when an engine starts to load.
        """
        self.pending: PendingEngine | None = None
        self.adopting = False
        self._node = node
        self._executor = executor
        self._settings = settings
        self._engine = engine
        self._take_over = take_over
        self._on_change = on_change

    async def serve(self, request: SetEngine.Request, response: SetEngine.Response) -> SetEngine.Response:
        """Load another engine while the current one answers, and switch over once it is ready."""
        try:
            await self._swap(request)
            response.success = True
        except SwapRefused as error:
            response.message = str(error)
        except Exception as error:  # noqa: BLE001 reported to the caller of the service
            response.message = defect(f"{type(error).__name__}: {error}")
        engine = self._engine()
        description = None if engine is None else engine.health.description
        if description is not None:
            response.engine, response.model = description.engine, description.model
        if response.success:
            response.message = f"engine {response.engine} answers with {response.model}"
        self._log(f"set_engine: {response.message}")
        return response

    async def _swap(self, request: SetEngine.Request) -> None:
        """Switch the engine; raises :class:`SwapRefused` after restoring the parameters."""
        if self._engine() is None:
            raise SwapRefused("the node is unconfigured: set the parameters, then configure and activate it")
        if self.pending is not None:
            raise SwapRefused("another change of the engine is under way: try again when it is over")
        changes = self._wanted_parameters(request)
        _check_effect(request, changes)
        node = self._node
        before = {name: node.get_parameter(name).value if node.has_parameter(name) else None for name in changes}
        self._set_parameters(changes)
        try:
            pending = await self._load()
        except Exception:
            with suppress(SwapRefused):
                self._set_parameters(before)
            raise
        old, jobs = self._take_over(pending)
        grace = request.grace.sec + request.grace.nanosec / 1e9 or float("inf")
        reason = "the engine was changed before the answer was complete"
        threading.Thread(target=drain, args=(old, jobs, grace, reason), name="drain-engine", daemon=True).start()

    async def _load(self) -> PendingEngine:
        """Load the engines that the parameters name; raises :class:`SwapRefused`."""
        try:
            specs = engine_specs(self._node, self._settings())
        except (OSError, RuntimeError) as error:  # such as the home directory of a user that does not exist
            raise SwapRefused(f"the parameters of the engine cannot be used: {error}") from error
        pending = self.pending = PendingEngine(specs, self._log, policy(self._settings()))
        self._log(f"set_engine: {pending}")
        try:
            self._on_change()
            await self._in_a_thread(pending.load)
        finally:
            self.pending = None
        if self._engine() is None:
            pending.close()
            raise SwapRefused(_CLEANED_UP)
        return pending

    def _wanted_parameters(self, request: SetEngine.Request) -> dict[str, Any]:
        name, engine = request.engine, self._engine()
        if not name:
            description = None if engine is None else engine.health.description
            name = self._settings().engine if description is None else description.engine
        wanted = {"engine": name, f"{name}.model": request.model, f"{name}.mmproj": request.mmproj}
        return {name: value for name, value in wanted.items() if value}

    def _set_parameters(self, values: Mapping[str, Any]) -> None:
        """Set parameters although the node is configured; None undeclares one. Raises :class:`SwapRefused`."""
        self.adopting = True
        try:
            for name, value in values.items():
                if value is None:
                    self._node.undeclare_parameter(name)
                elif not self._node.has_parameter(name):
                    self._node.declare_parameter(name, value)
            known = [Parameter(name, value=value) for name, value in values.items() if value is not None]
            if reason := self._node.set_parameters_atomically(known).reason:
                raise SwapRefused(reason)
        finally:
            self.adopting = False

    async def _in_a_thread(self, function: Callable[[], None]) -> None:
        """Run a blocking function on a thread of its own; raises what it raises."""
        done: Future[None] = Future(executor=self._executor)

        def run() -> None:
            try:
                function()
            except Exception as error:  # noqa: BLE001 raised again where it is awaited
                done.set_exception(error)
            else:
                done.set_result(None)
            self._executor.wake()  # it resumes coroutines only when it is awake

        threading.Thread(target=run, name="set-engine", daemon=True).start()
        await done

    def _log(self, message: str) -> None:
        self._node.get_logger().info(message)


def _check_effect(request: SetEngine.Request, changes: Mapping[str, Any]) -> None:
    """Raise :class:`SwapRefused` for a field that no engine would receive."""
    engine = changes.get("engine", AUTO)
    for name in ("model", "mmproj"):
        if getattr(request, name) and engine == AUTO:
            raise SwapRefused(f"{name}: engine auto has none of its own: name the engine that is to use it")
        if getattr(request, name) and engine in ENGINES and f"{engine}.{name}" not in described(Settings):
            raise SwapRefused(f"{name}: engine {engine!r} has no such parameter; leave it empty")


class PendingEngine:
    """An engine, or a chain of engines, that loads while another one answers. ``chain`` is set once it starts."""

    def __init__(self, specs: Sequence[EngineSpec], report: Callable[[str], None], policy: Policy) -> None:
        self.chain: EngineChain | None = None
        self._specs = specs
        self._report = report
        self._policy = policy
        self._probe = Probe(specs)
        self._states: queue.SimpleQueue[Health] = queue.SimpleQueue()
        self._listener: Callable[[Health], None] = self._states.put
        self._closed = threading.Event()

    def __str__(self) -> str:
        names = " or ".join(spec.name for spec in self._specs)
        return f"engine {names} loads, and takes over when it is ready"

    def load(self) -> None:
        """Start the engine and wait until it is ready.

        Raises:
            SwapRefused: It cannot be used, or was closed while it loaded. Its processes have ended.
        """
        if len(self._specs) == 1:  # a longer chain probes by itself
            finding = next(iter(self._probe), None)
            self._probe.close()
            if finding is None or not finding.usable:
                raise SwapRefused(_CLEANED_UP if finding is None else finding.sentence)
        self.chain = EngineChain(self._specs, lambda health: self._listener(health), self._report, self._policy)
        try:
            self._wait(self.chain.health)
        except SwapRefused:
            self.close()
            raise

    def _wait(self, health: Health) -> None:
        give_up = time.monotonic() + LOAD_TIMEOUT
        while health.state is State.LOADING and not self._closed.is_set():
            try:
                health = self._states.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                raise SwapRefused(f"it did not load within {LOAD_TIMEOUT:g} s") from None
        if self._closed.is_set():
            raise SwapRefused(_CLEANED_UP)
        if health.state is not State.READY:
            raise SwapRefused(health.message)

    def listen(self, listener: Callable[[Health], None]) -> None:
        """Report changes to ``listener`` from now on."""
        self._listener = listener

    def close(self) -> None:
        """Stop loading and end its processes. May be called from any thread."""
        self._closed.set()
        self._probe.close()
        if self.chain is not None:
            self._states.put(self.chain.health)
            self.chain.close()


def drain(chain: EngineChain, jobs: Sequence[Job], grace: float, reason: str) -> None:
    """Let an engine finish ``jobs``, then close it.

    Args:
        chain: The engine.
        jobs: The jobs that it is answering.
        grace: Seconds after which unfinished jobs end with PREEMPTED.
        reason: Their error sentence.
    """
    give_up = time.monotonic() + grace
    for job in jobs:
        if not job.done.wait(max(0.0, min(give_up - time.monotonic(), threading.TIMEOUT_MAX))):
            job.end(Code.PREEMPTED, reason)
    for job in jobs:
        job.done.wait()
    chain.close()
