"""`qwen3vl-ros param`: reads and sets parameters of a running node."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterDescriptor, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.parameter import get_parameter_value, parameter_value_to_python

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection


class NodeParameters:
    """The parameters of the node at the other end of ``connection``.

    Every method may raise ServerUnavailable and NotSpinning.

    Args:
        connection: To the node.
        start: What starts such a node, for the error.
    """

    def __init__(self, connection: Connection, start: str = "qwen3vl-ros node") -> None:
        self._connection = connection
        self._start = start

    def show(self, name: str) -> int:
        """Print the value of a parameter; return the exit status."""
        values = self._values([name])
        if not _is_known(values):
            return self._print_unknown(name)
        print(_text(values[0]))
        return 0

    def value(self, name: str) -> Any:
        """Return the value of a parameter as Python has it; None if there is no such parameter."""
        values = self._values([name])
        return parameter_value_to_python(values[0]) if _is_known(values) else None

    def change(self, name: str, text: str) -> int:
        """Set a parameter to ``text``, read as YAML; print the node's refusal, if any; return the exit status."""
        descriptors = self._describe([name])
        if not _is_known(descriptors):
            return self._print_unknown(name)
        parameter = ParameterMessage(name=name, value=_parse(text, descriptors[0]))
        request = SetParameters.Request(parameters=[parameter])
        (result,) = self._call(SetParameters, "set_parameters", request).results
        if not result.successful:
            print(result.reason or f"{self._connection.name} refused {name} without a reason.", file=sys.stderr)
            return 2
        return 0

    def list_all(self, prefix: str) -> int:
        """Print each parameter that begins with ``prefix``, its value and description; return the exit status."""
        names = [name for name in self._names() if name.startswith(prefix)]
        if not names:
            print(f"No parameter of {self._connection.name} begins with {prefix}.", file=sys.stderr)
            return 2
        for name, value, descriptor in zip(names, self._values(names), self._describe(names), strict=True):
            print(f"{name}: {_text(value)}")
            if about := _about(descriptor):
                print(f"    {about}")
        return 0

    def _print_unknown(self, name: str) -> int:
        near = difflib.get_close_matches(name, self._names(), 1)
        meant = f"; did you mean {near[0]}?" if near else ": `qwen3vl-ros param list` has all."
        print(f"{self._connection.name} has no parameter {name}{meant}", file=sys.stderr)
        return 2

    def _names(self) -> list[str]:
        return sorted(self._call(ListParameters, "list_parameters", ListParameters.Request()).result.names)

    def _values(self, names: Sequence[str]) -> Sequence[ParameterValue]:
        values: Sequence[ParameterValue] = self._call(
            GetParameters, "get_parameters", GetParameters.Request(names=names)
        ).values
        return values

    def _describe(self, names: Sequence[str]) -> Sequence[ParameterDescriptor]:
        descriptors: Sequence[ParameterDescriptor] = self._call(
            DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)
        ).descriptors
        return descriptors

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        return self._connection.call(kind, service, request, start=self._start)


def _is_known(found: Sequence[ParameterValue | ParameterDescriptor]) -> bool:
    """Return whether a reply is about a parameter that the node has; about others it is empty, or of no type."""
    return len(found) == 1 and found[0].type != ParameterType.PARAMETER_NOT_SET


def _parse(text: str, descriptor: ParameterDescriptor) -> ParameterValue:
    """Return the value in ``text``, of the parameter's type where YAML leaves a choice: 3 may be a number or a text."""
    if descriptor.type == ParameterType.PARAMETER_STRING:
        return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=_string(text))
    try:
        value = get_parameter_value(text)
    except yaml.YAMLError:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
    if (descriptor.type, value.type) == (ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_INTEGER):
        return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=float(value.integer_value))
    return value


def _string(text: str) -> str:
    """Return the text without the quotation marks of YAML, if it has any."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str) else text


def _text(value: ParameterValue) -> str:
    """Return the value as a parameter file has it."""
    python = parameter_value_to_python(value)
    if isinstance(python, str):
        return python
    plain = list(python) if isinstance(python, Sequence) else python
    text: str = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("...\n").strip()


def _about(descriptor: ParameterDescriptor) -> str:
    """Return what the node says about a parameter, in a line."""
    remarks = [descriptor.description, descriptor.additional_constraints]
    remarks += [
        f"Range {bounds.from_value:g} to {bounds.to_value:g}."
        for bounds in (*descriptor.floating_point_range, *descriptor.integer_range)
    ]
    remarks += ["Fixed at start."] if descriptor.read_only else []
    return " ".join(" ".join(filter(None, remarks)).split())
