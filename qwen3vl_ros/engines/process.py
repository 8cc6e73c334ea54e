"""Starts, supervises and restarts an engine's worker process, and sends it requests.

Nothing here blocks the caller: an own thread delivers answers and state changes to callbacks.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from qwen3vl_ros.engines import child_python
from qwen3vl_ros.engines.base import (
    Chunk,
    Description,
    EngineCrashed,
    EngineError,
    EngineNotReady,
    ModelNotFound,
    Request,
    Stage,
)
from qwen3vl_ros.engines.worker import pack

Deliver: TypeAlias = Callable[[Chunk | EngineError], None]

_STAGES = tuple(Stage)

_BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the n-th restart in a row; an answered request resets the count."""

_LOAD_ATTEMPTS = 5
"""Starts in a row that may fail before the model is loaded; after that the engine counts as out."""

_RETRY_LOADING = 60.0
"""Seconds between starts of an engine that is out: what ends its process, such as a lack of memory, may pass."""


class State(enum.Enum):
    """The state of an engine's process.

    OUT: it cannot be used now, which may pass, and is tried again. FAILED: a person has to change something first.
    """

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    OUT = "out"
    FAILED = "failed"
    CLOSED = "closed"


CANNOT_ANSWER = (State.OUT, State.FAILED, State.CLOSED)
"""The states in which no question should wait for an answer."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine to run: its entry-point name and its keyword configuration (JSON types).

    ``heartbeat_timeout``: seconds without a message after which the process counts as hung: it is killed and restarted.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    heartbeat_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """A snapshot of an engine's process. ``memory`` in bytes, ``load_time`` in seconds; ``pid`` 0 = none.

    ``passed_over``: for each preferred engine that is not used, by its name, a sentence why.
    """

    state: State
    message: str = ""
    description: Description | None = None
    pid: int = 0
    memory: int = 0
    load_time: float = 0.0
    restarts: int = 0
    passed_over: Mapping[str, str] = field(default_factory=dict)


class Call:
    """A running request."""

    def __init__(self, process: EngineProcess, identifier: int, deliver: Deliver) -> None:
        self._process = process
        self._identifier = identifier
        self.deliver = deliver

    def cancel(self) -> None:
        """Ask the engine to stop; returns at once. A last chunk or an error is still delivered."""
        self._process._send("cancel", self._identifier)

    def kill(self, reason: str) -> None:
        """Kill an unresponsive worker; it is restarted. ``reason`` completes "was killed: ..."."""
        self._process.kill(reason)


class EngineProcess:
    """An engine in a process of its own.

    ``on_change`` is called with a :class:`Health` whenever a field other than ``memory`` changes; like every
    ``deliver`` callback it runs on this object's thread and must return quickly.
    """

    def __init__(self, spec: EngineSpec, on_change: Callable[[Health], None]) -> None:
        self.spec = spec
        self._on_change = on_change
        self._lock = threading.Lock()
        self._health = Health(State.LOADING, f"loading engine {spec.name!r}")
        self._connection: Connection | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._calls: dict[int, Call] = {}
        self._next_identifier = 0
        self._failures = 0
        self._failed_loads = 0
        self._was_ready = False
        self._killed_because = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"engine-{spec.name}", daemon=True)
        self._thread.start()

    @property
    def health(self) -> Health:
        """The current state of the process."""
        return self._health

    def submit(self, request: Request, deliver: Deliver) -> Call:
        """Send ``request`` to the worker.

        Args:
            request: The request.
            deliver: Called with each chunk as it arrives; the last call has a finish reason or is an EngineError.

        Raises:
            EngineNotReady: No model is loaded.
        """
        descriptor, sizes = pack(request)
        try:
            with self._lock:
                if self._health.state is not State.READY or self._connection is None or self._child is None:
                    raise EngineNotReady(self._health.message or f"engine {self.spec.name!r} is not loaded")
                identifier = self._next_identifier
                self._next_identifier += 1
                call = self._calls[identifier] = Call(self, identifier, deliver)
                try:
                    self._connection.send(("generate", identifier, sizes))
                    reduction.send_handle(self._connection, descriptor, self._child.pid)
                except OSError as error:
                    del self._calls[identifier]
                    self._health = replace(self._health, state=State.RESTARTING, message="the process just died")
                    self._child.kill()  # it may have received half a message and would misread the next
                    raise EngineNotReady(f"engine {self.spec.name!r} just died; it is being restarted") from error
        finally:
            os.close(descriptor)
        return call

    def kill(self, reason: str) -> None:
        """Kill an unresponsive worker; it is restarted. ``reason`` completes the phrase "was killed: ..."."""
        with self._lock:
            if self._child is not None:
                self._killed_because = reason
                self._health = replace(self._health, state=State.RESTARTING, message=f"killed: {reason}")
                self._child.kill()

    def close(self, timeout: float = 0.6) -> None:
        """Close the worker, or kill it after ``timeout`` seconds; ``on_change`` is not called any more. Idempotent."""
        self._closing.set()
        self._send("close")
        self._thread.join(timeout)
        with self._lock:
            child = self._child
        if child is not None:
            child.kill()
        self._thread.join()

    def _send(self, *message: Any) -> None:
        with self._lock:
            if self._connection is not None:
                with suppress(OSError):  # it died; the supervising thread notices and reports that
                    self._connection.send(message)

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._health = replace(self._health, **fields)
        if not self._closing.is_set():
            self._on_change(self._health)

    def _supervise(self) -> None:
        """Start the worker, relay its messages and restart it when it dies, until closed or the engine has failed."""
        pause = 0.0
        while not self._closing.wait(pause):
            try:
                self._start()
                error = self._relay()
                crash = self._reap()
            except Exception as problem:  # noqa: BLE001 such as no memory for a process, a broken message: try again
                error, crash = None, f"engine {self.spec.name!r} could not be run ({type(problem).__name__}: {problem})"
                self._abandon()
            if self._closing.is_set():
                break
            if isinstance(error, ModelNotFound) and not self._was_ready:
                # A broken model stays broken. One that was loaded before is being replaced: it may soon be whole.
                self._end_calls(error)
                self._change(state=State.FAILED, message=str(error), description=None, pid=0, memory=0)
                self._closing.wait()
                return
            crash = crash if error is None else str(error)
            self._failures += 1
            # EngineNotReady, such as from a server that is not there yet, is retried without limit.
            self._failed_loads += not isinstance(error, EngineNotReady)
            if self._failed_loads < _LOAD_ATTEMPTS:
                state, pause = State.RESTARTING, _BACKOFF[min(self._failures, len(_BACKOFF)) - 1]
                what_next = f"restarting in {pause:g} s"
            else:
                state, pause = State.OUT, _RETRY_LOADING
                what_next = f"loading failed {self._failed_loads} times, it is tried every {pause:g} s"
            self._change(
                state=state,
                message=f"{crash}; {what_next}",
                pid=0,
                memory=0,
                restarts=self._health.restarts + 1,
            )
            # The question that was being answered may have caused a crash; it has not caused an EngineNotReady.
            kind = EngineNotReady if isinstance(error, EngineNotReady) else EngineCrashed
            self._end_calls(kind(f"{crash}; it is being restarted, ask again"))
        self._end_calls(EngineNotReady(f"engine {self.spec.name!r} was closed"))
        self._change(state=State.CLOSED, message="closed", description=None, pid=0, memory=0)

    def _start(self) -> None:
        child, connection = child_python.start_connected(
            "qwen3vl_ros.engines.worker",
            self.spec.name,
            dict(self.spec.config),
            death_signal=signal.SIGKILL,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the node alone
        )
        with self._lock:
            self._child = child
            self._connection = connection
            self._killed_because = ""
        if self._closing.is_set():  # close() came before there was a process to close
            child.kill()
        self._change(state=State.LOADING, message=f"loading engine {self.spec.name!r}", pid=child.pid)

    def _relay(self) -> EngineError | None:
        """Relay the worker's messages until it ends; return the error that it reported, None if it died."""
        connection = self._connection
        assert connection is not None
        last_sign = time.monotonic()
        arrival = select.poll()  # Connection.poll() creates a selector each time, which costs more than the message
        arrival.register(connection, select.POLLIN)
        while True:
            try:
                if not arrival.poll(self.spec.heartbeat_timeout * 1e3):
                    # Both processes may have been suspended together (a debugger, machine sleep): check once more.
                    silence = time.monotonic() - last_sign
                    if not connection.poll(0):
                        self.kill(f"no sign of life for {silence:.0f} s")
                        return None
                message = connection.recv()
            except (EOFError, OSError):
                return None
            last_sign = time.monotonic()
            kind = message[0]
            if kind == "chunk":
                _, identifier, (stage, *others) = message
                chunk = Chunk(_STAGES[stage], *others)
                self._deliver(identifier, chunk, last=chunk.finish_reason is not None)
            elif kind == "error":
                self._deliver(message[1], message[2], last=True)
            elif kind == "alive":
                with self._lock:
                    self._health = replace(self._health, memory=message[1])
            elif kind == "loading" and self._health.state is State.LOADING:
                self._change(message=f"loading engine {self.spec.name!r}: {message[1]}")
            elif kind == "ready":
                self._failed_loads, self._was_ready = 0, True
                self._change(state=State.READY, message="", description=message[1], load_time=message[2])
            elif kind == "failed":
                return message[1]  # type: ignore[no-any-return]

    def _deliver(self, identifier: int, item: Chunk | EngineError, *, last: bool) -> None:
        if last:
            self._failures = 0
            with self._lock:
                call = self._calls.pop(identifier, None)
        else:
            call = self._calls.get(identifier)
        if call is not None:
            call.deliver(item)

    def _end_calls(self, error: EngineError) -> None:
        with self._lock:
            calls = list(self._calls.values())
            self._calls.clear()
        for call in calls:
            call.deliver(error)

    def _abandon(self) -> None:
        """Kill a process that failed to start or whose messages cannot be read."""
        with self._lock:
            child, connection = self._child, self._connection
            self._child = self._connection = None
        if connection is not None:
            connection.close()
        if child is not None:
            child_python.end(child)

    def _reap(self) -> str:
        """Wait for the dead worker; return a phrase that says how it died."""
        with self._lock:
            child, connection = self._child, self._connection
            self._child = self._connection = None
            self._health = replace(self._health, state=State.RESTARTING)
        assert child is not None
        assert connection is not None
        connection.close()
        status = child_python.end(child, 1.0)  # kills it if it closed the socket but still runs
        name = f"the process of engine {self.spec.name!r} (pid {child.pid})"
        if self._killed_because:
            return f"{name} was killed: {self._killed_because}"
        if status >= 0:
            return f"{name} ended with exit status {status}"
        reason = signal.Signals(-status).name
        hint = " (out of memory, if nobody sent it: see dmesg)" if reason == "SIGKILL" else ""
        return f"{name} died of {reason}{hint}"
