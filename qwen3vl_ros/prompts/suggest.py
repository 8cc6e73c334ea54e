"""What a sentence says about a name or a value that was not expected."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint such as ", did you mean 'locate'?"; "" where no name is like it."""
    near = difflib.get_close_matches(name[:60], list(names))
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def short(value: Any) -> str:
    """``value`` as JSON, its end left out where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
