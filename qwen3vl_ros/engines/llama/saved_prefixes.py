"""Prefixes that outlive the process: what the sequences of the KV cache hold, in a directory of files.

``index.json`` names the files and what is in them. It is replaced last, so that a process that dies while it saves
leaves what was saved before. The files have what users asked and cameras saw: nobody but their owner may read them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp

from qwen3vl_ros.engines.llama.context import ImageSpan, LlamaContext, Piece, n_cells
from qwen3vl_ros.engines.llama.slots import Slot

_INDEX = "index.json"

_log = logging.getLogger(__name__)


class SavedPrefixes:
    """The files in ``folder``, at most ``limit`` bytes together, made with ``models`` by this llama.cpp."""

    def __init__(self, folder: Path, limit: int, models: Iterable[Path]) -> None:
        """Describe the files; nothing is read or written."""
        self._folder = folder
        self._limit = limit
        stats = [(file, file.stat()) for file in models]
        self._made_with = {
            "llama-cpp-python": llama_cpp.__version__,
            "models": [[str(file.resolve()), stat.st_size, stat.st_mtime_ns] for file, stat in stats],
        }

    def restore(self, context: LlamaContext, slots: Iterable[Slot]) -> int:
        """Fill empty ``slots`` with what was saved; return how many. What does not fit this model is left out."""
        try:
            index = json.loads((self._folder / _INDEX).read_text())
            made_with, prefixes = index["made_with"], index["prefixes"]
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("The saved prefixes in %s cannot be read: %s. Every prompt is read anew.", self._folder, error)
            return 0
        if made_with != self._made_with:
            return 0
        restored = 0
        for slot, entry in zip(slots, prefixes, strict=False):
            pieces = [_piece(piece) for piece in entry["pieces"]]
            if n_cells(pieces) > context.n_ctx:
                continue
            if not context.load(slot.seq, self._folder / entry["file"]):
                _log.warning("%s in %s is gone or damaged: that prompt is read anew.", entry["file"], self._folder)
                continue
            for piece in pieces:
                slot.append(piece)
            restored += 1
        return restored

    def save(self, context: LlamaContext, slots: Iterable[Slot]) -> None:
        """Save ``slots``, those used last first, as far as there is room; delete what was saved before."""
        try:
            self._save(context, slots)
        except OSError as error:
            _log.warning("The prefixes of this run were not saved in %s: %s.", self._folder, error)

    def _save(self, context: LlamaContext, slots: Iterable[Slot]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        room, entries = self._limit, []
        for slot in sorted(slots, key=lambda slot: slot.used, reverse=True):
            size = context.saved_size(slot.seq)
            if not slot.pieces or size > room:
                continue
            file = self._folder / f"{time.time_ns()}.state"
            context.save(slot.seq, file)
            room -= size
            pieces = [piece if isinstance(piece, int) else asdict(piece) for piece in slot.pieces]
            entries.append({"file": file.name, "pieces": pieces})
        index = self._folder / f"{_INDEX}.new"
        index.write_text(json.dumps({"made_with": self._made_with, "prefixes": entries}))
        index.replace(self._folder / _INDEX)
        for file in self._folder.glob("*.state"):
            if file.name not in {entry["file"] for entry in entries}:
                file.unlink(missing_ok=True)


def _piece(saved: int | Mapping[str, Any]) -> Piece:
    return saved if isinstance(saved, int) else ImageSpan(**saved)
