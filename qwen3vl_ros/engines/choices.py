"""How likely a model begins its answer with each of some choices, such as yes and no.

The probabilities are those of the model itself: softmax over the whole vocabulary of the logits for the first token of
the answer (the first with a letter or digit in it, after the reasoning), at temperature 1 and before any sampling
option. A token counts for a choice when, without case and what is no letter or digit around it, one of the choice's
words begins with it: "Yes", " yes," and "Ye" count for "yes". One with which words of several choices begin counts for
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

Choices: TypeAlias = Sequence[Sequence[str]]
"""Words in groups that mean the same."""


def bare(text: str) -> str:
    """``text`` without case and what is no letter or digit around it."""
    begin, end = 0, len(text)
    while begin < end and not text[begin].isalnum():
        begin += 1
    while begin < end and not text[end - 1].isalnum():
        end -= 1
    return text[begin:end].casefold()


def beginnings(choices: Choices) -> Mapping[str, int]:
    """Every bare text that a word of one choice only begins with, and the number of that choice."""
    found: dict[str, set[int]] = {}
    for number, words in enumerate(choices):
        for word in map(bare, words):
            for length in range(1, len(word) + 1):
                found.setdefault(word[:length], set()).add(number)
    return {begin: numbers.pop() for begin, numbers in found.items() if len(numbers) == 1}


def probabilities(tokens: Iterable[tuple[str, float]], choices: Choices) -> tuple[float, ...]:
    """The probability of each choice, given (text, probability) of the tokens that may come first."""
    begins = beginnings(choices)
    sums = [0.0] * len(choices)
    for text, probability in tokens:
        number = begins.get(bare(text))
        if number is not None:
            sums[number] += probability
    return tuple(sums)


class FirstToken:
    """Keeps the ``probabilities`` at the first token of an answer that has a letter or digit in it."""

    def __init__(self, choices: Choices) -> None:
        """Without ``choices`` there is nothing to wait for."""
        self.probabilities: tuple[float, ...] | None = None
        self._wanted = self._waiting = bool(choices)

    def take(self, token: str, read: Callable[[], tuple[float, ...] | None]) -> None:
        """Keep the probabilities if ``token`` is the first one that counts.

        Args:
            token: Text that the answer goes on with, U+FFFD for a part of a character.
            read: Returns the probability of each choice at this place; called once.
        """
        if self._waiting and any(letter.isalnum() or letter == "\ufffd" for letter in token):
            self.probabilities = read()
            self._waiting = False

    def reset(self) -> None:
        """Start anew: what came so far was reasoning."""
        self.probabilities = None
        self._waiting = self._wanted
