"""Answers as HTML: what Markdown becomes, that nothing in it can run, and that hostile text stalls nobody."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from gateway_server import Server, serving
from qwen3vl_ros.gateway.markdown import LONGEST, to_html


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def test_markdown_tables_and_code_become_html(http: httpx.Client) -> None:
    text = "**box** ~~x~~\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(): pass  # c\n```\n"
    html = http.post("/api/render", json={"text": text}).raise_for_status().json()["html"]
    assert "<p><strong>box</strong> <s>x</s></p>" in html
    assert "<td>1</td>" in html
    assert '<span class="k">def</span>' in html
    assert '<span class="c1"># c</span>' in html


def test_a_line_stays_a_line() -> None:
    assert to_html("one\ntwo") == "<p>one<br>\ntwo</p>\n"


def test_headings_come_below_the_pages_own_and_without_gaps() -> None:
    assert re.findall(r"<h\d>", to_html("# a\n\n#### b\n\n# c\n")) == ["<h2>", "<h3>", "<h2>"]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](&#106;avascript:alert(1)) [d](java\tscript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>) ![b](data:image/png;base64,AAAA) [c](vbscript:x)",
        "[a](/v1/models) [b](//elsewhere.example) [c](file:///etc/passwd)",
        "![a](https://elsewhere.example/pixel.png)",
        '```" onclick="alert(1)\nx\n```',
        '```html\n<script>alert(1)</script>\n```\n\n```python\n"</span><script>alert(1)</script>"\n```',
        '[a](https://a.example "\\" onmouseover=alert(1)")',
        "<https://a.example/\" onclick='alert(1)>",
        "<svg onload=alert(1)>\n\n<style>*{display:none}</style>\n\n<iframe src=javascript:alert(1)>",
        "a\0b <\0script>alert(1)</script>",
    ],
)
def test_nothing_in_an_answer_can_run_or_load(text: str) -> None:
    html = to_html(text)
    for tag, attributes in re.findall(r"<([a-z]\w*)([^>]*)>", html):
        assert tag in {"p", "a", "br", "pre", "code", "span"}, html
        written = re.sub(r'"[^"]*"', '""', attributes)
        assert set(re.findall(r"([\w-]+)=", written)) <= {"href", "title", "target", "rel", "class"}, html
    for address in re.findall(r'href="([^"]*)"', html):
        assert address.startswith("https://"), html


def test_links_leave_no_trace_and_open_elsewhere() -> None:
    html = to_html("[a](https://a.example)")
    assert 'target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow"' in html


@pytest.mark.parametrize("unit", ["> ", "- ", "[", "![", "*a ", "**a *b _c ", "a\n", "```c\n\n\n\n\n", "|a", "<a"])
def test_others_are_served_while_hostile_text_is_rendered(server: Server, http: httpx.Client, unit: str) -> None:
    text = (unit * LONGEST)[:LONGEST]
    responses: list[httpx.Response] = []
    rendering = threading.Thread(target=lambda: responses.append(http.post("/api/render", json={"text": text})))
    served, begin = 0, time.monotonic()
    rendering.start()
    with server.client() as other:
        while rendering.is_alive():
            assert other.get("/health").status_code == 200
            served += 1
    if time.monotonic() - begin > 1:  # else it was so quick that nobody had to wait
        assert served >= 5
    assert responses[0].status_code == 200
    assert len(responses[0].json()["html"]) < 10 * LONGEST


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": "a" * (LONGEST + 1)}, "text: "),
        ({"text": 5}, "text: it has to be a string"),
        ({}, "text: it is required"),
        ([], "it has to be an object"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_a_sentence(http: httpx.Client, body: object, words: str) -> None:
    response = http.post("/api/render", json=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_other_bodies_than_json_are_refused(http: httpx.Client) -> None:
    assert http.post("/api/render", content="text", headers={"Content-Type": "text/plain"}).status_code == 415
    broken = http.post("/api/render", content="{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert "JSON" in broken.json()["error"]["message"]


def test_rendering_wants_the_token_too() -> None:
    with serving(token="sesame-open-please-42") as server, server.client() as http:
        assert http.post("/api/render", json={"text": "a"}).status_code == 401


def test_rendering_has_the_limit_of_other_bodies() -> None:
    with serving(max_request_bytes=10_000) as server, server.client() as http:
        assert http.post("/api/render", json={"text": "a" * 20_000}).status_code == 413
