"""Samples the next token: llama.cpp's samplers, configured from a request."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib
from numpy.typing import NDArray

from qwen3vl_ros.engines.base import BadRequest, Options
from qwen3vl_ros.engines.llama.context import LlamaContext
from qwen3vl_ros.engines.llama.grammar import Grammar
from qwen3vl_ros.engines.recommended import OTHERS, Family, Recommended, family_of

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED


def family(context: LlamaContext, name: str, thinks: bool) -> Family:
    """Return the recommended values of a model.

    Args:
        context: The model, whose metadata (``general.sampling.*``) come first.
        name: Of the model, whose family has what the metadata lack.
        thinks: Whether it thinks by itself: the metadata are for the answers that it gives by itself.
    """
    published = family_of(name) or OTHERS
    base = published.thinking if thinks else published.at_once

    def value(key: int, default: float) -> float:
        name = lib.llama_model_meta_key_str(key) or b""
        text = context.metadata(name.decode())
        return default if text is None else float(text)

    own = replace(
        base,
        temperature=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TEMP, base.temperature),
        top_p=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TOP_P, base.top_p),
        top_k=int(value(lib.LLAMA_MODEL_META_KEY_SAMPLING_TOP_K, base.top_k)),
        min_p=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_MIN_P, base.min_p),
        repetition_penalty=value(lib.LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_REPEAT, base.repetition_penalty),
    )
    return replace(published, thinking=own) if thinks else replace(published, at_once=own)


class Sampler:
    """A chain of samplers with its own state: penalties, grammar, random numbers. Free it with :meth:`close`."""

    def __init__(
        self,
        context: LlamaContext,
        options: Options,
        unset: Recommended,
        grammar: Grammar | None = None,
        seen: Iterable[int] = (),
    ) -> None:
        """Build the chain.

        Args:
            context: The model whose logits are sampled.
            options: The request's sampling options.
            unset: Values for the options that are None.
            grammar: Constrains every token.
            seen: Tokens that the repetition penalty counts besides the answer's.

        Raises:
            BadRequest: ``repetition_penalty`` is not more than 0.
        """
        if options.repetition_penalty is not None and not options.repetition_penalty > 0.0:
            raise BadRequest(f"repetition_penalty: must be more than 0, not {options.repetition_penalty}.")
        self._context = context
        self._frees = contextlib.ExitStack()
        self._grammar = grammar
        self._candidates = None if grammar is None else _Candidates(context.n_vocab)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._frees.callback(lib.llama_sampler_free, self._chain)  # frees the samplers in the chain, too
        self._fill(options, unset, seen)

    def _fill(self, options: Options, unset: Recommended, seen: Iterable[int]) -> None:
        def add(sampler: Any) -> None:
            lib.llama_sampler_chain_add(self._chain, sampler)

        vocabulary, window = self._context.n_vocab, self._context.n_ctx
        repetition = _pick(options.repetition_penalty, unset.repetition_penalty)
        if repetition != 1.0:
            penalties = lib.llama_sampler_init_penalties(vocabulary, window, repetition, 0.0, 0.0)
            for token in seen:
                lib.llama_sampler_accept(penalties, token)
            add(penalties)
        # These count the answer alone, as OpenAI defines them and vLLM does.
        frequency = _pick(options.frequency_penalty, 0.0)
        presence = _pick(options.presence_penalty, unset.presence_penalty)
        if frequency or presence:
            add(lib.llama_sampler_init_penalties(vocabulary, window, 1.0, frequency, presence))
        temperature = _pick(options.temperature, unset.temperature)
        if temperature <= 0.0:
            add(lib.llama_sampler_init_greedy())
            return
        # The order of transformers and vLLM, for which the recommended values were published.
        add(lib.llama_sampler_init_temp(temperature))
        add(lib.llama_sampler_init_top_k(int(_pick(options.top_k, unset.top_k))))
        add(lib.llama_sampler_init_top_p(_pick(options.top_p, unset.top_p), 1))
        add(lib.llama_sampler_init_min_p(_pick(options.min_p, unset.min_p), 1))
        add(lib.llama_sampler_init_dist(_RANDOM_SEED if options.seed is None else options.seed % _RANDOM_SEED))

    def sample(self, output: int) -> int:
        """Sample the next token from the logits after token ``output`` of the last batch."""
        if self._grammar is None or self._candidates is None:
            return int(lib.llama_sampler_sample(self._chain, self._context.ctx, output))
        # A mask over the whole vocabulary takes longer than a small model's decode, and the token sampled without the
        # grammar is mostly allowed, so sample without it first, as llama.cpp's own server does.
        candidates, logits = self._candidates, self._context.logits(output)
        candidates.fill(logits)
        token = candidates.choose(self._chain)
        if not self._grammar.allows(token):
            candidates.fill(np.where(self._grammar.mask(), logits, -np.inf))
            token = candidates.choose(self._chain)
        self._grammar.take(token)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain. Idempotent."""
        self._frees.close()


class _Candidates:
    """A llama_token_data_array of the whole vocabulary."""

    def __init__(self, n_vocab: int) -> None:
        # llama_token_data of llama.h
        self._data = np.zeros(n_vocab, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._pointer: Any = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self.array = lib.llama_token_data_array()

    def fill(self, logits: NDArray[np.float32]) -> None:
        # Samplers sort and truncate the array and may repoint it, so every field is rewritten.
        self._data["id"] = self._ids
        self._data["logit"] = logits
        self.array.data = self._pointer
        self.array.size = len(self._ids)
        self.array.selected = -1
        self.array.sorted = False

    def choose(self, chain: Any) -> int:
        lib.llama_sampler_apply(chain, self.array)
        return int(self.array.data[self.array.selected].id)


def _pick(value: float | None, unset: float) -> float:
    return unset if value is None else value
