"""The documentation as a site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; mkdocs.yml makes every warning, such as of a dead link or a page that no menu has, an error."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        ("interfaces", [path.stem.lower() for kind in ("action", "msg", "srv") for path in (ROOT / kind).iterdir()]),
        ("commands", ["ask", "watch", "param-set", "record-export"]),
        ("http", ["POST /v1/chat/completions", "GET /api/watches"]),
    ],
)
def test_the_reference_is_made_from_the_sources(site: Path, page: str, parts: list[str]) -> None:
    text = (site / "reference" / page / "index.html").read_text(encoding="utf-8")
    missing = [part for part in parts if f'id="{part}"' not in text and f"<code>{part}</code>" not in text]
    assert not missing
