"""Parameters of a node as fields of a dataclass: declared, checked, read and written down from one description each.

A field is made by :func:`text`, :func:`texts`, :func:`flag`, :func:`choice` or :func:`number`; its metadata has the
description, the range or the choices, and ``live``: whether it may change while the node runs. A field whose
``default_factory`` is a dataclass is a group of parameters, ``llama.model`` and so on.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

SettingsT = TypeVar("SettingsT")
Check = Callable[[Any], str]
"""Returns what is wrong with a value, to follow the parameter's name and a colon; "" if nothing is."""

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text; put it between quotation marks",
    tuple: 'a list of texts, such as ["a", "b"]',
}
_WIDTH = 116
"""Columns of a parameter file's comments."""


class ParameterError(ValueError):
    """A node cannot start with what its parameters say; the text is a sentence that names one."""


# --- fields -----------------------------------------------------------------------------------------------------------


def text(default: str, description: str, *, live: bool = False, check: Check | None = None) -> Any:
    """A text for which ``check`` finds nothing wrong."""
    return _field(default, description, live, check=check)


def texts(default: tuple[str, ...], description: str, *, live: bool = False) -> Any:
    """A list of texts. ROS cannot tell the type of an empty list: ``("",)`` stands for one."""
    return _field(default, description, live)


def flag(default: bool, description: str, *, live: bool = False) -> Any:
    """True or false."""
    return _field(default, description, live)


def choice(default: str | int, choices: Sequence[str | int], description: str, *, live: bool = False) -> Any:
    """One of a few texts or whole numbers."""
    return _field(default, description, live, choices=tuple(choices))


def number(
    default: float, low: float, high: float, description: str, *, live: bool = False, check: Check | None = None
) -> Any:
    """A number from ``low`` to ``high`` for which ``check`` finds nothing wrong; whole if ``default`` is."""
    return _field(default, description, live, range=(low, high), check=check)


def _field(default: Any, description: str, live: bool, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"description": description, "live": live, **more})


def groups(kind: Any) -> dict[str, Any]:
    """The groups of a dataclass by name."""
    found = {one.name: one.default_factory for one in dataclasses.fields(kind)}
    return {name: factory for name, factory in found.items() if dataclasses.is_dataclass(factory)}


