"""Reads the shipped GGUF pair back into the model, so that training can go on without any of its own state."""

import re
from pathlib import Path

import torch
from gguf import GGUFReader
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

# Names in the GGUF files -> names here; those of llama.cpp's gguf-py/gguf/tensor_mapping.py.
_TEXT = {
    r"token_embd\.weight": "embed_tokens.weight",
    r"output_norm\.weight": "norm.weight",
    r"blk\.(\d+)\.attn_norm\.weight": r"layers.\1.input_layernorm.weight",
    r"blk\.(\d+)\.ffn_norm\.weight": r"layers.\1.post_attention_layernorm.weight",
    r"blk\.(\d+)\.attn_(q|k|v)\.weight": r"layers.\1.self_attn.\2_proj.weight",
    r"blk\.(\d+)\.attn_output\.weight": r"layers.\1.self_attn.o_proj.weight",
    r"blk\.(\d+)\.attn_(q|k)_norm\.weight": r"layers.\1.self_attn.\2_norm.weight",
    r"blk\.(\d+)\.ffn_(gate|up|down)\.weight": r"layers.\1.mlp.\2_proj.weight",
}
_VISION = {
    r"v\.patch_embd\.bias": "patch_embed.proj.bias",
    r"v\.position_embd\.weight": "pos_embed.weight",
    r"v\.blk\.(\d+)\.attn_qkv\.(\w+)": r"blocks.\1.attn.qkv.\2",
    r"v\.blk\.(\d+)\.attn_out\.(\w+)": r"blocks.\1.attn.proj.\2",
    r"v\.blk\.(\d+)\.ffn_up\.(\w+)": r"blocks.\1.mlp.linear_fc1.\2",
    r"v\.blk\.(\d+)\.ffn_down\.(\w+)": r"blocks.\1.mlp.linear_fc2.\2",
    r"v\.blk\.(\d+)\.ln(\d)\.(\w+)": r"blocks.\1.norm\2.\3",
    r"v\.post_ln\.(\w+)": r"merger.norm.\1",
    r"mm\.0\.(\w+)": r"merger.linear_fc1.\1",
    r"mm\.2\.(\w+)": r"merger.linear_fc2.\1",
    r"v\.deepstack\.\d+\.norm\.(\w+)": r"deepstack_merger_list.0.norm.\1",
    r"v\.deepstack\.\d+\.fc(\d)\.(\w+)": r"deepstack_merger_list.0.linear_fc\1.\2",
}
_EMBEDDING = "embed_tokens.weight"
_KERNELS = ("v.patch_embd.weight", "v.patch_embd.weight.1")  # of the two frames that a patch has


def layers_of(folder: Path) -> int:
    """How many layers the language tower of the GGUF pair in `folder` has."""
    (text_file,) = (path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj"))
    return int(GGUFReader(text_file).fields["qwen3vl.block_count"].contents())


def restore(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Load the weights of the GGUF pair in `folder` into `model`, which may have another vocabulary.

    Tokens that the files do not have keep the embeddings they began with.
    """
    (vision_file,) = folder.glob("mmproj*.gguf")
    (text_file,) = (path for path in folder.glob("*.gguf") if path != vision_file)
    vision = _tensors(GGUFReader(vision_file))
    kernels = torch.stack([vision.pop(name) for name in _KERNELS], 2)
    model.model.visual.load_state_dict({"patch_embed.proj.weight": kernels, **_renamed(vision, _VISION)})

    reader = GGUFReader(text_file)
    text = _renamed(_tensors(reader), _TEXT)
    shipped = {word: row for row, word in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())}
    embedding = model.model.language_model.embed_tokens.weight.detach().clone()
    for word, row in tokenizer.get_vocab().items():
        if word in shipped:
            embedding[row] = text[_EMBEDDING][shipped[word]]
    text[_EMBEDDING] = embedding
    model.model.language_model.load_state_dict(text)


def _tensors(reader: GGUFReader) -> dict[str, Tensor]:
    return {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}


def _renamed(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, ours in names.items():
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(ours)] = tensor
    return renamed
