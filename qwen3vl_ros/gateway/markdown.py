"""Renders an answer's Markdown as HTML that a page may show: no scripts, no styles, no addresses but of web pages."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES

LONGEST: Final = 100_000
"""Most characters that are rendered: worse than any answer, and seconds of work for the most hostile text."""

_MOST_COLOURED: Final = 10_000
"""Most characters of an answer's code that are coloured: some patterns of pygments are slow on hostile text."""

_LANGUAGES: Final = frozenset(
    (
        *("bash", "c", "cpp", "css", "diff", "html", "ini", "javascript", "js", "json", "py", "python", "sh", "sql"),
        *("svg", "toml", "ts", "typescript", "urdf", "xml", "yaml", "yml"),
    )
)
"""Languages of code blocks that are coloured: what models write about images and robots, none with slow patterns."""

_AS: Final = {"svg": "xml", "urdf": "xml"}
"""Languages that pygments does not know by this name."""

_TAGS: Final = frozenset(
    (
        *("p", "br", "hr", "em", "strong", "s", "a", "code", "pre", "span", "blockquote", "ul", "ol", "li"),
        *("table", "thead", "tbody", "tr", "th", "td", "h2", "h3", "h4", "h5", "h6"),
    )
)

_FIRST_HEADING: Final = 2
"""Level of an answer's largest heading: the page's own are above."""

_CLEANER: Final = nh3.Cleaner(
    tags=set(_TAGS),
    attributes={"a": {"href", "title"}, "ol": {"start"}},
    allowed_classes={"span": {name for name in STANDARD_TYPES.values() if name}},
    set_tag_attribute_values={"a": {"target": "_blank"}},
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)


def to_html(text: str) -> str:
    """Return ``text``, at most :data:`LONGEST` characters of CommonMark with tables, as clean HTML.

    HTML in it is shown as the text that it is, an image as its description. The time is bounded: nesting beyond 20
    levels is left out.
    """
    return _CLEANER.clean(_MARKDOWN.render(text))


def _fence(tokens: Sequence[Token], index: int, _options: Any, env: dict[str, Any]) -> str:
    """Return the HTML of a code block; ``env`` counts the characters that were coloured."""
    code, language = tokens[index].content, tokens[index].info.strip().lower()
    coloured = env.get("coloured", 0) + len(code)
    if language not in _LANGUAGES or coloured > _MOST_COLOURED:
        return f"<pre><code>{html.escape(code)}</code></pre>\n"
    env["coloured"] = coloured
    lexer = get_lexer_by_name(_AS.get(language, language), stripnl=False)
    return f"<pre><code>{highlight(code, lexer, HtmlFormatter(nowrap=True))}</code></pre>\n"


def _image(tokens: Sequence[Token], index: int, *_: Any) -> str:
    return html.escape(tokens[index].content)


def _heading_levels(state: Any) -> None:
    """Number an answer's headings from the page's on, without gaps: screen readers list them by level."""
    headings = [token for token in state.tokens if token.type in ("heading_open", "heading_close")]
    levels = sorted({token.tag for token in headings})
    for token in headings:
        token.tag = f"h{min(6, _FIRST_HEADING + levels.index(token.tag))}"


def _renderer() -> MarkdownIt:
    # breaks: models write a line where they mean one.
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True})
    markdown.enable(["table", "strikethrough"])
    markdown.core.ruler.push("heading_levels", _heading_levels)
    markdown.add_render_rule("image", lambda _self, *arguments: _image(*arguments))
    markdown.add_render_rule("fence", lambda _self, *arguments: _fence(*arguments))
    return markdown


_MARKDOWN: Final = _renderer()