def described(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Every parameter of a dataclass by its full name: a field with ``default`` and ``metadata``."""
    inner = groups(kind)
    known = {prefix + one.name: one for one in dataclasses.fields(kind) if one.name not in inner}
    for name, of_group in inner.items():
        known |= described(of_group, f"{prefix}{name}.")
    return known


# --- on a node --------------------------------------------------------------------------------------------------------


def declare(
    node: Node, kind: type[SettingsT], *, read_only: bool = False, undescribed: Sequence[str] = ()
) -> SettingsT:
    """Declare every parameter of a dataclass, and log a warning for whatever else is set.

    Args:
        node: Gets the parameters.
        kind: The dataclass.
        read_only: Whether parameters that are not live can never change.
        undescribed: Groups with parameters that are not known here: what is set in them is declared as it is.

    Returns:
        What the parameters are.

    Raises:
        ParameterError: One is set to what it cannot be.
    """
    known, given = described(kind), overrides(node)
    for name, parameter in known.items():
        value = given[name].value if name in given else parameter.default
        declare_as(node, name, parameter, value, read_only=read_only)
    for name in given:
        group_name = name.split(".")[0]
        if node.has_parameter(name) or group_name == "qos_overrides":  # ours, or rclpy's own
            continue
        if group_name in undescribed:
            if given[name].value is None:
                raise ParameterError(_without_type(name))
            node.declare_parameter(name, given[name].value)
        else:
            node.get_logger().warning(f"there is no parameter {name}, so it has no effect{_hint(name, known)}")
    return read(node, kind)


def declare_as(node: Node, name: str, parameter: Any, value: Any, *, read_only: bool = False) -> None:
    """Declare a parameter with a value, described as a field says; if it is declared already, anew.

    Raises:
        ParameterError: It cannot be that.
    """
    if type(parameter.default) is float and type(value) is int:
        value = float(value)  # people write 60 in parameter files
    if reason := _problem(name, parameter, value):
        raise ParameterError(reason)
    if node.has_parameter(name):
        node.undeclare_parameter(name)
    descriptor = _descriptor(parameter, read_only=read_only and not parameter.metadata["live"])
    node.declare_parameter(name, _ros_value(value), descriptor, ignore_override=True)


def read(node: Node, kind: type[SettingsT], prefix: str = "") -> SettingsT:
    """The parameters as they are."""
    values: dict[str, Any] = {}
    inner = groups(kind)
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        if one.name in inner:
            values[one.name] = read(node, inner[one.name], f"{prefix}{one.name}.")
        else:
            value = node.get_parameter(prefix + one.name).value
            values[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def check(kind: Any, changes: Sequence[Parameter[Any]], *, fixed: str = "") -> SetParametersResult:
    """Whether changes may be made now; the refusal says why not.

    Args:
        kind: The dataclass of the parameters; others may change.
        changes: What is to be set. ROS has looked at types and ranges.
        fixed: Why parameters that are not live cannot change now, to follow a name; "" if they can.
    """
    known = described(kind)
    for change in changes:
        if change.name not in known:
            continue
        parameter = known[change.name]
        reason = _problem(change.name, parameter, change.value)
        if fixed and not parameter.metadata["live"]:
            reason = f"{change.name} {fixed}"
        if reason:
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def overrides(node: Node) -> Mapping[str, Parameter[Any]]:
    """What command line and parameter files set for a node, whether or not it has such parameters."""
    with node.handle:
        found: Mapping[str, Parameter[Any]] = node.handle.get_parameters(Parameter)
    return found


def _problem(name: str, parameter: Any, value: Any) -> str:
    if value is None and isinstance(parameter.default, tuple):
        return _without_type(name)
    if not _is_like(value, parameter.default):
        shown = [] if value is None else value
        return f"{name}: {shown!r} is not {_KINDS[type(parameter.default)]}"
    if "choices" in parameter.metadata and value not in parameter.metadata["choices"]:
        return f"{name}: {value!r} is none of {_listed(parameter.metadata['choices'])}"
    if "range" in parameter.metadata:
        low, high = parameter.metadata["range"]
        if not low <= value <= high:
            return f"{name}: {value!r} is not within {_span(parameter)}"
    reason = parameter.metadata["check"](value) if parameter.metadata.get("check") else ""
    return f"{name}: {reason}" if reason else ""


def _without_type(name: str) -> str:
    return f'{name}: ROS cannot tell the type of an empty list; write [""], or leave it out'


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return type(value) is type(default)


def _hint(name: str, known: Mapping[str, Any]) -> str:
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    alike += [other for other in known if other.split(".")[-1] == name][:1]
    return f"; did you mean {alike[-1]}?" if alike else ""


def _descriptor(parameter: Any, *, read_only: bool) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=_description(parameter), read_only=read_only)
    if "range" in parameter.metadata:
        low, high = parameter.metadata["range"]
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# --- written down -----------------------------------------------------------------------------------------------------


def as_yaml(kind: Any, indent: str = "") -> str:
    """Every parameter at its default under its description, as a parameter file has them."""
    lines = []
    inner = groups(kind)
    for one in dataclasses.fields(kind):
        if one.name in inner:
            lines += [f"{indent}# {title(inner[one.name])}", f"{indent}{one.name}:"]
            lines.append(as_yaml(inner[one.name], indent + "  "))
        else:
            comment = _description(one)
            if "range" in one.metadata:
                comment += f" Range {_span(one)}."
            if one.metadata["live"]:
                comment += " [live]"
            start = f"{indent}# "
            lines += textwrap.wrap(comment, _WIDTH, initial_indent=start, subsequent_indent=start)
            lines.append(f"{indent}{one.name}: {json.dumps(one.default)}")
    return "\n".join(lines)


def as_markdown(kind: Any) -> str:
    """A table of the parameters of a dataclass, without those of its groups."""
    lines = ["| name | default | values | live | description |", "|---|---|---|---|---|"]
    inner = groups(kind)
    for one in dataclasses.fields(kind):
        if one.name not in inner:
            values = _span(one) if "range" in one.metadata else _listed(one.metadata.get("choices", ()))
            live = "yes" if one.metadata["live"] else ""
            cells = (f"`{one.name}`", f"`{json.dumps(one.default)}`", values, live, one.metadata["description"])
            lines.append("| " + " | ".join(re.sub(r"([|<])", r"\\\1", cell) for cell in cells) + " |")
    return "\n".join(lines)


def title(kind: type) -> str:
    """What the parameters of a dataclass are for: the first line of its description."""
    return (kind.__doc__ or "").splitlines()[0]


def _description(parameter: Any) -> str:
    description: str = parameter.metadata["description"]
    choices = parameter.metadata.get("choices")
    return f"{description} One of: {_listed(choices)}." if choices else description


def _listed(choices: Sequence[object]) -> str:
    return ", ".join(str(choice) or "(empty)" for choice in choices)


def _span(parameter: Any) -> str:
    return " to ".join(
        f"{limit:g}" if isinstance(limit, float) else str(limit) for limit in parameter.metadata["range"]
    )
