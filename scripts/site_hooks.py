"""What `mkdocs build` does besides: reference pages from the sources, and links to files outside docs/.

Named in mkdocs.yml as a hook. The pages are made anew with every build, so that they cannot be out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import NonCallableMock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "100"  # argparse's help

from qwen3vl_ros.cli.main import add_commands  # noqa: E402 found through the line above
from qwen3vl_ros.gateway.app import create_app  # noqa: E402
from qwen3vl_ros.gateway.backend import Backend  # noqa: E402
from qwen3vl_ros.gateway.settings import Access, Settings  # noqa: E402

INTERFACES = {
    "Action": "action/*.action",
    "Messages": "msg/*.msg",
    "Services": "srv/*.srv",
}
"""Heading and files of each kind of interface."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages."""
    for name, text in (("interfaces", interfaces()), ("commands", commands()), ("http", http())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn links to files outside docs/ into links to the interfaces' page or the repository."""

    def link(found: re.Match[str]) -> str:
        path = found["path"]
        if re.fullmatch(r"(action|msg|srv)/\w+\.\w+", path):
            return f"]({'../' * page.file.src_uri.count('/')}reference/interfaces.md#{Path(path).stem.lower()})"
        if not (ROOT / path).exists():
            return found[0]  # mkdocs says that it is missing
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{path}{found['anchor']})"

    return re.sub(r"\]\(\.\./(?P<path>[^)#]+)(?P<anchor>#[^)]*)?\)", lambda found: link(found), markdown)


def interfaces() -> str:
    """The interface files as they are: their comments say what each field is."""
    lines = ["# Actions, messages and services", "", "Units, frames and what unset means are in the comments."]
    for heading, pattern in INTERFACES.items():
        lines += ["", f"## {heading}"]
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8").rstrip()
            lines += ["", f"### {path.stem}", "", f"`qwen3vl_ros/{path.relative_to(ROOT).with_suffix('')}`", ""]
            lines += ["```text", text, "```"]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The help of every command and of what it contains."""
    lines = ["# Options of every command", "", "As `--help` prints them. [The command line](../cli.md) explains them."]
    made = argparse.ArgumentParser(prog="qwen3vl-ros").add_subparsers()
    add_commands(made)
    for name, parser in sorted(made.choices.items()):
        lines += ["", f"## {name}", "", "```text", parser.format_help().rstrip(), "```"]
        for action, inner in _inner(parser).items():
            lines += ["", f"### {name} {action}", "", "```text", inner.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _inner(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: inner for action in found for name, inner in action.choices.items()}


def http() -> str:
    """The paths of the gateway, from its OpenAPI document."""
    document = create_app(NonCallableMock(Backend), Settings(), Access(token="", hosts=())).openapi()
    lines = ["# Paths of the HTTP gateway", ""]
    lines += ["From its OpenAPI document, which a running gateway serves as `/openapi.json`.", ""]
    lines += ["| path | does |", "|---|---|"]
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            text = about.get("description", about.get("summary", "")).split("\n\n")[0].replace("\n", " ")
            lines.append(f"| `{method.upper()} {path}` | {text} |")
    return "\n".join(lines) + "\n"
