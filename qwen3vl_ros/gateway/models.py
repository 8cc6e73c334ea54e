"""The model names that clients may use: that of the loaded model, and an alias that always means it."""

from __future__ import annotations

from typing import Any

from qwen3vl_ros.gateway.backend import NodeStatus
from qwen3vl_ros.gateway.errors import ApiError

ALIAS = "qwen3-vl"
"""Alias of the current model: engines change, and so does the name of their model."""


def list_models(status: NodeStatus) -> dict[str, Any]:
    """Return OpenAI's list of models; empty while none is loaded."""
    names = list(dict.fromkeys((status.model, ALIAS))) if status.model else []
    return {"object": "list", "data": [_model(name, status) for name in names]}


def find_model(name: str, status: NodeStatus) -> dict[str, Any]:
    """Return OpenAI's object of one model. Raises :class:`ApiError` 404."""
    check_model(name, status.model)
    return _model(name, status)


def check_model(wanted: str, loaded: str) -> None:
    """Raise :class:`ApiError` 404 unless ``wanted`` is the loaded model, its alias, or ""."""
    if wanted not in ("", ALIAS, loaded):
        raise ApiError(
            404,
            "model_not_found",
            f"model: there is no {wanted[:100]!r} here; {loaded!r} answers, and {ALIAS!r} always means that one",
            param="model",
        )


def _model(name: str, status: NodeStatus) -> dict[str, Any]:
    model = {"id": name, "object": "model", "created": 0, "owned_by": status.engine or "qwen3vl_ros"}
    if status.context_length:  # vLLM's and llama-server's names: clients look for either
        model |= {"max_model_len": status.context_length, "meta": {"n_ctx": status.context_length}}
    return model
