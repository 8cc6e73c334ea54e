"""The images that `qwen3vl-ros batch` asks about: files, folders, patterns, and the pages of PDF documents."""

from __future__ import annotations

import glob
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qwen3vl_ros.sim.sources import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from qwen3vl_ros.client.goal import ImageLike

_PAGE_SIDE: Final = 2000
"""Pixels of the longer side of a page, whose text a model can read then."""

_MOST_SCALE: Final = 8.0
"""Pixels per point of a page that is small."""

_pdfium: Final = threading.Lock()
"""PDFium is not to be called from two threads."""


class InputError(ValueError):
    """There is nothing to ask about; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class BatchImage:
    """An image to ask about: a file, or a page of a PDF document, counted from 1; 0 = no page."""

    path: str
    page: int = 0

    def load(self) -> ImageLike:
        """Return it for :meth:`VlmClient.ask`. Raises :class:`InputError` for a page that cannot be drawn."""
        return self.path if not self.page else _drawn(self.path, self.page)


def images_of(inputs: Sequence[str]) -> list[BatchImage]:
    """Return all images that these words name, in their order, each once.

    Args:
        inputs: Paths of images and PDF documents, of folders (whose images and documents, sorted by name, are taken,
            not those of folders in them), and patterns (``**`` goes into folders).

    Raises:
        InputError: One of them names nothing, or a document cannot be read.
    """
    return list(dict.fromkeys(image for word in inputs for path in _paths(word) for image in _images_in(path)))


def _paths(word: str) -> list[str]:
    path = Path(word)
    if path.is_dir():
        found = sorted(str(file) for file in path.iterdir() if file.is_file() and _is_taken(file))
        kinds = ", ".join((*IMAGE_SUFFIXES, ".pdf"))
        if not found:
            raise InputError(f"The folder {word} has no images: no files that end in {kinds}.")
        return found
    if path.is_file():
        return [word]
    matches = glob.glob(word, recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
    found = sorted(name for name in matches if Path(name).is_file() and _is_taken(Path(name)))
    if not found:
        raise InputError(f"There is no file or folder {word}, and no image that the pattern {word} matches.")
    return found


def _is_taken(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, ".pdf")


def _images_in(path: str) -> Iterator[BatchImage]:
    if Path(path).suffix.lower() != ".pdf":
        yield BatchImage(path)
        return
    with _pdfium, _document(path) as document:
        count = len(document)
    for page in range(1, count + 1):
        yield BatchImage(path, page)


def _document(path: str) -> Any:
    try:
        import pypdfium2
    except ImportError as error:
        raise InputError(f"{path} needs pypdfium2 to be read: pip install pypdfium2 ({error}).") from error
    try:
        return pypdfium2.PdfDocument(path)
    except (pypdfium2.PdfiumError, OSError) as error:
        raise InputError(f"{path} cannot be read as a PDF document: {error}") from error


def _drawn(path: str, number: int) -> Any:
    with _pdfium, _document(path) as document:
        try:
            page = document[number - 1]
            scale = min(_MOST_SCALE, _PAGE_SIDE / max(page.get_size()))
            return page.render(scale=scale).to_pil().convert("RGB")
        except Exception as error:  # pypdfium2 and Pillow raise what they like
            raise InputError(f"Page {number} of {path} cannot be drawn: {error}") from error
