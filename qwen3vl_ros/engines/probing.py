"""Asks engines whether they could be used, without loading a model: in a process apart, where a native library that
crashes or hangs at import harms nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from qwen3vl_ros.engines import registry
from qwen3vl_ros.engines.base import EngineError, ModelNotFound
from qwen3vl_ros.engines.process import EngineSpec

PROBE_TIMEOUT = 15.0
"""Seconds that all engines together get; each is to take one or two."""

_START = (
    "import json, sys; specs, path = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from qwen3vl_ros.engines.probing import main; main(specs)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found. ``usable`` None: not now, but perhaps later; False: a person has to change something."""

    name: str
    usable: bool | None
    sentence: str


def probe(specs: Sequence[EngineSpec]) -> Iterator[Finding]:
    """One finding for each spec, in order, as it is known. Blocks; closing the iterator ends the process."""
    left = list(specs)
    while left:
        child = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([[(s.name, dict(s.config)) for s in left], sys.path])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C in the terminal is for the caller
        )
        alarm = threading.Timer(PROBE_TIMEOUT, child.kill)
        alarm.daemon = True
        alarm.start()
        assert child.stdout is not None
        try:
            for line in child.stdout:
                yield Finding(left.pop(0).name, *json.loads(line))
        finally:
            late = not alarm.is_alive()
            alarm.cancel()
            child.kill()
            child.stdout.close()
            status = child.wait()
        if left:
            reason = f"did not answer within {PROBE_TIMEOUT:g} s" if late else f"ended its process (status {status})"
            yield Finding(left.pop(0).name, None, f"its probe {reason}")


def main(specs: Sequence[tuple[str, dict[str, object]]]) -> None:
    """The process: one line of JSON for each spec."""
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not an answer
    for name, config in specs:
        print(json.dumps(_probe_here(name, config)), file=answer, flush=True)
    with suppress(OSError):
        answer.close()


def _probe_here(name: str, config: dict[str, object]) -> tuple[bool | None, str]:
    try:
        engine = registry.load(name)
        ask = getattr(engine, "probe", None)
        return True, ask(**config) if ask is not None else "installed; it has no probe"
    except ModelNotFound as error:
        return False, str(error)
    except EngineError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 a third party's engine may fail in any way
        return False, f"its probe failed with {type(error).__name__}: {error}"
