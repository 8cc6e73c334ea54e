"""Parts of error messages about an unexpected name or value."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint such as ", did you mean 'locate'?"; "" if no name is similar."""
    near = difflib.get_close_matches(name[:60], list(names))
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def short(value: Any) -> str:
    """Return ``value`` as JSON, truncated if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
