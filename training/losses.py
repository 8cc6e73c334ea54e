"""What is learnt: the answers, and, to learn to see in minutes, what is under each visual token.

The heads exist during training only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from training.dataset import Batch, CellTargets, cell_targets
from training.packing import IGNORE, Packed
from training.render import LABEL_STEP
from training.scenes import COLOURS, SHAPES
from training.vision import encode

CELL = 32  # pixels of a token's side
_COLOURS, _SHAPES = len(COLOURS) + 1, len(SHAPES) + 1
_OUTLINE = (CELL // 2 // LABEL_STEP) ** 2  # squares of a patch
_SHAPE_WEIGHT = 3.0  # shapes take the longest to learn


class Heads(nn.Module):
    """Colour, shape, box and number of centres per token; colour, shape, outline and box per patch."""

    def __init__(self, token_width: int, patch_width: int) -> None:
        super().__init__()
        self.token = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, _COLOURS + _SHAPES + 4 + 3))
        self.patch = nn.Sequential(nn.LayerNorm(patch_width), nn.Linear(patch_width, _COLOURS + _SHAPES + _OUTLINE + 4))


@dataclass(frozen=True)
class Losses:
    """Of one batch."""

    answer: Tensor
    seeing: Tensor
    right: Tensor  # bool [answers]: the first token of each answer, in reading order


def losses(model: Qwen3VLForConditionalGeneration, heads: Heads, batch: Batch, packed: Packed | None) -> Losses:
    """Look at the pictures, read the questions, if any, and compare with the truth."""
    tokens, deepstack, patches = encode(model.model.visual, batch.images)
    seeing = _seeing(heads, batch, tokens, patches)
    if packed is None:
        return Losses(seeing.new_zeros(()), seeing, torch.zeros(0, dtype=torch.bool))
    answer, right = answer_loss(model, tokens, deepstack, packed)
    return Losses(answer, seeing, right)


def answer_loss(
    model: Qwen3VLForConditionalGeneration, tokens: Tensor, deepstack: list[Tensor], packed: Packed
) -> tuple[Tensor, Tensor]:
    """Read the questions with the pictures' tokens [B, N, D] in place: the loss, and `Losses.right`."""
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
    logits, targets = model.lm_head(hidden[asked]).float(), packed.targets[asked]
    each = functional.cross_entropy(logits, targets, reduction="none")
    first = targets != model.config.text_config.eos_token_id
    answer = each[first].mean() + 0.2 * each[~first].mean()
    return answer, (logits.argmax(-1) == targets)[first].detach()


def _seeing(heads: Heads, batch: Batch, tokens: Tensor, patches: Tensor) -> Tensor:
    target = cell_targets(batch.labels, CELL)
    out = heads.token(tokens).float()
    colour, shape, box, centres = out.split([_COLOURS, _SHAPES, 4, 3], -1)
    there = target.label > 0
    loss = _classes(colour, shape, batch, target)
    loss = loss + functional.cross_entropy(centres.flatten(0, 1), target.centres.flatten(), _centre_weight())
    loss = loss + functional.smooth_l1_loss(box[there], target.box[there], beta=0.1)

    fine = cell_targets(batch.labels, CELL // 2)
    rows, columns = (side * 4 // (CELL // 2) for side in batch.labels.shape[1:])

    def in_order(values: Tensor) -> Tensor:
        """From row by row to four of a token, then the next token's."""
        values = values.unflatten(1, (rows // 2, 2, columns // 2, 2))
        return values.transpose(2, 3).flatten(1, 4)

    label = in_order(fine.label)
    fine = CellTargets(label, in_order(fine.box), in_order(fine.centres))
    colour, shape, outline, box = heads.patch(patches).float().split([_COLOURS, _SHAPES, _OUTLINE, 4], -1)
    side = CELL // 2 // LABEL_STEP
    squares = (batch.labels > 0).float().view(-1, rows // 2, 2, side, columns // 2, 2, side)
    squares = squares.permute(0, 1, 4, 2, 5, 3, 6).reshape(outline.shape)
    there = label > 0
    loss = loss + functional.binary_cross_entropy_with_logits(outline[there], squares[there])
    loss = loss + 0.5 * functional.smooth_l1_loss(box[there], fine.box[there], beta=0.1)
    return loss + _classes(colour, shape, batch, fine)


def _classes(colour: Tensor, shape: Tensor, batch: Batch, target: CellTargets) -> Tensor:
    colours = batch.colours.gather(1, target.label).flatten()
    shapes = batch.shapes.gather(1, target.label).flatten()
    loss = functional.cross_entropy(colour.flatten(0, 1), colours, _object_weight(_COLOURS))
    return loss + _SHAPE_WEIGHT * functional.cross_entropy(shape.flatten(0, 1), shapes, _object_weight(_SHAPES))


def _object_weight(classes: int) -> Tensor:
    """Most of a picture is empty: it counts less."""
    weight = torch.ones(classes)
    weight[0] = 0.25
    return weight


def _centre_weight() -> Tensor:
    return torch.tensor([0.2, 1.0, 1.0])
