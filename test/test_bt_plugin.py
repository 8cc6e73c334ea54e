"""The package for BehaviorTree.CPP says the same in its source, in its model for Groot2 and on its page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "examples" / "bt_plugin"
SOURCE = (PLUGIN / "src" / "nodes.cpp").read_text(encoding="utf-8")
NODES = ("VlmAsk", "VlmLocate", "VlmCheck")


def in_source(function: str) -> dict[str, str]:
    """The ports that a function of the source names, and their directions."""
    body = SOURCE.split(f"{function}(", 1)[1].split("\n}\n", 1)[0]
    return {
        port: direction.lower() for direction, port in re.findall(r"BT::(In|Out)putPort<[\w:<>]+>\(\s*\"(\w+)\"", body)
    }


COMMON = in_source("PortsList VlmAction::ports")


def on_the_page() -> dict[str, dict[str, str]]:
    """The ports of the page's table, by node; "all" has those of all."""
    page = (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
    table = page.split("| node | port |", 1)[1].split("\n\n", 1)[0]
    found: dict[str, dict[str, str]] = {}
    name = ""
    for node, ports, direction in re.findall(r"^\| ?(\S*) \| (`[^|]+) \| (in|out) \|", table, re.MULTILINE):
        name = node.strip("`") or name
        found.setdefault(name, {}).update(dict.fromkeys(re.findall(r"`(\w+)`", ports), direction))
    return found


@pytest.mark.parametrize("node", NODES)
def test_the_page_has_the_ports_of_the_source(node: str) -> None:
    assert on_the_page()["all"] == COMMON
    assert on_the_page()[node] == in_source(f"PortsList {node}::providedPorts")


@pytest.mark.parametrize("node", NODES)
def test_the_model_for_groot_has_the_ports_of_the_source(node: str) -> None:
    model = ElementTree.parse(PLUGIN / "trees" / "find.xml").find(f".//Action[@ID='{node}']")
    ports = {port.get("name"): port.tag.removesuffix("put_port") for port in model}
    assert ports == COMMON | in_source(f"PortsList {node}::providedPorts")


def test_trees_use_ports_that_there_are() -> None:
    page = (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```xml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    trees = (ElementTree.fromstring(example), ElementTree.parse(PLUGIN / "trees" / "find.xml").getroot())
    used = [element for tree in trees for element in tree.iter() if element.tag in NODES]
    assert {element.tag for element in used} == set(NODES)
    for element in used:
        assert set(element.keys()) <= set(COMMON | in_source(f"PortsList {element.tag}::providedPorts"))


def test_the_codes_that_the_node_knows_do_not_contain_the_one_of_the_plugin() -> None:
    (code,) = re.findall(r"UNREACHABLE = (\d+);", (PLUGIN / "include/qwen3vl_bt/transport.hpp").read_text("utf-8"))
    action = (ROOT / "action" / "AskImage.action").read_text(encoding="utf-8")
    assert code not in re.findall(r"^uint16 \w+=(\d+)", action, re.MULTILINE)
    assert code in (ROOT / "docs" / "behaviours.md").read_text(encoding="utf-8")
