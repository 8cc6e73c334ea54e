"""How a place in the image, a share from 0 to 1, is told to the language tower: as waves.

A number is said by choosing its token among 501. That is easy from waves: what the right token's embedding has most in
common with are its own waves, and then its neighbours'. From one share it takes a language tower hours to learn.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionPatchMerger

_FREQUENCIES = math.pi * 2.0 ** torch.arange(6)  # waves of 2 images' length to 1/16
_LOUD = 3.0  # height of the waves; about that of the other things that a visual token tells
_ROUNDS = 9  # of least squares
_RIDGE = 1e-5
_LEAST_ERROR = 0.002  # a share of the image: about half a pixel
_STEEP = 60.0  # slope of the hinges; of those tried the one whose sum loses least in float16


def waves(places: Tensor) -> Tensor:
    """Shares of the image [...] -> cosines and sines [..., 12]."""
    angle = places[..., None] * _FREQUENCIES
    return torch.cat([angle.cos(), angle.sin()], -1)


def line_up(model: Qwen3VLForConditionalGeneration, numbers: list[int]) -> None:
    """Let the embeddings of the numbers' tokens begin as the waves of their places."""
    embedding = model.model.language_model.embed_tokens.weight
    places = waves(torch.linspace(0, 1, len(numbers)))
    with torch.no_grad():
        embedding[numbers] = places.repeat(1, embedding.shape[1] // places.shape[1]) / places.std() * embedding.std()


def fit_places(head: nn.Sequential, seen: Tensor, places: Tensor, weight: Tensor) -> None:
    """Make a head, LayerNorm and Linear, the one that is off by the least on average.

    A head that is trained together with its tower lags behind the tower's average, and the loss that trains it gives
    way to the few that are far off. Least absolute errors by least squares with weights 1 / |error|, repeated:
    https://en.wikipedia.org/wiki/Iteratively_reweighted_least_squares

    `seen` is what the head gets [T, F], `places` the truth [T, P], `weight` how much each counts [T].
    """
    norm, linear = head[0], head[1]
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    known = torch.cat([functional.layer_norm(seen, norm.normalized_shape), torch.ones(len(seen), 1)], 1).double()
    ridge = _RIDGE * torch.eye(known.shape[1])
    solved = torch.zeros(known.shape[1], places.shape[1], dtype=torch.double)
    for column, truth in zip(solved.T, places.double().T, strict=True):
        each = weight.double()
        for _ in range(_ROUNDS):
            share = (each / each.sum())[:, None]
            column.copy_(torch.linalg.solve(known.T @ (share * known) + ridge, known.T @ (share[:, 0] * truth)))
            each = weight / (known @ column - truth).abs().clamp(min=_LEAST_ERROR)
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.zero_()
        linear.weight.copy_(solved[:-1].T)
        linear.bias.copy_(solved[-1])


def tell_places(merger: Qwen3VLVisionPatchMerger, head: nn.Sequential) -> None:
    """Make of a DeepStack merger one that tells the waves of what a trained head, LayerNorm and Linear, reads.

    Both look at the same four patches. Nothing is learnt: the first layer's units are hinges along each place, and the
    second adds them up to waves, by least squares.
    """
    norm, linear = head[0], head[1]
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    places = linear.out_features
    each = merger.linear_fc1.out_features // places
    hinges = torch.linspace(-0.05, 1.05, each)
    share = torch.linspace(-0.02, 1.02, 2001)
    bent = functional.gelu(_STEEP * (share[:, None] - hinges))
    bent = torch.cat([bent, torch.ones(len(share), 1)], 1).double()
    normal = bent.T @ bent + 1e-6 * len(share) * torch.eye(each + 1)
    parts = torch.linalg.solve(normal, bent.T @ waves(share).double()).float()  # [each + 1, 12]

    width = merger.linear_fc2.out_features
    turn = _LOUD * torch.linalg.qr(torch.randn(width, places * parts.shape[1]))[0]  # each wave a direction of its own
    used = places * each
    with torch.no_grad():
        merger.norm.weight.copy_(norm.weight)
        merger.norm.bias.copy_(norm.bias)
        merger.linear_fc1.weight[:used] = _STEEP * linear.weight.repeat_interleave(each, 0)
        merger.linear_fc1.bias[:used] = _STEEP * (linear.bias[:, None] - hinges).flatten()
        merger.linear_fc2.weight.zero_()
        merger.linear_fc2.weight[:, :used] = turn @ torch.block_diag(*[parts[:-1].T] * places)
        merger.linear_fc2.bias.copy_(turn @ parts[-1].repeat(places))
