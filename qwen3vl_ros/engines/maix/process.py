"""The engine's side of :mod:`qwen3vl_ros.engines.maix.host`: the process is started, listened to, and ended."""

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
"""What the process says; or ``("died", how)``, last; or ``("woken",)``."""

_HOST = "qwen3vl_ros.engines.maix.host"


class MaixProcess:
    """MaixPy with ``model``, in a process of its own. Loads at once; ``restart``: with a fresh service.

    ``loading``: it is not ready yet. ``answering``: it was asked, and is not done. Both change in :meth:`next` only.
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
        """Send ``message``; a process that is dead says so in :meth:`next`."""
        with suppress(OSError):
            self._connection.send(message)
        self.answering = self.answering or message[0] == "ask"

    def next(self, timeout: float | None = None) -> Event | None:
        """What it says next; None when it says nothing for ``timeout`` seconds. Never after it died."""
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
        """Have :meth:`next` return ``("woken",)``; from any thread."""
        self._events.put(("woken",))

    def release(self) -> None:
        """Have it release the model and end, however long that takes; nobody waits for it. Idempotent."""
        self.tell("close")

    def kill(self) -> None:
        """End it at once. A service that it uses goes on with what it does."""
        self._child.kill()

    def close(self, timeout: float) -> None:
        """Have it release the model; kill it after ``timeout`` seconds. Idempotent; no call may follow."""
        self.release()
        self._thread.join(timeout)
        self._child.kill()
        self._thread.join()
        self._connection.close()
