"""The VlmClient that the leaves of a tree share: made with the first of them, closed with the last."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.client.vlm_client import VlmClient

if TYPE_CHECKING:
    from py_trees.behaviour import Behaviour
    from rclpy.node import Node


@dataclass(slots=True)
class _Shared:
    """A client. ``owner``: the ROS node, or the root of the tree, that it belongs to; kept, so that its id stays."""

    owner: Any
    client: VlmClient
    users: int = 0


_lock = threading.Lock()
_shared: dict[tuple[int, str], _Shared] = {}


def take_client(leaf: Behaviour, node: Node | None, node_name: str) -> VlmClient:
    """Return the client of ``node`` or, without one, of the tree that ``leaf`` is in; give it back afterwards.

    Args:
        leaf: Who uses it.
        node: A node that the caller spins. None: the client has a node and a thread of its own.
        node_name: Of the vlm node, as :class:`VlmClient` takes it.
    """
    owner = _root(leaf) if node is None else node
    with _lock:
        key = (id(owner), node_name)
        if key not in _shared:
            _shared[key] = _Shared(owner, VlmClient(node, node_name=node_name))
        _shared[key].users += 1
        return _shared[key].client


def give_back_client(client: VlmClient) -> None:
    """End one use of a client; the last one closes it."""
    with _lock:
        key = next(key for key, shared in _shared.items() if shared.client is client)
        _shared[key].users -= 1
        last = _shared[key].users == 0
        if last:
            del _shared[key]
    if last:
        client.close()


def _root(leaf: Behaviour) -> Behaviour:
    while leaf.parent is not None:
        leaf = leaf.parent
    return leaf
