"""What is learnt: the answers, and, to learn to see in minutes, what is under each visual token.

The heads exist during training only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from training.dataset import Batch, CellTargets, cell_targets
from training.packing import IGNORE, Packed
from training.render import LABEL_STEP
from training.scenes import COLOURS, MAX_OBJECTS, SHAPES
from training.vision import encode

CELL = 32  # pixels of a token's side
PLACES = 6  # numbers that say where an object is
_COLOURS, _SHAPES = len(COLOURS) + 1, len(SHAPES) + 1
_OUTLINE = (CELL // 2 // LABEL_STEP) ** 2  # squares of a patch
_SHAPE_WEIGHT = 3.0  # shapes take the longest to learn
_PLACE_WEIGHT = 50.0  # a box must be right to a fraction of a token
_NEAR = 1.5  # how far from the right number is nearly right, in steps of numbers


class Heads(nn.Module):
    """What is read off each token and each patch, while the vision tower learns to see."""

    # colour, shape, box, log distance, number of centres, place in the order from the left, from the nearest
    token_parts = (_COLOURS, _SHAPES, 4, 1, 3, MAX_OBJECTS, MAX_OBJECTS)
    patch_parts = (_COLOURS, _SHAPES, 4, _OUTLINE)  # colour, shape, box, outline

    def __init__(self, token_width: int, patch_width: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, sum(self.token_parts)))
        # left, top, right, bottom and the middle across and down, as shares of the image
        self.place = nn.Sequential(nn.LayerNorm(4 * patch_width), nn.Linear(4 * patch_width, PLACES))
        self.patch = nn.Sequential(nn.LayerNorm(patch_width), nn.Linear(patch_width, sum(self.patch_parts)))


@dataclass(frozen=True)
class Sight:
    """How well a batch was seen."""

    loss: Tensor
    colour: float  # share of the tokens with an object that get its colour right
    shape: float
    offset: float  # how far a box's sides are off, mean, in tokens
    place: float  # the same as a share of the image
    order: float  # share of those tokens that get the object's place in the order from the left


def seeing_loss(tower: Qwen3VLVisionModel, heads: Heads, batch: Batch) -> Sight:
    """Look at the images, and compare what each token and patch tells with the truth."""
    tokens, _, patches = encode(tower, batch.images)
    target = cell_targets(batch, CELL)
    told = heads.token(tokens).float().split(Heads.token_parts, -1)
    colour, shape, box, distance, centres, from_left, from_near = told
    there = target.label > 0
    distances = batch.distances.gather(1, target.label)[there]
    loss = _classes(colour, shape, batch, target)
    loss = loss + functional.cross_entropy(centres.flatten(0, 1), target.centres.flatten(), _centre_weight())
    loss = loss + 2 * functional.smooth_l1_loss(box[there], target.box[there], beta=0.05)
    place = heads.place(of_tokens(patches)).float()[there]
    true_place = true_places(target)[there]
    loss = loss + _PLACE_WEIGHT * functional.smooth_l1_loss(place, true_place, beta=0.003)
    across = batch.boxes[..., 0] + batch.boxes[..., 2]
    for order, guess in ((_order(batch, across), from_left), (_order(batch, batch.distances), from_near)):
        loss = loss + 0.3 * functional.cross_entropy(guess[there], order.gather(1, target.label)[there])
    loss = loss + functional.smooth_l1_loss(distance[there][:, 0], distances.log(), beta=0.1)

    fine = cell_targets(batch, CELL // 2)
    rows, columns = (side * LABEL_STEP // (CELL // 2) for side in batch.labels.shape[1:])

    def in_order(values: Tensor) -> Tensor:
        """From row by row to four of a token, then the next token's."""
        values = values.unflatten(1, (rows // 2, 2, columns // 2, 2))
        return values.transpose(2, 3).flatten(1, 4)

    fine = CellTargets(*(in_order(v) for v in (fine.label, fine.box, fine.place, fine.centres)))
    fine_colour, fine_shape, fine_box, outline = heads.patch(patches).float().split(Heads.patch_parts, -1)
    side = CELL // 2 // LABEL_STEP
    squares = (batch.labels > 0).float().view(-1, rows // 2, 2, side, columns // 2, 2, side)
    squares = squares.permute(0, 1, 4, 2, 5, 3, 6).reshape(outline.shape)
    near = fine.label > 0
    loss = loss + functional.binary_cross_entropy_with_logits(outline[near], squares[near])
    loss = loss + 0.5 * functional.smooth_l1_loss(fine_box[near], fine.box[near], beta=0.1)
    loss = loss + _classes(fine_colour, fine_shape, batch, fine)

    def right(guess: Tensor, truth: Tensor) -> float:
        return float((guess.argmax(-1) == truth.gather(1, target.label))[there].float().mean())

    offset = float((box - target.box)[there].detach().abs().mean())
    off = float((place - true_place).detach().abs().mean())
    ordered = right(from_left, _order(batch, across))
    return Sight(loss, right(colour, batch.colours), right(shape, batch.shapes), offset, off, ordered)


def of_tokens(patches: Tensor) -> Tensor:
    """Patches in the tower's order [B, 4N, d] -> each token's four [B, N, 4d]."""
    return patches.unflatten(1, (-1, 4)).flatten(2)


def true_places(target: CellTargets) -> Tensor:
    """Left, top, right, bottom and the middle across and down [B, cells, 6], as shares of the image."""
    return torch.cat([target.place, (target.place[..., :2] + target.place[..., 2:]) / 2], -1)


def answer_loss(
    model: Qwen3VLForConditionalGeneration, tokens: Tensor, deepstack: list[Tensor], packed: Packed, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Read the questions with the images' tokens [B, N, D] in place.

    `numbers` are the ids of the tokens for places, in order. Returns the loss; for each answer, in reading order,
    whether all its tokens but numbers are the likeliest; and how far the likeliest numbers are off, as shares.
    """
    text = model.model.language_model
    embeddings = text.embed_tokens(packed.ids)
    embeddings = embeddings.masked_scatter(packed.visual[..., None], tokens.to(embeddings.dtype))
    hidden = text(
        inputs_embeds=embeddings,
        position_ids=packed.positions,
        attention_mask=packed.mask,
        visual_pos_masks=packed.visual,
        deepstack_visual_embeds=[d.flatten(0, 1) for d in deepstack],
        use_cache=False,
    ).last_hidden_state
    asked = packed.targets != IGNORE
    targets, in_places = packed.targets[asked], packed.places[asked]
    chances = model.lm_head(hidden[asked]).float().log_softmax(-1)
    each = -chances.gather(1, targets[:, None])[:, 0]
    # A number near the right one is nearly right.
    value = torch.full((chances.shape[1],), -1)
    value[numbers] = torch.arange(len(numbers))
    near = in_places & (value[targets] >= 0)
    off = (torch.arange(len(numbers)) - value[targets[near]][:, None]) / _NEAR
    share = torch.exp(-0.5 * off**2)
    each = each.index_put((near.nonzero()[:, 0],), -(share / share.sum(1, True) * chances[near][:, numbers]).sum(1))
    last = targets == model.config.text_config.eos_token_id
    weight = torch.where(in_places, 1.0, 2.0).masked_fill(last, 0.4)
    loss = (weight * each).sum() / weight.sum()

    wrong = ((chances.argmax(-1) != targets) & ~near).long()
    answer = torch.cumsum(last, 0) - last.long()  # the number of the answer that a token belongs to
    right = torch.zeros(int(last.sum()), dtype=torch.long).scatter_add(0, answer, wrong) == 0
    guessed = chances[near][:, numbers].argmax(1)
    return loss, right, (guessed - value[targets[near]]).abs() / (len(numbers) - 1)


def _classes(colour: Tensor, shape: Tensor, batch: Batch, target: CellTargets) -> Tensor:
    colours = batch.colours.gather(1, target.label).flatten()
    shapes = batch.shapes.gather(1, target.label).flatten()
    loss = functional.cross_entropy(colour.flatten(0, 1), colours, _object_weight(_COLOURS))
    return loss + _SHAPE_WEIGHT * functional.cross_entropy(shape.flatten(0, 1), shapes, _object_weight(_SHAPES))


def _order(batch: Batch, value: Tensor) -> Tensor:
    """Of label k its object's place, from 0, in the order of `value` [B, LABELS]; of no object the last."""
    value = value.masked_fill(batch.colours == 0, float("inf"))
    return value.argsort(1).argsort(1).clamp(max=MAX_OBJECTS - 1)


def _object_weight(classes: int) -> Tensor:
    """Most of an image is empty: it counts less."""
    weight = torch.ones(classes)
    weight[0] = 0.25
    return weight


def _centre_weight() -> Tensor:
    return torch.tensor([0.2, 1.0, 1.0])
