"""Starts, reads and ends the process of :mod:`qwen3vl_ros.engines.maix.host` for the engine."""

from __future__ import annotations

import queue
import signal
import threading
import time
from contextlib import suppress
from typing import Any, TypeAlias

from qwen3vl_ros.engines import child_python
from qwen3vl_ros.engines.maix.model import MaixModel

Event: TypeAlias = tuple[Any, ...]
"""A message of the process; or ``("died", how)``, the last one; or ``("woken",)``."""

_HOST = "qwen3vl_ros.engines.maix.host"


class MaixProcess:
    """A child process that loads ``model`` into MaixPy, after a restart of the service with ``restart``.

    ``loading``: "ready" was not read yet. ``answering``: a question was sent, and "done" was not read yet.
    """

    def __init__(self, model: MaixModel, restart: bool) -> None:
        self._child, self._connection = child_python.start_connected(
            _HOST, str(model.path), model.model_class, model.service_url, restart
        )
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._listen, name="maix", daemon=True)
        self._thread.start()
        self.started = time.monotonic()
        self.loading = True
        self.answering = False

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._events.put(self._connection.recv())
        status = self._child.wait()
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        self._events.put(("died", f"MaixPy's process (pid {self._child.pid}) {how}"))

    def tell(self, *message: Any) -> None:
        """Send ``message``; that the process is dead is reported by :meth:`next`."""
        with suppress(OSError):
            self._connection.send(message)
        self.answering = self.answering or message[0] == "ask"

    def next(self, timeout: float | None = None) -> Event | None:
        """Return the next event, None after ``timeout`` seconds without one. Do not call it after "died"."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event[0] == "ready":
            self.loading = False
        elif event[0] == "done":
            self.answering = False
        return event

    def wake(self) -> None:
        """Make :meth:`next` return ``("woken",)``; from any thread."""
        self._events.put(("woken",))

    def release(self) -> None:
        """Tell the process to release the model and end, without waiting for it. Idempotent."""
        self.tell("close")

    def kill(self) -> None:
        """Kill the process at once. A service that it uses continues its work."""
        self._child.kill()

    def close(self, timeout: float) -> None:
        """Release the model; kill the process after ``timeout`` seconds. Idempotent; no call may follow."""
        self.release()
        self._thread.join(timeout)
        self._child.kill()
        self._thread.join()
        self._connection.close()
