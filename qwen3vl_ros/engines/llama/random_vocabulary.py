"""A byte-level BPE vocabulary of any size: random words, with Qwen3-VL's control tokens where Qwen3-VL has them."""

from __future__ import annotations

import random

from gguf import GGUFWriter, TokenType

from qwen3vl_ros.engines.shapes import VOCABULARY

# https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/tokenizer_config.json, by distance from <|endoftext|>.
_CONTROL = {
    0: "<|endoftext|>",
    1: "<|im_start|>",
    2: "<|im_end|>",
    9: "<|vision_start|>",
    10: "<|vision_end|>",
    12: "<|image_pad|>",
    13: "<|video_pad|>",
}
_FIRST_CONTROL_FROM_END = VOCABULARY - 151643

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Write a vocabulary of ``size`` tokens (at least 600), its merges and a chat template into ``writer``.

    All words are ASCII letters, so that nearly every token a random model chooses is text that can be streamed.
    """
    first_control = size - _FIRST_CONTROL_FROM_END
    tokens = list(_byte_alphabet())
    parts = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    merges = []
    known = set(tokens)
    chance = random.Random(0)
    while len(tokens) < first_control:
        left, right = chance.choice(parts), chance.choice(parts)
        word = left + right
        if word not in known:
            known.add(word)
            tokens.append(word)
            if len(word) <= 6:
                parts.append(word)
            merges.append(f"{left} {right}")
    types = [TokenType.NORMAL] * len(tokens)
    for index in range(_FIRST_CONTROL_FROM_END):
        tokens.append(_CONTROL.get(index, f"[PAD{first_control + index}]"))
        types.append(TokenType.CONTROL if index in _CONTROL else TokenType.UNUSED)

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(first_control)
    writer.add_pad_token_id(first_control)
    writer.add_eos_token_id(first_control + 2)
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes (GPT-2's byte-level BPE): printable Latin-1 as itself, the rest above."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(range(256)) - len(printable)
    return [chr(code) for code in printable] + [chr(0x100 + i) for i in range(others)]
