"""What the engine llama's grammar lets a model write, asked with a vocabulary of single bytes."""

from __future__ import annotations

from typing import Any

import pytest

llguidance = pytest.importorskip("llguidance")
grammar = pytest.importorskip("qwen3vl_ros.engines.llama.grammar")

END = 256


class Bytes:
    """A vocabulary of single bytes and an end."""

    eos_token_id, bos_token_id = END, None
    tokens = [bytes([byte]) for byte in range(256)] + [b"\xff<end>"]
    special_token_ids = [END]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()), len(Bytes.tokens))


def accepts(schema: Any, text: str) -> bool:
    """Whether a model may write ``text`` and end there."""
    rules = grammar.Grammar(TOKENIZER, schema)
    for byte in text.encode():
        if not rules.allows(byte):
            assert not rules.mask()[byte]
            return False
        rules.take(byte)
    return bool(rules.mask()[END])
