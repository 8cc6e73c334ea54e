"""`qwen3vl-ros find`: where a thing is, in metres."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen3vl_ros.client import VlmClient
    from qwen3vl_ros.client.found import Found


def find(
    client: VlmClient,
    name: str,
    *,
    frame: str,
    cameras: list[str],
    score_threshold: float | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Print where ``name`` is, or on stderr why that is not known; return the exit status, 1 where it is not.

    Raises:
        VlmError: The question itself failed.
    """
    found = client.find(name, frame=frame, cameras=cameras, score_threshold=score_threshold, timeout=timeout)
    if as_json:
        print(json.dumps(_as_json(found), ensure_ascii=False))
    elif found.position is not None:
        place = found.position
        print(f"{place.x:.3f} {place.y:.3f} {place.z:.3f} {found.frame_id}")
    if not found:
        print(found.reason, file=sys.stderr)
    return 0 if found else 1


def _as_json(found: Found) -> dict[str, object]:
    place = found.position
    return {
        "name": found.name,
        "found": found.found,
        "seen": found.seen,
        "reason": found.reason,
        "position": None if place is None else [place.x, place.y, place.z],
        "frame_id": found.frame_id,
        "stamp": None if found.stamp is None else found.stamp.sec + found.stamp.nanosec * 1e-9,
        "score": found.score,
    }
