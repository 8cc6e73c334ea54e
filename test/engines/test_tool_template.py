"""Whether a chat template knows tools."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.engines.tool_template import format_of_name, format_of_template

HERMES = (
    "{% if tools %}<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
)
QWEN3_5 = (
    "{% if tools %}<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n<tool_call>\n"
    "<function=example_function_name>\n</function>\n</tool_call>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (HERMES + "{{ messages[0].content }}", "hermes"),
        (QWEN3_5, "none"),
        ("{{ messages[0].content }}", "none"),
        ('{{ messages[0].content }}<tool_call>{"name": ', "none"),
        ("{{ raise() }}", "none"),
    ],
)
def test_a_template_is_tried_out(template: str, found: str) -> None:
    def render(tools: Any) -> str:
        try:
            return jinja2.Template(template).render(messages=[{"role": "user", "content": "?"}], tools=tools)
        except jinja2.TemplateError as error:
            raise BadRequest(str(error)) from error

    assert format_of_template(render) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", "hermes"),
        ("qwen3_vl-8b-int4-ov", "hermes"),
        ("Qwen2.5-VL-3B", "none"),
        ("x", "none"),
    ],
)
def test_where_no_template_is_seen_the_name_says_it(name: str, found: str) -> None:
    assert format_of_name(name) == found
