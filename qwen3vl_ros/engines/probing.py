"""Asks engines whether they could be used, without loading a model.

Probes run in a child process, because a native library may crash or hang at import.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen3vl_ros.engines import child_python, registry
from qwen3vl_ros.engines.base import EngineError, ModelNotFound
from qwen3vl_ros.engines.process import EngineSpec

PROBE_TIMEOUT = 15.0
"""Seconds that the engines of a probe have together; each should take one or two."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe. ``usable`` None: not now, but perhaps later; False: a person has to change something."""

    name: str
    usable: bool | None
    sentence: str


class Probe:
    """Iterates over a finding for each of ``specs``, in order, as soon as it is known; :meth:`close` it when done."""

    def __init__(self, specs: Sequence[EngineSpec]) -> None:
        self._left = list(specs)
        self._lock = threading.Lock()
        self._closed = False
        self._child: subprocess.Popen[str] | None = None

    def __iter__(self) -> Iterator[Finding]:
        while self._left:
            child = self._start()
            if child is None:
                return
            assert child.stdout is not None
            alarm = threading.Timer(PROBE_TIMEOUT, child.kill)
            alarm.daemon = True
            alarm.start()
            try:
                with child:
                    for line in child.stdout:
                        yield Finding(self._left.pop(0).name, *json.loads(line))
            finally:
                alarm.cancel()
            if self._left and not self._closed:
                how = f"ended its process (status {child.returncode}; it has {PROBE_TIMEOUT:g} s)"
                yield Finding(self._left.pop(0).name, None, f"asking whether it can be used {how}")

    def close(self) -> None:
        """Stop, from any thread; the iteration ends."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                child_python.end(self._child)

    def _start(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._closed:
                return None
            self._child = child_python.start(
                __name__,
                [(spec.name, dict(spec.config)) for spec in self._left],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # a Ctrl-C in the terminal reaches the caller alone
            )
            return self._child


def main(specs: Sequence[tuple[str, dict[str, object]]]) -> None:
    """Write one line of JSON for each spec; the child process runs this."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # prints of libraries, native ones too, go to stderr
    for name, config in specs:
        print(json.dumps(_ask(name, config)), file=answers, flush=True)


def _ask(name: str, config: dict[str, object]) -> tuple[bool | None, str]:
    try:
        engine = registry.load(name)
        probe = getattr(engine, "probe", None)
        return True, "installed" if probe is None else probe(**config)
    except ModelNotFound as error:
        return False, str(error)
    except EngineError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 a third party's engine may fail in any way
        return False, f"asking whether it can be used failed with {type(error).__name__}: {error}"
