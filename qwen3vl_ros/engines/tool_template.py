"""Whether a model's chat template knows tools, and how the calls of such a model look.

One format is known, Hermes', which Qwen2.5, Qwen3 and Qwen3-VL are trained with: the system message lists the tools,
and a call is JSON between ``<tool_call>`` and ``</tool_call>``. Qwen3.5's has the same tags around XML: another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from qwen3vl_ros.engines.base import BadRequest

DETAIL: Final = "tools"
"""Key of :attr:`Description.details` under which an engine tells the format; without it, nothing is known of tools."""

HERMES: Final = "hermes"
NONE: Final = "none"

_PROBE: Final = {"type": "function", "function": {"name": "probe_of_the_template", "parameters": {"type": "object"}}}
_EXAMPLE: Final = re.compile(r'<tool_call>\s*\{"name": ')
_KNOWN: Final = re.compile(r"qwen3[-_ ]?vl", re.IGNORECASE)


def format_of_template(render: Callable[[Sequence[Mapping[str, Any]]], str]) -> str:
    """Return the format of a chat template, :data:`HERMES` or :data:`NONE`, by trying it out.

    Args:
        render: Returns the prompt of a question with these tools.
    """
    try:
        rendered = render([_PROBE])
    except BadRequest:
        return NONE
    knows = _PROBE["function"]["name"] in rendered and _EXAMPLE.search(rendered)  # type: ignore[index]
    return HERMES if knows else NONE


def format_of_name(model: str) -> str:
    """Return the format of a published model, where the template is a server's and not seen: that of Qwen3-VL."""
    return HERMES if _KNOWN.search(model) else NONE
