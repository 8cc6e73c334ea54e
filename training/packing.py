"""Several questions about one image in one sequence, each blind to the others.

    [system prompt, image] [question 1, answer 1] [question 2, answer 2] ...

Every token sees the image and its own question, and each question's positions start right after
the image, so this computes what separate prompts would, with the image encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qwen3vl_ros.engines.clips import time_text
from training.questions import Question
from training.tokenizer import encode_answer

IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """A batch of sequences of length L, padded at the end."""

    ids: Tensor  # long [B, L]
    targets: Tensor  # long [B, L]: the next token where it is part of an answer, else IGNORE
    positions: Tensor  # long [3, B, L]: time, row, column
    mask: Tensor  # float [B, 1, L, L]: 0 where a token sees another, else very negative
    visual: Tensor  # bool [B, L]: the image's tokens
    places: Tensor  # bool [B, L]: the next token is part of the answer to a question for places


def pack(
    tokenizer: PreTrainedTokenizerFast,
    questions: list[list[Question]],
    grid: tuple[int, int],
    system: str | None,
    earlier: Sequence[tuple[str, str]] = (),
) -> Packed:
    """`questions` per image; `grid` is the image's rows and columns of tokens.

    A conversation about one image has the image before its first question (`Question.history`); where each question
    has an image of its own, only the last is shown, after what was asked and answered before (`earlier`).
    """
    rows, columns = grid
    before = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    before += "".join(f"<|im_start|>user\n{_turn(*turn)}" for turn in earlier)
    head = tokenizer.encode(before + "<|im_start|>user\n<|vision_start|>")
    image = [tokenizer.convert_tokens_to_ids("<|image_pad|>")] * (rows * columns)
    prefix = head + image + tokenizer.encode("<|vision_end|>")
    start = torch.arange(len(head)).expand(3, -1)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    where = torch.stack([torch.zeros_like(row), row, column]).view(3, -1) + len(head)
    after = len(head) + max(grid)
    prefix_positions = torch.cat([start, where, torch.full((3, 1), after)], 1)

    prefix_ = _Prefix(prefix, prefix_positions, [len(head) <= n < len(head) + len(image) for n in range(len(prefix))])
    return _packed(tokenizer, questions, [prefix_] * len(questions))


def pack_clips(
    tokenizer: PreTrainedTokenizerFast,
    questions: list[list[Question]],
    grid: tuple[int, int],
    times: list[tuple[float, ...]],
    system: str | None,
) -> Packed:
    """`questions` per clip; `times` of each clip's frames, seconds. `grid` is a frame's rows and columns of tokens.

    Each frame comes after the text of its time, as the llama engine shows the frames of a clip to this model.
    """
    rows, columns = grid
    image = [tokenizer.convert_tokens_to_ids("<|image_pad|>")] * (rows * columns)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    inside = torch.stack([torch.zeros_like(row), row, column]).view(3, -1)
    before = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    prefixes = []
    for clip in times:
        ids: list[int] = []
        visual: list[bool] = []
        positions = []
        next_ = 0
        for number, time in enumerate(clip):
            lead = f"{before}<|im_start|>user\n" if number == 0 else "<|vision_end|>"
            text = tokenizer.encode(f"{lead}{time_text(time)}<|vision_start|>")
            positions += [(torch.arange(len(text)) + next_).expand(3, -1), inside + next_ + len(text)]
            next_ += len(text) + max(grid)
            ids += text + image
            visual += [False] * len(text) + [True] * len(image)
        ids += tokenizer.encode("<|vision_end|>")
        positions.append(torch.full((3, 1), next_))
        prefixes.append(_Prefix(ids, torch.cat(positions, 1), [*visual, False]))
    return _packed(tokenizer, questions, prefixes)


@dataclass(frozen=True)
class _Prefix:
    """What all questions about an image, or a clip, see."""

    ids: list[int]
    positions: Tensor  # long [3, length]
    visual: list[bool]


def _packed(tokenizer: PreTrainedTokenizerFast, questions: list[list[Question]], prefixes: list[_Prefix]) -> Packed:
    sequences, targets, segments, positions, places, visuals = [], [], [], [], [], []
    for row_questions, prefix in zip(questions, prefixes, strict=True):
        length = len(prefix.ids)
        ids, target, segment = list(prefix.ids), [IGNORE] * length, [0] * length
        position = [prefix.positions]
        place = [False] * length
        after = int(prefix.positions[0, -1])
        for number, question in enumerate(row_questions, start=1):
            before = "".join(f"{_turn(*turn)}<|im_start|>user\n" for turn in question.history)
            asked = tokenizer.encode(f"{before}{question.text}<|im_end|>\n<|im_start|>assistant\n")
            answer = encode_answer(tokenizer, question)
            ids += asked + answer
            target += [IGNORE] * (len(asked) - 1) + answer + [IGNORE]
            length = len(asked) + len(answer)
            segment += [number] * length
            place += [question.in_places] * length
            position.append((torch.arange(length) + after + 1).expand(3, -1))
        sequences.append(torch.tensor(ids))
        targets.append(torch.tensor(target))
        segments.append(torch.tensor(segment))
        places.append(torch.tensor(place))
        positions.append(torch.cat(position, 1).T)
        visuals.append(torch.tensor(prefix.visual))

    def padded(rows: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    ids_, segment_ = padded(sequences, 0), padded(segments, -1)
    length = ids_.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    own = (segment_[:, None, :] == 0) | (segment_[:, None, :] == segment_[:, :, None])
    visual = torch.zeros(ids_.shape, dtype=torch.bool)
    seen = padded(visuals, 0)
    visual[:, : seen.shape[1]] = seen
    return Packed(
        ids_,
        padded(targets, IGNORE),
        padded(positions, 0).permute(2, 0, 1),
        torch.where((own & causal)[:, None], 0.0, -1e9),
        visual,
        padded(places, 0),
    )


def _turn(question: str, answer: str) -> str:
    """A question and its answer, without what opens the question's turn."""
    return f"{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
