"""Makes the vision network return the result for its last images again, in place of computing it.

OpenVINO GenAI encodes the images of every request, also those that it knows: its vision registry keeps what goes into
this network, not what comes out (visual_language/vision_registry.hpp), and ``add_request`` takes no embeddings with
their positions and DeepStack rows. So the network itself remembers, in variables of OpenVINO: an If around it compares
the input with the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

NETWORK = "openvino_vision_embeddings_merger_model"
_KEYS = ("hidden_states", "rotary_pos_emb")
"""The inputs that are compared: patches, and their places. The third, attention_mask, follows from the places."""


@contextmanager
def with_cache(folder: Path) -> Iterator[Path]:
    """Provide a directory with links to the model in ``folder``, and a vision network that remembers.

    What is loaded from it may be used after its end. The copy of the weights, 0.4 GB for the 2B, has no name in the
    file system, so that a process which is killed does not leave it behind.
    """
    with TemporaryFile() as weights, TemporaryDirectory(prefix="qwen3vl_ros-") as name:
        linked = Path(name)
        for file in folder.iterdir():
            if file.stem != NETWORK:
                (linked / file.name).symlink_to(file.resolve())
        (linked / f"{NETWORK}.bin").symlink_to(f"/proc/self/fd/{weights.fileno()}")
        network = openvino.Core().read_model(folder / f"{NETWORK}.xml")
        openvino.serialize(_remembering(network), linked / f"{NETWORK}.xml", linked / f"{NETWORK}.bin")
        yield linked


def _remembering(network: openvino.Model) -> openvino.Model:
    """Return ``network`` with the same inputs and outputs, which it computes only for images other than the last."""
    inputs = {_name(port): ops.parameter(port.get_partial_shape(), port.get_element_type()) for port in network.inputs}
    for name, parameter in inputs.items():
        parameter.output(0).get_tensor().set_names({name})
    outputs = network.outputs
    # What is remembered: keys and outputs, each with its name.
    ports = {name: network.input(name) for name in _KEYS} | {_name(port): port for port in outputs}
    variables = {name: _variable(name, port) for name, port in ports.items()}
    last = {name: ops.read_value(_empty(port), variables[name]) for name, port in ports.items()}

    known = ops.logical_and(*(_are_equal(inputs[name], last[name]) for name in _KEYS))
    choice = ops.if_op(known.output(0))
    kept = {name: ops.parameter(port.get_partial_shape(), port.get_element_type()) for name, port in ports.items()}
    kept_results = {name: ops.result(_copy(parameter)) for name, parameter in kept.items()}
    results = dict(zip(map(_name, outputs), network.get_results(), strict=True))
    results |= {name: ops.result(_copy(network.input(name).get_node())) for name in _KEYS}
    network.add_results([results[name] for name in _KEYS])
    choice.set_then_body(openvino.Model(list(kept_results.values()), list(kept.values()), "known"))
    choice.set_else_body(network)
    for name, parameter in kept.items():
        choice.set_input(last[name].output(0), parameter, None)
    for port in network.inputs:
        choice.set_input(inputs[_name(port)].output(0), None, port.get_node())
    chosen = {name: choice.set_output(kept_results[name], results[name]) for name in ports}

    answers = []
    for name in map(_name, outputs):
        answers.append(ops.result(chosen[name]))
        answers[-1].output(0).get_tensor().set_names({name})
    # The CPU plugin overwrites a variable too early where what is assigned comes straight from an input: hence copies.
    assigned = [ops.assign(_copy(chosen[name]), variable) for name, variable in variables.items()]
    return openvino.Model(answers, assigned, list(inputs.values()))


def _are_equal(one: Any, other: Any) -> Any:
    """Return an If with the output whether two matrices are equal; those of different shapes cannot be compared."""
    left, right = (ops.parameter(node.output(0).get_partial_shape(), openvino.Type.f32) for node in (one, other))
    every = np.array([0, 1])
    compared = ops.result(ops.reduce_logical_and(ops.equal(left, right), every))
    different = ops.result(ops.constant(np.array(False)))
    same_shape = ops.reduce_logical_and(ops.equal(ops.shape_of(one), ops.shape_of(other)), every[:1])
    choice = ops.if_op(same_shape.output(0))
    choice.set_then_body(openvino.Model([compared], [left, right], "same shape"))
    choice.set_else_body(openvino.Model([different], [], "other shape"))
    choice.set_input(one.output(0), left, None)
    choice.set_input(other.output(0), right, None)
    return choice.set_output(compared, different)


def _variable(name: str, port: openvino.Output) -> Variable:
    info = VariableInfo()
    info.variable_id = f"last {name}"
    info.data_shape = port.get_partial_shape()
    info.data_type = port.get_element_type()
    return Variable(info)


def _empty(port: openvino.Output) -> Any:
    """Return a constant of the port's shape, with 0 for what is not known: no image has that."""
    shape = [0 if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]
    return ops.constant(np.zeros(shape, np.float32))


def _copy(node: Any) -> Any:
    return ops.add(node, np.float32(0.0))


def _name(port: openvino.Output) -> str:
    return str(min(port.get_names()))
