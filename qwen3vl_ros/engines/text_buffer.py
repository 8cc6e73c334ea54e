"""A buffer for text that arrives in pieces."""

from __future__ import annotations


class TextBuffer:
    """A text that grows at its end.

    Appending, and reading the text appended last, take a time that does not depend on the total length; ``text +=
    piece`` for an attribute copies all of it for every token. One thread may append while others read.
    """

    def __init__(self, text: str = "") -> None:
        self.pieces = [text] if text else []
        self._length = len(text)

    def append(self, piece: str) -> None:
        """Add ``piece`` at the end."""
        if piece:
            self.pieces.append(piece)
            self._length += len(piece)

    def since(self, start: int) -> str:
        """Return the text from index ``start`` on, in time that depends on the length of the result alone."""
        wanted = self._length - start
        found: list[str] = []
        for piece in reversed(self.pieces):
            if wanted <= 0:
                break
            found.append(piece[-wanted:])
            wanted -= len(piece)
        return "".join(reversed(found))

    def __str__(self) -> str:
        return "".join(self.pieces)

    def __len__(self) -> int:
        return self._length
