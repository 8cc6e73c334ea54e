"""The models of the catalogue that were downloaded to this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.cli.hubs import HUBS, Hub
from qwen3vl_ros.engines.catalogue import Entry, catalogue


@dataclass(frozen=True)
class KeptModel:
    """A complete model in a cache. ``model`` is a GGUF file or a directory, ``mmproj`` None without a projector.

    ``entry`` is the model's place in the catalogue; ``quant`` is that of the file, which may be another one.
    """

    entry: Entry
    hub: Hub
    quant: str
    model: Path
    mmproj: Path | None
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.files)


def kept_models() -> Iterator[KeptModel]:
    """Yield the models in the caches, in the order of the catalogue."""
    for entry in _repositories():
        for hub in HUBS.values():
            files = hub.cached(entry.repo)
            yield from _gguf(entry, hub, files) if entry.engine == "llama" else _openvino(entry, hub, files)


def _repositories() -> list[Entry]:
    """Return an entry for each repository."""
    return list({entry.repo: entry for entry in reversed(catalogue())}.values())[::-1]


def _gguf(entry: Entry, hub: Hub, files: list[Path]) -> Iterator[KeptModel]:
    ggufs = [file for file in files if file.suffix == ".gguf"]
    projectors = [file for file in ggufs if "mmproj" in file.name.lower()]
    mmproj = projectors[0] if projectors else None
    groups: dict[str, list[Path]] = {}
    for file in ggufs:
        if file not in projectors:
            groups.setdefault(re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", file.name), []).append(file)
    for parts in groups.values():
        split = re.search(r"-of-(\d{5})\.gguf$", parts[0].name)
        if split and len(parts) != int(split[1]):
            continue
        quant = re.search(r"(BF16|F16|F32|I?Q\d\w*?)(?=[-.])", parts[0].name.removesuffix(".gguf") + ".")
        files_of_it = (*parts, *([mmproj] if mmproj else []))
        yield KeptModel(entry, hub, quant[1] if quant else "?", parts[0], mmproj, files_of_it)


def _openvino(entry: Entry, hub: Hub, files: list[Path]) -> Iterator[KeptModel]:
    from qwen3vl_ros.engines.openvino.files import MODEL_FILES

    if set(MODEL_FILES) <= {file.name for file in files}:
        yield KeptModel(entry, hub, entry.quant, files[0].parent, None, tuple(files))


def repositories_of(name: str, engine: str = "") -> list[tuple[Hub, str, list[Path]]]:
    """Return the repositories of the model ``name`` of which a cache has files, with these."""
    wanted = [entry.repo for entry in _repositories() if entry.name == name and engine in ("", entry.engine)]
    found = [(hub, repo, hub.cached(repo)) for repo in wanted for hub in HUBS.values()]
    return [(hub, repo, files) for hub, repo, files in found if files]
