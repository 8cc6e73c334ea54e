"""Starts the process that owns OpenVINO GenAI's pipeline, starts it again when it dies, and sends it jobs."""

from __future__ import annotations

import os
import queue
import signal
import threading
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from subprocess import Popen
from typing import Any, TypeAlias

from qwen3vl_ros.engines import child_python
from qwen3vl_ros.engines.base import EngineCrashed, EngineError, EngineNotReady
from qwen3vl_ros.engines.worker import pack

Event: TypeAlias = tuple[str, Any]
"""("encoded", seconds), ("tokens", list), ("end", (finish reason, prompt tokens)), ("error", EngineError) or
("wake", None)."""

_AGAIN = "it is being started again, ask again."


class Run:
    """One answer of the pipeline. ``events`` receives :data:`Event` s; after "end" or "error" there are no others."""

    def __init__(self, process: PipelineProcess, identifier: int) -> None:
        self._process = process
        self._identifier = identifier
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def wake(self) -> None:
        """Wake the reader of ``events``."""
        self.events.put(("wake", None))

    def cancel(self) -> None:
        """Have the pipeline drop the answer, after its current step; no event follows. Harmless after the end."""
        self._process.cancel(self._identifier)


class PipelineProcess:
    """The process :mod:`qwen3vl_ros.engines.openvino.pipeline`.

    One thread starts it, waits for its messages, and starts it again when it dies. Running answers then end with
    EngineCrashed, and new ones with EngineNotReady until the model is loaded.
    """

    def __init__(self, *arguments: Any) -> None:
        """Start the process and wait until the model is loaded.

        Args:
            *arguments: Those of the process' ``main`` after the socket: JSON values.

        Raises:
            RuntimeError: OpenVINO cannot load the model; the text is OpenVINO's.
            EngineError: The process died while it was loading.
        """
        self._arguments = arguments
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._child: Popen[bytes] | None = None
        self._runs: dict[int, Run] = {}
        self._next = 0
        self._closing = False
        self._why_not = f"OpenVINO's process died; {_AGAIN}"
        self._loaded: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._supervise, name="openvino pipeline", daemon=True)
        self._thread.start()
        error = self._loaded.get()
        if error is not None:
            self._thread.join()
            raise error

    def start(self, job: Any) -> Run:
        """Send a :class:`~qwen3vl_ros.engines.openvino.pipeline.Job`; raises EngineNotReady while there is no model."""
        descriptor, sizes = pack(job)
        try:
            with self._lock:
                if self._connection is None or self._child is None:
                    raise EngineNotReady(self._why_not)
                identifier = self._next
                self._next += 1
                run = self._runs[identifier] = Run(self, identifier)
                with suppress(OSError):  # it just died: the thread notices, and reports that
                    self._connection.send(("generate", identifier, sizes))
                    reduction.send_handle(self._connection, descriptor, self._child.pid)
        finally:
            os.close(descriptor)
        return run

    def cancel(self, identifier: int) -> None:
        """See :meth:`Run.cancel`."""
        with self._lock:
            if self._runs.pop(identifier, None) is not None and self._connection is not None:
                with suppress(OSError):
                    self._connection.send(("cancel", identifier))

    def close(self) -> None:
        """End the process, whatever it is doing. Idempotent."""
        with self._lock:
            self._closing = True
            if self._child is not None:
                self._child.kill()
        self._thread.join()

    def _supervise(self) -> None:
        failure: Exception | None = None
        while failure is None and not self._closing:
            # This thread starts it: Linux sends the death signal when the thread that started a process ends.
            child, connection = child_python.start_connected(
                "qwen3vl_ros.engines.openvino.pipeline", *self._arguments, death_signal=signal.SIGKILL
            )
            with self._lock:
                self._child = child
                if self._closing:  # close() came before there was a process to kill
                    child.kill()
            loaded, failure = self._relay(connection)
            with self._lock:
                self._connection = None
                runs, self._runs = self._runs, {}
            connection.close()
            how = _how(child_python.end(child, 1.0))
            with self._lock:
                self._child = None
                if not loaded:
                    failure = failure or EngineError(f"OpenVINO's process {how} while it was loading the model.")
                    self._why_not = f"OpenVINO's process could not be started again: {failure}"
            for run in runs.values():
                run.events.put(("error", EngineCrashed(f"OpenVINO's process {how}; {_AGAIN}")))
        self._loaded.put(failure)

    def _relay(self, connection: Connection) -> tuple[bool, Exception | None]:
        """Pass messages on until the process ends; return whether it had loaded the model, else OpenVINO's reason."""
        loaded = False
        with suppress(EOFError, OSError):
            while True:
                kind, *rest = connection.recv()
                if kind == "failed":
                    return False, RuntimeError(rest[0])
                if kind == "ready":
                    loaded = True
                    with self._lock:
                        self._connection = connection
                    self._loaded.put(None)
                    continue
                identifier, content = rest
                with self._lock:
                    run = self._runs.get(identifier)
                    if kind in ("end", "error"):
                        self._runs.pop(identifier, None)
                if run is not None:
                    run.events.put((kind, content))
        return loaded, None


def _how(status: int) -> str:
    """Return how a process with an exit status ended."""
    if status >= 0:
        return f"ended with exit status {status}"
    hint = " (out of memory, if nobody sent it: see dmesg)" if status == -signal.SIGKILL else ""
    return f"died of {signal.Signals(-status).name}{hint}"
