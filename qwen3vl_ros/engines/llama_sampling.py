"""Choosing the next token: llama.cpp's samplers, set up from a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as lib
from llama_cpp.llama_grammar import json_schema_to_gbnf

from qwen3vl_ros.engines import llama_log
from qwen3vl_ros.engines.base import BadRequest, EngineError, Options
from qwen3vl_ros.engines.llama_context import LlamaContext

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
    try:
        return str(json_schema_to_gbnf(json.dumps(schema)))
    except Exception as error:  # the converter raises whatever its assertions and look-ups do
        raise BadRequest(f"response_schema: llama.cpp cannot follow this JSON Schema: {error!s:.300}.") from error


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
        """``seen``: tokens that the repetition penalty counts besides the answer's. Raises :class:`BadRequest`."""
        temperature = _pick(options.temperature, unset.temperature)
        penalty = _pick(options.repetition_penalty, unset.repetition_penalty)
        self._context = context
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        try:
            if grammar:
                self._add(lib.llama_sampler_init_grammar(context.vocab, grammar.encode(), b"root"))
            if penalty != 1.0:
                penalties = lib.llama_sampler_init_penalties(context.n_vocab, context.n_ctx, penalty, 0.0, 0.0)
                for token in seen:
                    lib.llama_sampler_accept(penalties, token)
                self._add(penalties)
            if temperature <= 0.0:
                self._add(lib.llama_sampler_init_greedy())
                return
            # The order of transformers and vLLM, which the published values are meant for.
            self._add(lib.llama_sampler_init_temp(temperature))
            self._add(lib.llama_sampler_init_top_k(int(_pick(options.top_k, unset.top_k))))
            self._add(lib.llama_sampler_init_top_p(_pick(options.top_p, unset.top_p), 1))
            self._add(lib.llama_sampler_init_min_p(_pick(options.min_p, unset.min_p), 1))
            seed = _RANDOM_SEED if options.seed is None else options.seed % _RANDOM_SEED
            self._add(lib.llama_sampler_init_dist(seed))
        except BaseException:
            self.close()
            raise

    def _add(self, sampler: Any) -> None:
        if not sampler:
            raise BadRequest(f"response_schema: llama.cpp cannot parse its grammar: {llama_log.last_error()}")
        lib.llama_sampler_chain_add(self._chain, sampler)

    def sample(self) -> int:
        """The next token, from the logits of the last decode."""
        return int(lib.llama_sampler_sample(self._chain, self._context.ctx, -1))

    def close(self) -> None:
        """Free it. Idempotent."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _pick(value: float | None, unset: float) -> float:
    return unset if value is None else value
