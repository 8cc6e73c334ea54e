"""What unset options mean: the values of the model's generation_config.json, and its card's where the file has none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from openvino_genai import GenerationConfig

from qwen3vl_ros.engines.base import Options, Request
from qwen3vl_ros.engines.openvino.files import read_json
from qwen3vl_ros.engines.recommended import family_of, filled, for_request


class FileSampling:
    """The recommended sampling of the model in one folder."""

    def __init__(self, folder: Path, thinks: bool) -> None:
        """Read the file.

        Args:
            folder: The model's, whose name tells its family.
            thinks: Whether the model thinks by itself: the file is for the answers that it gives by itself.
        """
        self._file = folder / "generation_config.json"
        self._family = family_of(folder.resolve().name)
        self._thinks = thinks
        self._has = frozenset(read_json(self._file)) if self._file.is_file() else frozenset()

    def config(self) -> GenerationConfig:
        """Return the library's own form of the file."""
        return GenerationConfig(self._file) if self._file.is_file() else GenerationConfig()

    def options(self, request: Request, thinks: bool) -> Options:
        """Return the request's options with the card's values for those that it and the file leave unset.

        Args:
            request: What is asked.
            thinks: Whether this answer begins with reasoning.
        """
        if self._family is None:
            return request.options
        card = asdict(for_request(self._family.thinking if thinks else self._family.at_once, request))
        own = self._has if thinks == self._thinks else frozenset()
        return filled(request.options, {name: value for name, value in card.items() if name not in own})
