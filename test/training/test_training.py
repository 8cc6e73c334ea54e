"""What the training computes without learning: how places are read, and how they are told to the language tower."""

from __future__ import annotations

import torch
from torch import nn

from training.model import build_model
from training.places import fit_places, tell_places, waves
from training.tokenizer import build_tokenizer

TOKENS, WIDTH, PLACES = 4000, 32, 6


def a_head() -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, PLACES))


def test_the_fit_of_the_places_is_not_moved_by_the_few_that_are_far_off() -> None:
    torch.manual_seed(1)
    seen = torch.randn(TOKENS, WIDTH)
    true = nn.functional.layer_norm(seen, (WIDTH,)) @ (0.05 * torch.randn(WIDTH, PLACES)) + 0.5
    told = true.clone()
    told[:: TOKENS // 400] += 0.5  # a tenth of them, all to one side
    head = a_head()
    fit_places(head, seen, told, torch.ones(TOKENS))
    assert (head(seen) - true).abs().max() < 0.005
    squares = torch.linalg.lstsq(torch.cat([seen, torch.ones(TOKENS, 1)], 1), told).solution
    assert (seen @ squares[:-1] + squares[-1] - true).abs().mean() > 0.03, "least squares would have been good enough"


def test_what_weighs_nothing_does_not_count() -> None:
    torch.manual_seed(2)
    seen, places, weight = torch.randn(TOKENS, WIDTH), torch.full((TOKENS, PLACES), 0.3), torch.ones(TOKENS)
    places[TOKENS // 3 :] = 0.9
    weight[TOKENS // 3 :] = 0
    head = a_head()
    fit_places(head, seen, places, weight)
    assert torch.allclose(head(seen), torch.full((TOKENS, PLACES), 0.3), atol=0.01)


def test_the_merger_tells_the_waves_of_what_the_head_reads() -> None:
    torch.manual_seed(3)
    merger = build_model(build_tokenizer()).model.visual.deepstack_merger_list[0]
    width = merger.linear_fc1.in_features
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, PLACES))
    patches = torch.randn(4 * 500, width // 4)
    with torch.no_grad():
        head[1].weight.mul_(0.3)
        head[1].bias.fill_(0.5)
        tell_places(merger, head)
        places = head(patches.view(-1, width))
        told = merger(patches)
    expected = waves(places).flatten(1)
    inside = ((places > 0) & (places < 1)).all(1)
    assert inside.sum() > 100
    back = torch.linalg.lstsq(expected[inside], told[inside])
    assert (expected[inside] @ back.solution - told[inside]).abs().max() < 0.05 * told.std()
    singular = torch.linalg.svdvals(back.solution)
    assert torch.allclose(singular, singular[0].expand_as(singular), rtol=0.02), "some waves are told louder"
