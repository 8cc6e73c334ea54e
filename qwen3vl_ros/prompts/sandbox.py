"""Runs what a caller or a model can make slow in processes that can be killed.

A thread cannot be stopped, and a regular expression in one keeps all others from running as long as it takes.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from qwen3vl_ros.engines import child_python
from qwen3vl_ros.engines.base import Cancel

Result = TypeVar("Result")

_BOOT_TIME: Final = 30.0
"""Seconds that a process gets to import what it needs; a loaded machine takes several."""

_MEMORY: Final = 1 << 30
"""Bytes of address space that a process may take."""

_OVERTIME: Final = 1.0
"""Seconds beyond its time after which a process ends by itself, should nobody be there to kill it."""


class Killed(Exception):
    """The function did not return: its time was up, or somebody ended it."""


class Sandbox:
    """Calls functions of this package in processes of their own. Any thread may call any method.

    As many calls run side by side as there are callers; one process is kept for the next call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: _Process | None = None
        self._running: set[_Process] = set()
        self._closed = False

    def warm_up(self) -> None:
        """Start the process of the next call, unless there is one: it boots while its caller does something else."""
        with self._lock:
            if self._idle is None and not self._closed:
                self._idle = _Process()

    def run(
        self,
        function: Callable[..., Result],
        *arguments: Any,
        timeout: float,
        cancel: Cancel,
    ) -> Result:
        """Return what ``function(*arguments)`` returns; everything in that can be pickled.

        Args:
            function: A function at the top level of one of this package's modules.
            *arguments: What it is called with.
            timeout: Seconds that it gets; booting the process does not count.
            cancel: Ends the call early.

        Raises:
            Killed: it did not return within ``timeout``, took too much memory, or was ended.
            ValueError: ``function`` raised it.
            RuntimeError: ``function`` raised something else.
        """
        with self._lock:
            if self._closed:
                raise Killed("everything was closed")
            idle, self._idle = self._idle, None
            process = idle if idle is not None and idle.is_alive else _Process()
            self._running.add(process)

        def end() -> None:
            with self._lock:
                if process in self._running:  # and not in somebody else's call
                    process.kill()

        try:
            with cancel.calling(end):
                return process.call(function, arguments, timeout)  # type: ignore[no-any-return]
        except BaseException as error:
            if not isinstance(error, ValueError):
                process.kill()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
                keep = self._idle is None and not self._closed and process.is_alive
                if keep:
                    self._idle = process
            if not keep:
                process.close()

    def close(self) -> None:
        """Kill every process; calls that run end with :class:`Killed`. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, None
            for process in self._running:
                process.kill()
        if idle is not None:
            idle.close()


class _Process:
    """One process, for one call at a time."""

    def __init__(self) -> None:
        self._child, self._connection = child_python.start_connected(
            __name__,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the node alone
        )
        self._booted = False

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> Any:
        try:
            if not self._booted:
                if not self._connection.poll(_BOOT_TIME):
                    raise Killed(f"its process did not start within {_BOOT_TIME:g} s")
                self._connection.recv()
                self._booted = True
            self._connection.send((function, arguments, timeout))
            if not self._connection.poll(timeout):
                raise Killed(f"it takes longer than {timeout:.3g} s")
            result, error = self._connection.recv()
        except (EOFError, OSError) as problem:
            raise Killed("its process was killed") from problem
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """End it, whatever it does; the thread in :meth:`call` notices. Idempotent."""
        child_python.end(self._child)

    def close(self) -> None:
        """End it; nobody calls any more."""
        self.kill()
        self._connection.close()


def main(descriptor: int) -> None:
    """Serve calls on the socket ``descriptor`` until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    import qwen3vl_ros.prompts.schema
    import qwen3vl_ros.vision.compressed  # noqa: F401 what is called, so that no call has to wait for it

    connection = Connection(descriptor)
    with suppress(EOFError, OSError):  # the caller is gone
        connection.send("booted")
        while True:
            function, arguments, timeout = connection.recv()
            # The kernel ends this process even in the middle of a regular expression, and when the caller is dead.
            signal.setitimer(signal.ITIMER_REAL, timeout + _OVERTIME)
            answer: tuple[Any, Exception | None]
            try:
                answer = function(*arguments), None
            except ValueError as error:
                answer = None, ValueError(str(error))
            except Exception as error:  # noqa: BLE001 raised again where the function was called
                answer = None, RuntimeError(f"{type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            connection.send(answer)
