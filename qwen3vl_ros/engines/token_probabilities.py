"""What a model thought of each token of its answer: its probability, and the alternatives it had in that place.

The probabilities are the model's own: softmax over the whole vocabulary of the logits, at temperature 1, before any
sampling option and before a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Alternative: TypeAlias = tuple[bytes, float]
"""The bytes of a token, b"" for one without text such as the end of the answer, and its probability."""

MOST_ALTERNATIVES: Final = 20
"""Most tokens told for one place: as many as OpenAI's API tells."""

MAY_BE_CLOSED: Final = (b"[", b"}")
"""Ends of tokens after which a list may end. If there is a token of such a text and ``]``, it is told with it, however
improbable it is: a model that ends the list there writes that one, so that the shorter one means something else."""

_LEAST: Final = 1e-5
"""Tokens that are less probable are not told. Without a limit, most would be told for tokens without any doubt."""


class Token(NamedTuple):
    """A token of an answer: its bytes (UTF-8, possibly a part of a character), its probability, and other tokens."""

    text: bytes
    probability: float
    others: tuple[Alternative, ...] = ()

    @property
    def all(self) -> tuple[Alternative, ...]:
        """The token itself, first, and its alternatives."""
        return ((self.text, self.probability), *self.others)


def token_of_logits(
    logits: NDArray[np.float32], chosen: int, text_of: Callable[[int], bytes], closed: Callable[[bytes], int | None]
) -> Token:
    """Return the token ``chosen`` with its alternatives.

    Args:
        logits: float32 [n_vocab], before any sampling option.
        chosen: Id of the token that was sampled.
        text_of: Returns the bytes of the token with an id.
        closed: Returns the id of the token that is a text and the bracket ``]`` in one, None if there is none.
    """
    weights = np.exp(logits - logits.max())
    total = float(weights.sum(dtype=np.float64))
    likely = np.flatnonzero(weights >= _LEAST * total)
    if len(likely) > MOST_ALTERNATIVES:
        likely = likely[np.argpartition(weights[likely], -MOST_ALTERNATIVES)[-MOST_ALTERNATIVES:]]
    told = {chosen: text_of(chosen)} | {int(i): text_of(int(i)) for i in likely}
    for text in [text for text in told.values() if text.endswith(MAY_BE_CLOSED)]:
        end = closed(text)
        if end is not None:
            told.setdefault(end, text + b"]")
    first, *others = ((text, float(weights[i]) / total) for i, text in told.items())
    return Token(*first, tuple(others))
