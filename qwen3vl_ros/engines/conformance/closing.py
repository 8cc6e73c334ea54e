"""The conformance tests of loading and closing an engine, and of what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3vl_ros.engines.base import Chunk
from qwen3vl_ros.engines.conformance.harness import EngineHarness


class Closing(EngineHarness):
    """Tests of loading and closing."""

    def test_loading_reports_in_sentences(self, unloaded: None, config: Mapping[str, Any]) -> None:  # noqa: ARG002
        """``progress``, which the worker passes and people read, gets sentences; the other tests do not pass it."""
        sentences: list[Any] = []
        self.close(self.load(config, progress=sentences.append))
        assert all(isinstance(text, str) and text for text in sentences), f"progress got {sentences}"

    def test_closed_engine_can_be_closed_again_and_another_one_opened(
        self,
        whole: list[Chunk],
        unloaded: None,  # noqa: ARG002
        config: Mapping[str, Any],
    ) -> None:
        """``close()`` is idempotent, and frees nothing that the next engine needs."""
        engine = self.load(config)
        self.assert_still_answers(engine, whole)
        self.close(engine)
        self.close(engine)

    def test_closed_engine_leaves_nothing_behind(self, unloaded: None, config: Mapping[str, Any]) -> None:  # noqa: ARG002
        """No thread, file, socket, process or shared memory is left, even after cancelled or closed answers."""
        self._live(config)  # libraries open some things once and keep them; those are not the engine's
        before = held()
        mapped = self._live(config)
        deadline = time.monotonic() + self.patience
        while (left := held() - before | {f"{path}, which it had mapped" for path in mapped if path.exists()}) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert not left, f"left behind by closed engines: {sorted(left)}"

    def _live(self, config: Mapping[str, Any]) -> set[Path]:
        """Load an engine, use and close it; return the shared memory that it used."""
        before = _mapped()
        engine = self.load(config)
        self.ask(engine, self.long_request(engine))
        with self.asking(engine, self.to_cancel(engine)) as answer:
            answer.step()
            answer.cancel.set()
            answer.rest()
        with self.asking(engine, self.to_cancel(engine)) as answer:
            answer.step()
            answer.step()
        mapped = _mapped() - before
        self.close(engine)
        return mapped


def held() -> set[str]:
    """Return this process' open resources: threads, descriptors, child processes, shared memory."""
    gc.collect()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {task.name} {names.get(int(task.name), 'of a library')}" for task in Path("/proc/self/task").iterdir()
    }
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that listed the folder is closed by now
            found.add(f"descriptor {descriptor.name} {descriptor.readlink()}")
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            pid, rest = status.read_text(encoding="utf-8", errors="replace").split(" (", 1)
            name, after = rest.rsplit(") ", 1)
            if int(after.split()[1]) == os.getpid():
                found.add(f"child process {pid} {name}")
    return found | {f"shared memory {path}" for path in _mapped()}


def _mapped() -> set[Path]:
    """Return the named shared memory that this process maps."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/" in line and "(deleted)" not in line}
