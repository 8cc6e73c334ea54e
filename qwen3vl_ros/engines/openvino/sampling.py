"""Converts the options of a request to OpenVINO GenAI's GenerationConfig."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import jsonschema
from openvino_genai import GenerationConfig, StructuredOutputConfig

from qwen3vl_ros.engines.base import BadRequest, Options
from qwen3vl_ros.engines.openvino.prompt import reason

_TOP_K_OFF = 2**64 - 1  # GenerationConfig's default
_LARGEST_MIN_P = 0.999999  # GenerationConfig.validate wants less than 1


def configure(config: GenerationConfig, options: Options, max_tokens: int) -> GenerationConfig:
    """Set ``options`` in ``config``; unset ones keep the values of the model's generation_config.json.

    Args:
        config: The pipeline's own; it is changed in place.
        options: The options of the request.
        max_tokens: Tokens that the context has room for.

    Returns:
        ``config``.

    Raises:
        BadRequest: OpenVINO cannot sample like this.
    """
    if options.max_tokens is not None and options.max_tokens < 1:
        raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
    if options.repetition_penalty is not None and not options.repetition_penalty > 0.0:
        raise BadRequest(f"repetition_penalty: must be more than 0, not {options.repetition_penalty}.")
    config.apply_chat_template = False
    config.max_new_tokens = max_tokens if options.max_tokens is None else min(options.max_tokens, max_tokens)
    # OpenVINO's default seed is a constant.
    config.rng_seed = secrets.randbits(32) if options.seed is None else options.seed
    if options.repetition_penalty is not None:
        config.repetition_penalty = options.repetition_penalty
    if options.presence_penalty is not None:
        config.presence_penalty = options.presence_penalty
    if options.frequency_penalty is not None:
        config.frequency_penalty = options.frequency_penalty
    if options.temperature is not None:
        config.do_sample = options.temperature > 0.0
        if config.do_sample:
            config.temperature = options.temperature
    if config.do_sample:
        if options.top_p is not None:
            config.top_p = options.top_p
        if options.top_k is not None:
            config.top_k = options.top_k or _TOP_K_OFF
        if options.min_p is not None:
            config.min_p = min(options.min_p, _LARGEST_MIN_P)
    try:
        config.validate()
    except RuntimeError as error:
        raise BadRequest(f"OpenVINO cannot sample like this: {reason(error)}.") from error
    return config


def constraint(schema: Mapping[str, Any], reasoning: bool) -> StructuredOutputConfig:
    """Return the constraint that makes the answer follow a JSON Schema.

    Args:
        schema: A JSON Schema.
        reasoning: The output up to ``</think>`` is free text, and the schema holds for what follows it.

    Raises:
        BadRequest: ``schema`` is not a JSON Schema.
    """
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise BadRequest(f"response_schema: this is not a JSON Schema: {error.message}.") from error
    text = json.dumps(schema)
    if not reasoning:
        return StructuredOutputConfig(json_schema=text)
    thought = StructuredOutputConfig.Tag("", StructuredOutputConfig.AnyText(), "</think>")
    answer = StructuredOutputConfig.JSONSchema(text)
    return StructuredOutputConfig(compound_grammar=StructuredOutputConfig.Concat(thought, answer))


def schema_error(error: Exception) -> BadRequest | None:
    """Return a :class:`BadRequest` if ``error`` concerns the request's JSON Schema, else None."""
    if "xgrammar" not in str(error):  # the path of its source file
        return None
    return BadRequest(f"response_schema: OpenVINO cannot follow this JSON Schema: {reason(error):.300}.")
