"""Choosing the next token: llama.cpp's samplers, set up from a request."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from qwen3vl_ros.engines.base import BadRequest, Options
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.context import LlamaContext

# A bounded string or list becomes a grammar of that size: an absurd bound would never end.
_MAX_LENGTH = 1000
_LENGTHS = re.compile(r'"(?:min|max)(?:Length|Items|Properties)": (\d+)')
_SURROGATES = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED


@dataclass(frozen=True, slots=True)
class Recommended:
    """The sampling values a model asks for: what an unset option means."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0
    repetition_penalty: float = 1.0


# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct and -Thinking, "Generation Hyperparameters", VL.
INSTRUCT = Recommended(temperature=0.7, top_p=0.8, top_k=20)
THINKING = Recommended(temperature=1.0, top_p=0.95, top_k=20)


def recommended(context: LlamaContext, thinking: bool) -> Recommended:
    """The values in the model's metadata (``general.sampling.*``), else Qwen3-VL's published ones."""
    base = THINKING if thinking else INSTRUCT

    def value(key: int, default: float) -> float:
        name = lib.llama_model_meta_key_str(key) or b""
        text = context.metadata(name.decode())
        return default if text is None else float(text)

    return Recommended(
        temperature=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TEMP, base.temperature),
        top_p=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TOP_P, base.top_p),
        top_k=int(value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TOP_K, base.top_k)),
        min_p=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_MIN_P, base.min_p),
        repetition_penalty=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_REPEAT, base.repetition_penalty),
    )


def grammar_of(schema: Mapping[str, Any]) -> str:
    """A JSON Schema as llama.cpp's grammar (GBNF). Raises :class:`BadRequest`."""
    text = json.dumps(schema)
    longest = max((int(n) for n in _LENGTHS.findall(text)), default=0)
    if longest > _MAX_LENGTH:
        raise BadRequest(f"response_schema: lengths and counts may be at most {_MAX_LENGTH}, not {longest}.")
    try:
        grammar = str(json_schema_to_gbnf(text))
    except Exception as error:  # the converter raises whatever its assertions and look-ups do
        raise BadRequest(f"response_schema: llama.cpp cannot follow this JSON Schema: {error!s:.300}.") from error
    # The converter lets strings hold line breaks and other control characters, which is not JSON (RFC 8259, 7).
    grammar = grammar.replace(r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |')
    # It writes constants with JSON's escapes. GBNF has the same but for surrogate pairs: there it is \U and 8 digits.
    return _SURROGATES.sub(lambda pair: rf"\U{_code_point(pair[0]):08X}", grammar)


def _code_point(escaped: str) -> int:
    return ord(json.loads(f'"{escaped}"'))


class Sampler:
    """A chain of samplers with its own state: penalties, grammar, random numbers. Free it with :meth:`close`."""

    def __init__(
        self,
        context: LlamaContext,
        options: Options,
        unset: Recommended,
        grammar: str = "",
        seen: Iterable[int] = (),
    ) -> None:
        """Raises :class:`BadRequest`.

        ``grammar``: see :func:`grammar_of`. ``seen``: tokens that the repetition penalty counts besides the answer's.
        """
        if options.repetition_penalty is not None and not options.repetition_penalty > 0.0:
            raise BadRequest(f"repetition_penalty: must be more than 0, not {options.repetition_penalty}.")
        self._context = context
        self._frees = contextlib.ExitStack()
        self._grammar: Any = None
        self._candidates: _Candidates | None = None
        if grammar:
            self._grammar = lib.llama_sampler_init_grammar(context.vocab, grammar.encode(), b"root")
            if not self._grammar:
                raise BadRequest(f"response_schema: llama.cpp cannot parse its grammar: {log.last_error()}")
            self._frees.callback(lib.llama_sampler_free, self._grammar)
            self._candidates = _Candidates(context.n_vocab)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._frees.callback(lib.llama_sampler_free, self._chain)  # and all that is in it
        self._fill(options, unset, seen)

    def _fill(self, options: Options, unset: Recommended, seen: Iterable[int]) -> None:
        def add(sampler: Any) -> None:
            lib.llama_sampler_chain_add(self._chain, sampler)

        penalty = _pick(options.repetition_penalty, unset.repetition_penalty)
        if penalty != 1.0:
            penalties = lib.llama_sampler_init_penalties(self._context.n_vocab, self._context.n_ctx, penalty, 0.0, 0.0)
            for token in seen:
                lib.llama_sampler_accept(penalties, token)
            add(penalties)
        temperature = _pick(options.temperature, unset.temperature)
        if temperature <= 0.0:
            add(lib.llama_sampler_init_greedy())
            return
        # The order of transformers and vLLM, which the published values are meant for.
        add(lib.llama_sampler_init_temp(temperature))
        add(lib.llama_sampler_init_top_k(int(_pick(options.top_k, unset.top_k))))
        add(lib.llama_sampler_init_top_p(_pick(options.top_p, unset.top_p), 1))
        add(lib.llama_sampler_init_min_p(_pick(options.min_p, unset.min_p), 1))
        add(lib.llama_sampler_init_dist(_RANDOM_SEED if options.seed is None else options.seed % _RANDOM_SEED))

    def sample(self) -> int:
        """The next token, from the logits of the last decode."""
        if self._candidates is None:
            return int(lib.llama_sampler_sample(self._chain, self._context.ctx, -1))
        # Holding all of the vocabulary against the grammar takes longer than a small model takes for a token, and
        # the token that would be chosen without mostly fits: llama.cpp's own server tries that first as well.
        candidates = self._candidates
        candidates.fill(self._context.logits())
        token = candidates.choose(self._chain)
        if not candidates.fits(self._grammar, token):
            candidates.fill(self._context.logits())
            lib.llama_sampler_apply(self._grammar, candidates.array)
            token = candidates.choose(self._chain)
        lib.llama_sampler_accept(self._grammar, token)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free it. Idempotent."""
        self._frees.close()


class _Candidates:
    """llama_token_data_array of the whole vocabulary."""

    def __init__(self, n_vocab: int) -> None:
        # llama_token_data of llama.h
        self._data = np.zeros(n_vocab, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._pointer: Any = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self.array = lib.llama_token_data_array()

    def fill(self, logits: NDArray[np.float32]) -> None:
        # Samplers sort the data, cut it short and may put it elsewhere: all of it is written again.
        self._data["id"] = self._ids
        self._data["logit"] = logits
        self.array.data = self._pointer
        self.array.size = len(self._ids)
        self.array.selected = -1
        self.array.sorted = False

    def choose(self, chain: Any) -> int:
        lib.llama_sampler_apply(chain, self.array)
        return int(self.array.data[self.array.selected].id)

    @staticmethod
    def fits(grammar: Any, token: int) -> bool:
        one = (lib.llama_token_data * 1)(lib.llama_token_data(token, 1.0, 0.0))
        array = lib.llama_token_data_array(one, 1, -1, False)
        lib.llama_sampler_apply(grammar, array)
        return not math.isinf(one[0].logit)


def _pick(value: float | None, unset: float) -> float:
    return unset if value is None else value
