"""This machine, as far as it decides which model to run: processor, memory and disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Machine:
    """``cores``: those this process may use. Memory and disk are bytes; ``memory_free`` and ``disk_free`` now.

    ``bf16``: the processor multiplies BF16, which the speed of OpenVINO and of a BF16 projector depends on.
    """

    cpu: str
    cores: int
    memory: int
    memory_free: int
    disk_free: int
    bf16: bool

    @property
    def key(self) -> str:
        """What a measurement of speed belongs to."""
        return f"{platform.node()}, {self.cpu}, {self.cores} cores"


def this_machine(disk: Path | None = None, proc: Path = _PROC) -> Machine:
    """Return what is known of this machine.

    Args:
        disk: Where models go; need not exist yet. None = Hugging Face's cache.
        proc: The file system of the kernel's figures.
    """
    disk = disk or Path(os.environ.get("HF_HOME") or Path.home())
    cpuinfo, meminfo = _read(proc / "cpuinfo"), _read(proc / "meminfo")
    model = re.search(r"^(?:model name|Model)\s*: *(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: *(.+)$", cpuinfo, re.MULTILINE)
    existing = next(place for place in (disk.absolute(), *disk.absolute().parents) if place.exists())
    return Machine(
        cpu=model[1].strip() if model else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory=_kilobytes(meminfo, "MemTotal"),
        memory_free=_kilobytes(meminfo, "MemAvailable"),
        disk_free=shutil.disk_usage(existing).free,
        bf16=bool(flags and {"avx512_bf16", "amx_bf16"} & set(flags[1].split())),
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _kilobytes(meminfo: str, name: str) -> int:
    """Return bytes; 0 where the kernel does not say."""
    found = re.search(rf"^{name}: +(\d+) kB$", meminfo, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
