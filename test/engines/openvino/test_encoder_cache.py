"""The vision network returns what it computed for its last images, and computes it for all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino

import openvino_export
from qwen3vl_ros.engines.openvino.encoder_cache import NETWORK, with_cache

pytest_plugins = ["tiny_model_fixtures"]

Infer = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
OUTPUTS = ("last_hidden_state", "deepstack_feature_lists")


def network(folder: Path) -> Infer:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(folder / f"{NETWORK}.xml"), "CPU", openvino_export.EXACT)
    request = compiled.create_infer_request()

    def infer(images: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: Any = request.infer(images)
        return [found[name].copy() for name in OUTPUTS]

    return infer


def images(patches: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "hidden_states": random.standard_normal((patches, 64), np.float32),
        "attention_mask": np.zeros((1, patches, patches), np.float32),
        "rotary_pos_emb": random.standard_normal((patches, 8), np.float32),
    }


def test_results_are_those_of_the_network_without_a_memory(exported: Path) -> None:
    plain = network(exported)
    with with_cache(exported) as linked:
        remembering = network(linked)
        assert (linked / "config.json").read_bytes() == (exported / "config.json").read_bytes()
    assert not linked.exists()  # and the network works without
    one, other, small = images(48, 1), images(48, 2), images(16, 3)
    turned = one | {"rotary_pos_emb": other["rotary_pos_emb"]}
    for asked in (one, one, other, other, one, small, one, turned, one):
        for found, expected in zip(remembering(asked), plain(asked), strict=True):
            assert np.array_equal(found, expected)


def test_known_images_are_not_computed_again(exported: Path) -> None:
    with with_cache(exported) as linked:
        remembering = network(linked)
    one, other = images(48, 1), images(48, 2)
    # Nothing else tells a result that was kept from one that was computed: this input is not compared.
    masked = one | {"attention_mask": np.triu(np.full((1, 48, 48), -1e4, np.float32), 1)}
    first = remembering(one)
    assert np.array_equal(remembering(masked)[0], first[0])
    remembering(other)
    assert not np.array_equal(remembering(masked)[0], first[0])
