"""Qwen3-VL's vision tower over a batch of images of one size, several times faster on a CPU.

transformers lays all images out in one long sequence and attends to each in turn; here they
are a batch. The weights, and what is computed with them, are the same.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionModel,
    apply_rotary_pos_emb_vision,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)


def encode(tower: Qwen3VLVisionModel, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Images [B, 3, H, W] in 0..1 -> tokens [B, N, D], deepstack [B, N, D] each, patches [B, 4N, d].

    Patches come in the tower's order: four of a token, then the next token's.
    """
    batch = len(images)
    patches, rows, columns = patchify(images, tower.patch_size, tower.spatial_merge_size)
    grid = torch.tensor([[1, rows, columns]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=tower.spatial_merge_size,
    )
    projection = tower.patch_embed.proj
    # A still image is the same frame twice: one matrix product with the summed kernels.
    kernel = projection.weight.sum(2).flatten(1)
    hidden = functional.linear(patches, kernel, projection.bias)
    hidden = hidden + (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
    rotation = tower.rotary_pos_emb(hidden, get_vision_position_ids(grid, tower.spatial_merge_size))
    deepstack = []
    for number, block in enumerate(tower.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(batch, rows * columns, 3, attention.num_heads, -1)
        query, key, value = qkv.unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, *rotation)
        # Twice as fast as PyTorch's fused attention, forward and backward, for such short rows.
        query, key, value = (x.transpose(1, 2).contiguous() for x in (query, key, value))
        likeness = (query * attention.scaling @ key.transpose(2, 3)).softmax(-1)
        hidden = hidden + attention.proj((likeness @ value).transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number in tower.deepstack_visual_indexes:
            merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(number)]
            deepstack.append(merger(hidden).view(batch, rows * columns // 4, -1))
    return tower.merger(hidden).view(batch, rows * columns // 4, -1), deepstack, hidden


def patchify(images: Tensor, patch: int, merge: int) -> tuple[Tensor, int, int]:
    """Images in 0..1 -> [B, patches, 3 * patch * patch] in -1..1, rows and columns of patches."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    tiles = (images * 2 - 1).view(batch, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7)
    return tiles.reshape(batch, rows * columns, -1), rows, columns
