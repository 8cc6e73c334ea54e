"""What a model is for: the card in its own file, else that of its published family."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

from qwen3vl_ros.engines.base import ModelCard

METADATA_KEY = "qwen3vl_ros.model_card"
"""Key of a GGUF file's metadata: a JSON object with the fields of :class:`ModelCard`, each optional."""

_FAMILIES = {
    # https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct: its licence. 1024 image tokens for boxes:
    # https://github.com/ggml-org/llama.cpp/issues/16842
    r"qwen3[-_ ]?vl": ModelCard(languages=("en", "zh"), license="Apache-2.0", grounding_image_tokens=1024),
}
"""Pattern of a model's name -> card."""


def model_card(name: str, metadata: str | None = None) -> ModelCard:
    """Return the card of the model ``name``; ``metadata`` is the value of :data:`METADATA_KEY`, None = it has none.

    A card that cannot be read counts as none, and fields that this version does not know are left out: a model from
    elsewhere must load all the same.
    """
    card = _read(metadata) if metadata else None
    if card is not None:
        return card
    for pattern, known in _FAMILIES.items():
        if re.search(pattern, name, re.IGNORECASE):
            return known
    return ModelCard()


def card_json(card: ModelCard) -> str:
    """Return what an exporter writes under :data:`METADATA_KEY`."""
    return json.dumps({field.name: getattr(card, field.name) for field in fields(card)}, ensure_ascii=False)


def _read(metadata: str) -> ModelCard | None:
    try:
        values = json.loads(metadata)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    default = ModelCard()
    given: dict[str, Any] = {}
    for field in fields(ModelCard):
        value, wanted = values.get(field.name), getattr(default, field.name)
        if isinstance(wanted, tuple):
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                given[field.name] = tuple(value)
        elif type(value) is type(wanted):
            given[field.name] = value
    return ModelCard(**given)
