"""A thread that spins an executor and can be stopped, and whether this thread is one.

What rclpy lacks: an ``Executor.shutdown()`` that waits for the thread that spins. In rclpy 7.1 and 9.1 it frees the
executor's guard conditions while that thread is about to wait for them, which then dies of "'NoneType' object has no
attribute 'handle'", or ends a callback with "cannot use Destroyable because destruction was requested"
(https://github.com/ros2/rclpy/issues/968).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress

from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor


class SpinThread:
    """Spins ``executor`` between :meth:`start` and :meth:`stop`. Nodes are destroyed, and ROS is shut down, after that.

    Args:
        executor: Spun by nobody else.
        name: Of the thread.
        on_failure: Called, on the thread, when a callback has raised, which ends it.
    """

    def __init__(self, executor: Executor, name: str, on_failure: Callable[[], None] = lambda: None) -> None:
        self._executor = executor
        self._on_failure = on_failure
        self._stopped = False
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience: float | None = None) -> None:
        """End the thread, then shut the executor down.

        Args:
            patience: Seconds that the callback which the thread runs now may take; None = as long as it takes. One that
                takes longer keeps the thread and the executor; ROS can be shut down all the same, which ends them.
        """
        self._stopped = True
        self._executor.create_task(lambda: None)  # spin_once() returns when it has done something
        self._thread.join(patience)
        if self._thread.is_alive():
            return
        if isinstance(self._executor, MultiThreadedExecutor):
            self._executor._executor.shutdown()  # its pool: callbacks there use what is freed next
        self._executor.shutdown()

    def _spin(self) -> None:
        try:
            with suppress(ExternalShutdownException):
                while self._executor.context.ok() and not self._stopped:
                    self._executor.spin_once()
        except BaseException:
            self._on_failure()
            raise


def is_spun_here(executor: Executor) -> bool:
    """Return whether this thread is inside of a spin function of ``executor``, in one of its callbacks, say.

    What rclpy lacks: any way to ask that, without which a call that waits for another callback waits for ever
    (https://github.com/ros2/rclpy/pull/873). So this looks for a method of the executor that is called spin-something
    among those that have called us.
    """
    frame = inspect.currentframe()
    while frame is not None and not ("spin" in frame.f_code.co_name and frame.f_locals.get("self") is executor):
        frame = frame.f_back
    return frame is not None
