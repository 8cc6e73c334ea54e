"""Turns a JSON Schema into masks over a llama.cpp vocabulary: the tokens allowed next. Uses llguidance.

llama.cpp's own converter and grammars (GBNF) unescape JSON once too often in constants and names, do not support
``maximum``, and abort the process on a NUL or a large repetition; llguidance reports what it cannot follow as text, and
works within fixed limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import llguidance
import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray
from referencing.jsonschema import DRAFT202012

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.engines.llama.context import LlamaContext

OPTIONS: Final = {
    # Whitespace between JSON tokens is one blank or one indented line: small models would fill the answer with more.
    "whitespace_pattern": r"[ ]|\n[ \t]{0,40}",
    # `oneOf` becomes `anyOf`, and keywords that no grammar can express (`not`, `uniqueItems`, ...) are ignored: the
    # complete answer is checked against the schema itself.
    "coerce_one_of": True,
    "lenient": True,
}


_ABOUT_MEMBERS: Final = frozenset({"properties", "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"})
_OPEN: Final = frozenset({"additionalProperties", "unevaluatedProperties", "patternProperties"})


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``schema`` with its objects limited to the properties that they name, where it does not say otherwise.

    JSON Schema allows any further properties, and a model that may write them never ends the object. llama.cpp's
    converter does the same. An object that several subschemas describe stays open, since each would forbid the
    properties of the others.
    """
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    waiting: list[Any] = [copy]
    objects = []
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict):
            continue
        if len(_ABOUT_MEMBERS & one.keys()) > 1 or len(one.get("allOf", ())) > 1:
            return schema
        if "properties" in one and not _OPEN & one.keys() and set(one.get("required", ())) <= one["properties"].keys():
            objects.append(one)
        waiting += DRAFT202012.subresources_of(one)
    for one in objects:
        one["additionalProperties"] = False
    return copy


class Grammar:
    """Tracks one answer and tells which tokens the schema allows next. ``tokenizer``: see :class:`GrammarTokenizer`."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, schema: Mapping[str, Any]) -> None:
        """Compile ``schema``; raises :class:`BadRequest` if llguidance cannot follow it."""
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(closed(schema)),
                overrides=OPTIONS,  # type: ignore[arg-type]  # override the schema's own "x-guidance"
            )
            self._matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        except (ValueError, TypeError, AttributeError) as error:  # an unchecked schema that is none
            raise BadRequest(_refusal(str(error))) from error

        self._check()
        self._n_vocab = tokenizer.vocab_size

    def allows(self, token: int) -> bool:
        """Return whether ``token`` is allowed next."""
        return bool(self._matcher.validate_tokens([token]))

    def mask(self) -> NDArray[np.bool_]:
        """Return which tokens are allowed next: bool [n_vocab]. Raises :class:`BadRequest` at a limit of llguidance."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._n_vocab, bitorder="little").astype(np.bool_)

    def take(self, token: int) -> None:
        """Advance past ``token``, which must be allowed. Raises :class:`BadRequest` at a limit of llguidance."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadRequest(_refusal(self._matcher.get_error()))


class GrammarTokenizer:
    """The vocabulary of ``context`` as llguidance wants it; built on first use, in about 3 us per token."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """Return a new grammar for one answer. Raises :class:`BadRequest` for a schema that cannot be followed."""
        return Grammar(self._tokenizer, schema)

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        vocabulary = _Vocabulary(self._context)
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), len(vocabulary.tokens), vocabulary.ends)


class _Vocabulary:
    """Implements the tokenizer interface that :class:`llguidance.TokenizerWrapper` wraps."""

    bos_token_id = None

    def __init__(self, context: LlamaContext) -> None:
        self._context = context
        # Tokens without text are special tokens; llguidance marks those with 0xFF, which never occurs in UTF-8.
        self.tokens = [context.token_bytes(token) or b"\xff[%d]" % token for token in range(context.n_vocab)]
        self.ends = [token for token in range(context.n_vocab) if context.ends_answer(token)]
        self.eos_token_id = self.ends[0] if self.ends else lib.llama_vocab_eos(context.vocab)
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if text[:1] == b"\xff"]

    def __call__(self, text: bytes) -> list[int]:
        return self._context.tokenize(text.decode("utf-8", "replace"))


def _refusal(reason: str) -> str:
    # Keep the first paragraph only: the state of the parser follows it.
    reason = " ".join(reason.partition("\n<state>")[0].split())
    return f"response_schema: the engine llama cannot follow this JSON Schema: {reason:.300}."
