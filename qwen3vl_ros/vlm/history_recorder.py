"""Fills the histories of cameras, on one thread that works only while somebody needs them."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from qwen3vl_ros import defect
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vlm import large_buffers
from qwen3vl_ros.vlm.cameras import Camera
from qwen3vl_ros.vlm.frame_source import Frame
from qwen3vl_ros.vlm.history import RESTART, KeptFrame, kept_frame
from qwen3vl_ros.vlm.storage_parameters import History as HistorySettings

_REPORT_PERIOD = 1.0
"""Least seconds between two calls of ``on_change``."""


class HistoryRecorder:
    """Takes a frame of each camera at ``history.rate`` and keeps it, while somebody needs that.

    Somebody does with ``history.always``, while :meth:`held`, and for ``history.seconds`` after that. Then the frames
    of that camera are dropped, and where none is needed the thread waits without a time-out.

    Args:
        cameras: By name.
        settings: As they were when the node was configured.
        on_change: Called on the recorder's thread when histories have changed, once a second at most.
        log_error: Takes a sentence about a frame that cannot be kept, once for each camera.
    """

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        settings: HistorySettings,
        on_change: Callable[[], None],
        log_error: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self._cameras = cameras
        self._on_change = on_change
        self._log_error = log_error
        self._problems: dict[str, str] = {}
        self._taken: dict[str, int] = {}
        self._wake = threading.Condition()
        self._holders = collections.Counter(list(cameras) if settings.always else ())
        self._needed_until: dict[str, float] = {}
        self._closed = False
        self._keeps_buffers = False
        self._reported = 0.0
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def period(self) -> float:
        """Seconds between two frames."""
        return 1.0 / self.settings.rate

    def problem(self, camera: str) -> str:
        """Return why the last frame of a camera could not be kept, "" if it was."""
        return self._problems.get(camera, "")

    @contextmanager
    def held(self, camera: str) -> Iterator[None]:
        """Keep frames of the camera of that name within the block, and for ``history.seconds`` after it."""
        with self._wake:
            self._holders[camera] += 1
            self._wake.notify()
        try:
            yield
        finally:
            with self._wake:
                self._holders[camera] -= 1
                self._needed_until[camera] = time.monotonic() + max(self.settings.seconds, 2 * self.period)
                self._wake.notify()

    def keep(self, camera: Camera, frame: Frame) -> KeptFrame:
        """Add a frame that a question took to its camera's history, and return it as kept. Raises BadImage."""
        kept = kept_frame(frame.view(), camera.stamp_of(frame), self.settings.max_side)
        camera.history.add(kept)
        return kept

    def close(self) -> None:
        """End the thread and drop all frames."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._clear(self._cameras)
        if self._keeps_buffers:
            large_buffers.return_at_once()

    @property
    def _needed(self) -> list[str]:
        """Names of the cameras whose frames somebody needs."""
        now = time.monotonic()
        return [name for name in self._cameras if self._holders[name] > 0 or now < self._needed_until.get(name, 0.0)]

    def _run(self) -> None:
        due = time.monotonic()
        while (needed := self._wait(due)) is not None:
            due = max(due + self.period, time.monotonic())
            changed = False
            for name in needed:
                try:
                    changed |= self._take(name, self._cameras[name])
                except Exception as error:  # noqa: BLE001 a defect with one camera must not end the others' history
                    self._report_problem(name, defect(f"{type(error).__name__}: {error}"))
            if changed and time.monotonic() - self._reported >= _REPORT_PERIOD:
                self._reported = time.monotonic()
                self._on_change()

    def _wait(self, due: float) -> list[str] | None:
        """Wait until frames are needed and ``due``; drop those that nobody needs.

        Returns:
            Names of the cameras whose frames are needed; None once closed.
        """
        with self._wake:
            if not self._closed:
                self._clear(self._cameras.keys() - self._needed)
            if not self._closed and not self._needed:
                if self._keeps_buffers:
                    large_buffers.return_at_once()
                    self._keeps_buffers = False
                self._wake.wait_for(lambda: self._closed or self._needed)
            if not self._closed and not self._keeps_buffers:
                large_buffers.keep()
                self._keeps_buffers = True
            while not self._closed and (left := due - time.monotonic()) > 0:
                self._wake.wait(left)
            return None if self._closed else self._needed

    def _take(self, name: str, camera: Camera) -> bool:
        """Keep the newest frame of a camera; return whether there was another one than before."""
        frame = camera.frames.newest()
        if frame is None:
            return False
        stamp, taken = camera.stamp_of(frame), self._taken.get(name)
        # Half a period: where simulated time is slow, the camera's time decides how many frames a second are kept.
        if taken is not None and taken - RESTART <= stamp < taken + self.period * 0.5e9:
            return False
        self._taken[name] = stamp
        try:
            kept = kept_frame(frame.view(), stamp, self.settings.max_side)
        except BadImage as error:
            self._report_problem(name, str(error))
            return False
        self._problems.pop(name, None)
        return camera.history.add(kept)

    def _report_problem(self, name: str, problem: str) -> None:
        if self._problems.get(name) != problem:
            self._problems[name] = problem
            self._log_error(f"a frame of camera {name!r} is not kept: {problem}")

    def _clear(self, names: Iterable[str]) -> None:
        for name in names:
            self._taken.pop(name, None)
            self._cameras[name].history.clear()
