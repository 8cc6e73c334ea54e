"""Computes the probability that a model begins its answer with each of several choices, such as yes and no.

The probabilities are the model's own: softmax over the whole vocabulary of the logits of the answer's first token (the
first with a letter or digit in it, after the reasoning), at temperature 1 and before any sampling option. A token is
reduced to its bare text: case-folded, without the characters around it that are no letters or digits. It counts for a
choice if one of the choice's words begins with its bare text: "Yes", " yes," and "Ye" count for "yes". A token that
words of several choices begin with counts for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

Choices: TypeAlias = Sequence[Sequence[str]]
"""Groups of synonyms."""


def bare(text: str) -> str:
    """Return ``text`` case-folded, without the characters around it that are no letters or digits."""
    begin, end = 0, len(text)
    while begin < end and not text[begin].isalnum():
        begin += 1
    while begin < end and not text[end - 1].isalnum():
        end -= 1
    return text[begin:end].casefold()


def beginnings(choices: Choices) -> Mapping[str, int]:
    """Return every bare text that words of exactly one choice begin with, and the index of that choice."""
    found: dict[str, set[int]] = {}
    for number, words in enumerate(choices):
        for word in map(bare, words):
            for length in range(1, len(word) + 1):
                found.setdefault(word[:length], set()).add(number)
    return {begin: numbers.pop() for begin, numbers in found.items() if len(numbers) == 1}


def probabilities(tokens: Iterable[tuple[str, float]], choices: Choices) -> tuple[float, ...]:
    """Return the probability of each choice, given (text, probability) of the candidates for the first token."""
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
        """Watch for ``choices``; without any, ``probabilities`` stays None."""
        self.probabilities: tuple[float, ...] | None = None
        self._wanted = self._waiting = bool(choices)

    def take(self, token: str, read: Callable[[], tuple[float, ...] | None]) -> None:
        """Keep the probabilities if ``token`` is the first one that counts.

        Args:
            token: Text of the answer's next token, U+FFFD for a part of a character.
            read: Returns the probability of each choice at this position; called once.
        """
        if self._waiting and any(letter.isalnum() or letter == "\ufffd" for letter in token):
            self.probabilities = read()
            self._waiting = False

    def reset(self) -> None:
        """Start again: the tokens so far were reasoning."""
        self.probabilities = None
        self._waiting = self._wanted
