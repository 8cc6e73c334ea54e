"""Calls of tools in what a model answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.gateway.tool_calls import ToolCall, ToolCallText, calls_text, results_text, tools_text

NAMES = ("move", "say")
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["</tool_call>", "<tool_call>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=5), JSON, max_size=3))
NOISE = st.text('<tool_cal>/ {}"\n', max_size=30) | st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool_call>{}</tool_call>",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
    ]
)


def written(name: str, arguments: Any) -> str:
    return calls_text("", [(name, json.dumps(arguments))])


def read(pieces: Sequence[str], *, parallel: bool = True) -> tuple[str, list[tuple[str, Any]], list[Any]]:
    """Text, calls, and both in their order with adjacent texts merged."""
    parser, found = ToolCallText(NAMES, parallel=parallel), []
    for piece in pieces:
        found += parser.feed(piece)
    left = parser.finish("".join(pieces))
    assert left is not None
    order: list[Any] = []
    for one in [*found, *left]:
        if isinstance(one, str) and order and isinstance(order[-1], str):
            order[-1] += one
        else:
            order.append(one if isinstance(one, str) else (one.name, json.loads(one.arguments)))
    return (
        "".join(one for one in order if isinstance(one, str)),
        [one for one in order if isinstance(one, tuple)],
        order,
    )


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(NOISE | CALLS, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_the_pieces_in_which_an_answer_comes_make_no_difference(parts: list[Any], places: list[int]) -> None:
    text = "".join(part if isinstance(part, str) else written(*part) for part in parts)
    assert read(cut(text, places)) == read([text]) == read(list(text))


@given(st.lists(CALLS, min_size=1, max_size=4), st.text("abc .\n", max_size=20), st.integers(0, 3))
def test_every_call_is_found_with_its_arguments(calls: list[Any], content: str, blank: int) -> None:
    text = content + "\n" * blank + "\n".join(written(*call) for call in calls)
    assert read(list(text))[:2] == (content.rstrip(), calls)


@given(st.text())
def test_text_without_a_call_is_passed_on_as_it_is(text: str) -> None:
    assert read([text]) == (text, [], [text] * bool(text))


def test_text_is_told_as_soon_as_it_cannot_be_a_call() -> None:
    parser = ToolCallText(NAMES)
    assert parser.feed("I go. <to") == ["I go."]
    assert parser.feed("wn>") == [" <town>"]
    assert parser.feed('\n<tool_call>\n{"name": "move", "arguments": {"x": 1}}\n</tool_call') == []
    (call,) = parser.feed(">")
    assert isinstance(call, ToolCall) and (call.name, json.loads(call.arguments)) == ("move", {"x": 1})


@pytest.mark.parametrize(
    "said",
    [
        "<tool_call>{}</tool_call>",
        "<tool_call>not JSON</tool_call>",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "move", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "move", "arguments": {"x": NaN}}</tool_call>',
        '<tool_call>{"name": "move", "arguments": {"x": 1e999}}</tool_call>',
        '<tool_call>{"name": "move", "arguments": {"x": "\\ud83d"}}</tool_call>',
        '<tool_call>{"name": "move", "argum',
        "<tool_call>",
    ],
)
def test_what_only_looks_like_a_call_stays_in_the_text_with_a_note(said: str) -> None:
    parser = ToolCallText(NAMES)
    after = "" if not said.endswith("</tool_call>") else written("say", {})
    pieces = parser.feed(f"Well,\n{said}{after}")
    pieces += parser.finish(f"Well,\n{said}{after}") or []
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == f"Well,\n{said}"
    assert len(parser.calls) == bool(after) and len(parser.notes) == 1


def test_a_model_that_repeats_itself_costs_no_time() -> None:
    said = '<tool_call>{"name": "</tool_call>' * 1000
    assert read([said])[0] == said
    assert read([said, written("say", {})])[:2] == (said, [("say", {})])


def test_a_call_whose_last_tag_was_left_out_is_a_call() -> None:
    assert read(['<tool_call>\n{"name": "say", "arguments": "{\\"text\\": \\"hi\\"}"}\n'])[1] == [
        ("say", {"text": "hi"})
    ]


def test_without_parallel_calls_only_the_first_counts() -> None:
    text = written("say", {}) + "\n" + written("move", {})
    assert read([text], parallel=False)[1] == [("say", {})]
    assert read(list(text), parallel=False)[1] == [("say", {})]


def test_a_final_text_that_is_not_what_was_streamed_is_noticed() -> None:
    parser = ToolCallText(NAMES)
    parser.feed("one")
    assert parser.finish("two") is None


QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- "# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with \
function signatures within <tools></tools> XML tags:\\n<tools>" }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{{- "\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n\
</tool_call><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' + message.content }}
{%- for tool_call in message.tool_calls or [] %}
{%- if (loop.first and message.content) or not loop.first %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + tool_call.function.name + '", "arguments": ' + tool_call.function.arguments }}
{{- '}\\n</tool_call>' }}
{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}{{- '<|im_start|>assistant\\n' }}
"""
"""The parts of Qwen3-VL's chat template that are about text and tools."""


def test_the_texts_are_those_of_qwens_chat_template() -> None:
    import jinja2

    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(QWEN)
    tools = [
        {"type": "function", "function": {"name": name, "description": "Für <alle>.", "parameters": {}}}
        for name in NAMES
    ]
    asked = [("move", '{"x": 1}'), ("say", '{"text": "hi"}')]
    whole: list[dict[str, Any]] = [
        {"role": "system", "content": "You are a robot."},
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "I go.",
            "tool_calls": [{"function": {"name": name, "arguments": arguments}} for name, arguments in asked],
        },
        {"role": "tool", "content": "done"},
        {"role": "tool", "content": "said"},
    ]
    as_text = [
        {"role": "system", "content": f"You are a robot.\n\n{tools_text(tools)}"},
        whole[1],
        {"role": "assistant", "content": calls_text("I go.", asked)},
        {"role": "user", "content": results_text(["done", "said"])},
    ]
    assert template.render(messages=as_text) == template.render(messages=whole, tools=tools)
