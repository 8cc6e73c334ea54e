"""A language tower that knows images gets two more layers to read clips with, which at first change nothing.

The first, after the layer that the places reach, compares frames: each of its heads looks from every visual token to
the token of the same row and column in the frame before. Places in a clip are told to the tower as rotations of its
rotary embedding, by which the heads find the frame before at a fixed offset, as those of `look_around` in `model.py`
find a neighbour. The offset depends on the shape of the frames: one head for each of the usual ones. Where there is no
frame before, a head looks at text instead. The second layer, before the last, is an empty one to read the answer with.
"""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from training.model import build_model

WIDE = 7  # layers
COMPARING, READING = 1, 5  # places of the new ones among them
# Positions from a token to that in the frame before: the longer side of a frame in tokens, and 12 of text, 13 from 10 s
# on.
OFFSETS = (22.15, 24.15, 26.15)  # square, 4:3 and 16:9 frames of at most 112 tokens
# Frequency of the rotary embedding -> how many nats its cosine weighs. 1, 4: of the row; 2, 5: column; 0, 3: time.
_NATS = {1: 12.0, 4: 7.0, 2: 18.0, 5: 10.0, 0: 6.0, 3: 4.0}
_TEXT_NATS = 50.0  # what looking at text counts: less than the same place in the frame before, more than any other
_CONSTANT = 31  # the frequency that hardly turns
_RIDGE = 1e-3
_DIFFERENCE = 0.5  # of the frame before is subtracted


def widen(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> Qwen3VLForConditionalGeneration:
    """A model of WIDE layers that answers as `model` does."""
    wide = build_model(tokenizer, WIDE)
    wide.model.visual.load_state_dict(model.model.visual.state_dict())
    old, new = model.model.language_model, wide.model.language_model
    new.embed_tokens.load_state_dict(old.embed_tokens.state_dict())
    new.norm.load_state_dict(old.norm.state_dict())
    kept = [n for n in range(WIDE) if n not in (COMPARING, READING)]
    for place, layer in zip(kept, old.layers, strict=True):
        new.layers[place].load_state_dict(layer.state_dict())
    for place in (COMPARING, READING):
        nn.init.zeros_(new.layers[place].self_attn.o_proj.weight)
        nn.init.zeros_(new.layers[place].mlp.down_proj.weight)
    return wide


def compare(model: Qwen3VLForConditionalGeneration, hidden: Tensor, visual: Tensor) -> None:
    """Let the heads of the comparing layer begin as described above.

    `hidden` [T, D] is what reaches that layer, of some tokens, `visual` [T] which of them are visual.
    """
    text = model.model.language_model
    layer = text.layers[COMPARING]
    attention = layer.self_attn
    size, half = attention.head_dim, attention.head_dim // 2
    frequencies = text.rotary_emb.inv_freq
    seen = layer.input_layernorm(hidden)

    # Directions that tell visual tokens from text: 1 and 0, 0 and 1.
    weight = torch.where(visual, 1 / visual.sum(), 1 / (~visual).sum())[:, None]
    normal = seen.T @ (weight * seen) + _RIDGE * torch.eye(seen.shape[1])
    is_visual, is_text = (
        torch.linalg.solve(normal, seen.T @ (weight * truth[:, None].float()))[:, 0] for truth in (visual, ~visual)
    )

    key = torch.zeros(size)  # of a visual token; of text it is the constant
    for frequency, nats in _NATS.items():
        key[frequency] = math.sqrt(nats)
    key *= math.sqrt(size) / key.norm()  # as the norm of keys makes it
    constant = torch.zeros(size)
    constant[_CONSTANT] = math.sqrt(size)
    queries = []
    for offset in OFFSETS:
        query = torch.zeros(size)
        for frequency, nats in _NATS.items():
            loud = nats / float(key[frequency]) / attention.scaling
            angle = frequencies[frequency] * offset
            query[frequency], query[frequency + half] = loud * angle.cos(), -loud * angle.sin()
        query[_CONSTANT] = _TEXT_NATS / math.sqrt(size) / attention.scaling
        queries.append(query)
    loudness = queries[0].norm() / math.sqrt(size)

    # What is carried over: the directions in which visual tokens differ most, none of text's.
    centred = seen[visual] - seen[visual].mean(0)
    text_direction = nn.functional.normalize(seen[~visual].mean(0), dim=0)
    centred = centred - (centred @ text_direction)[:, None] * text_direction
    carried = torch.linalg.svd(centred, full_matrices=False)[2][:size]
    with torch.no_grad():
        # Text looks at text.
        attention.q_proj.weight.copy_(
            torch.cat([q[:, None] * is_visual / loudness + constant[:, None] * is_text for q in queries])
        )
        attention.k_proj.weight.copy_((key[:, None] * is_visual + constant[:, None] * is_text).repeat(len(OFFSETS), 1))
        attention.q_norm.weight.fill_(float(loudness))
        attention.k_norm.weight.fill_(1.0)
        attention.v_proj.weight.copy_(carried.repeat(len(OFFSETS), 1))
        attention.o_proj.weight.copy_(-_DIFFERENCE * carried.T.repeat(1, len(OFFSETS)))
