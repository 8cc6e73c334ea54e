"""What an answer counts, beside what it lists."""

from __future__ import annotations

import json


def count_notes(text: str) -> list[str]:
    """Return a sentence where JSON ``text`` has a ``count`` that is not the length of its list; "" = no JSON.

    That is an object with an integer ``count`` and a single list, as the task ``count_events`` answers.
    """
    value = json.loads(text) if text else None
    if not isinstance(value, dict) or type(value.get("count")) is not int:
        return []
    lists = [(name, entry) for name, entry in value.items() if isinstance(entry, list)]
    if len(lists) != 1 or len(lists[0][1]) == value["count"]:
        return []
    ((name, listed),) = lists
    return [
        f"the answer counts {value['count']} and lists {len(listed)} in {name}: the model contradicts itself; "
        "go by the list, or ask again"
    ]
