"""Chooses the files of a model in a repository, checks disk and memory, and downloads them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.cli.hubs import EXAMPLE, HUBS, DownloadError, Hub, RemoteFile
from qwen3vl_ros.engines.machine import this_machine
from qwen3vl_ros.engines.openvino.files import MODEL_FILES

MODEL_QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F16")
"""Quantisations of the language model, in order of preference."""

MMPROJ_QUANTS = ("F16", "Q8_0", "BF16", "F32")
"""Quantisations of the projector, in order of preference. Q8_0 is half as large, less exact and no faster than F16."""

BF16_MMPROJ_QUANTS = ("BF16", "F16", "Q8_0", "F32")
"""The same for a processor that multiplies BF16, where BF16 encodes in 0.67 of Q8_0's time (docs/models.md)."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Paths. ``model``: the first part of a split GGUF file, or the directory of an OpenVINO model.

    ``mmproj``: None if the repository has none. ``engine``: the one that runs it.
    """

    model: Path
    mmproj: Path | None
    engine: str


@dataclass(frozen=True)
class Plan:
    """What a download fetches: ``files`` of a repository, the model's first; ``directory`` None = the hub's cache."""

    hub: Hub
    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    engine: str
    has_mmproj: bool = False
    directory: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(max(0, file.size - self.hub.present(self.repo, file, self.directory)) for file in self.files)

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.hub.place(self.repo, self.files[0], self.directory).parent

    def check_room(self) -> None:
        """Raise :class:`DownloadError` unless the disk has room for what is missing."""
        missing, folder = self.missing, self.folder
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < missing:
            elsewhere = f"set {self.hub.cache_variable}" if self.directory is None else "set --dir"
            raise DownloadError(
                f"{self.repo} needs {gigabytes(missing)} more in {folder}; it has {gigabytes(free)} free. Free some, "
                f"or {elsewhere} to another place."
            )

    def fetch(self) -> Downloaded:
        """Download what is missing: resumed, and every file compared with its SHA-256.

        Raises:
            DownloadError: A file cannot be downloaded.
        """
        places = [self.hub.fetch(self.repo, file, self.commit, self.directory) for file in self.files]
        if self.engine == "openvino":
            return Downloaded(places[0].parent, None, self.engine)
        return Downloaded(places[0], places[-1] if self.has_mmproj else None, self.engine)


def plan_any(
    hub: Hub,
    repo: str,
    *,
    quant: str = "",
    mmproj_quant: str = "",
    directory: Path | None = None,
    revision: str = "",
) -> Plan:
    """Choose the files of ``repo``: those of an OpenVINO model if it has one, else those of a GGUF model.

    Args:
        hub: Where it is.
        repo: OWNER/NAME.
        quant: Of a GGUF model, a name such as "Q4_K_M"; "" = the first of MODEL_QUANTS that the repository has.
        mmproj_quant: Of its projector, such as "Q8_0"; "" = the first that suits this machine: MMPROJ_QUANTS.
        directory: Has a folder for each repository, as files of different ones have the same name; None = the cache.
        revision: Branch, tag or commit; "" = the newest.

    Raises:
        DownloadError: There is no such repository or file.
    """
    commit, listed = hub.list_files(repo, revision)
    if any(file.name in MODEL_FILES and file.name.endswith(".xml") for file in listed):
        if quant or mmproj_quant:
            raise DownloadError(
                f"{repo} has an OpenVINO model, of one precision: leave --quant and --mmproj-quant out."
            )
        return Plan(hub, repo, commit, _openvino_files(repo, listed), "openvino", directory=directory)
    files = {file.name: file for file in listed}
    parts, mmproj = choose(repo, list(files), quant, mmproj_quant, bf16=this_machine().bf16)
    chosen = tuple(files[name] for name in [*parts, *([mmproj] if mmproj else [])])
    return Plan(hub, repo, commit, chosen, "llama", has_mmproj=mmproj is not None, directory=directory)


def _openvino_files(repo: str, listed: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return all but those for people."""
    files = [file for file in listed if "/" not in file.name and not file.name.startswith(".")]
    if missing := set(MODEL_FILES) - {file.name for file in files}:
        raise DownloadError(
            f"{repo} has no {', no '.join(sorted(missing))}, which the engine openvino needs: export the model "
            "yourself, docs/openvino.md says how, or take a GGUF model for llama."
        )
    return tuple(file for file in files if not file.name.lower().endswith((".md", ".png", ".jpg")))


def download(
    repo: str,
    *,
    hub: str = "huggingface",
    quant: str = "",
    mmproj_quant: str = "",
    directory: Path | None = None,
    revision: str = "",
    report: Callable[[str], None] = lambda _: None,
) -> Downloaded:
    """Download the model of a repository, and its projector.

    The arguments are those of :func:`plan_any`; ``hub`` names one of HUBS, ``report`` takes sentences about what is
    downloaded.

    Raises:
        DownloadError: A file does not exist, has no room or cannot be downloaded.
    """
    plan = plan_any(HUBS[hub], repo, quant=quant, mmproj_quant=mmproj_quant, directory=directory, revision=revision)
    for file in plan.files:
        report(f"{file.name}: {gigabytes(file.size)}")
    if warning := memory_warning(plan.size):
        report(warning)
    plan.check_room()
    return plan.fetch()


def choose(
    repo: str, names: Sequence[str], quant: str = "", mmproj_quant: str = "", *, bf16: bool = False
) -> tuple[list[str], str | None]:
    """Choose the files of the model (several if it is split) and of its projector from a repository's file names."""
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    projectors = [name for name in ggufs if "mmproj" in Path(name).name.lower()]
    # An importance matrix is what a model was quantised with.
    models = [name for name in ggufs if name not in projectors and "imatrix" not in Path(name).name.lower()]
    if not models:
        raise DownloadError(f"{repo} has no GGUF model; a repository whose name ends in -GGUF does. Try {EXAMPLE}.")
    model = _pick(repo, models, quant, MODEL_QUANTS)
    parts = [model]
    if split := _PART.search(model):
        parts = [name for name in models if name.startswith(model[: split.start()]) and _PART.search(name)]
        if len(parts) != int(split[2]):
            raise DownloadError(f"{repo} has {len(parts)} of the {split[2]} parts of {model}; choose another --quant.")
    preferred = BF16_MMPROJ_QUANTS if bf16 else MMPROJ_QUANTS
    return parts, _pick(repo, projectors, mmproj_quant, preferred) if projectors else None


def _pick(repo: str, names: Sequence[str], wanted: str, preferred: Sequence[str]) -> str:
    for quant in [wanted] if wanted else preferred:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        for name in names:
            if pattern.search(Path(name).name):
                return name
    if wanted:
        raise DownloadError(f"{repo} has nothing in {wanted}. It has: {', '.join(names)}.")
    return names[0]


def memory_warning(size: int, meminfo: Path = Path("/proc/meminfo")) -> str:
    """Return a warning for a model of ``size`` bytes that is larger than the free memory, "" for a smaller one."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return ""
    free = 1024 * int(found[1]) if found else size
    if size <= free:
        return ""
    return (
        f"This model takes {gigabytes(size)} of memory and some for its context; {gigabytes(free)} are available on "
        "this machine now. Here it would run slowly or be killed: choose a smaller model or --quant."
    )


def gigabytes(size: float) -> str:
    """Return a size in words, in 10^9 bytes."""
    return f"{size / 1e9:.2f} GB"
