"""Writes into a GGUF file what its model is for: qwen3vl_ros/engines/model_card.py says what reads it.

python -m training.card models/tabletop/tabletop-f16.gguf
"""

import argparse
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from qwen3vl_ros.engines.base import ModelCard
from qwen3vl_ros.engines.model_card import METADATA_KEY, card_json
from training.model import MAX_PIXELS

CARD = ModelCard(
    domain="It knows coloured boxes, balls and cylinders only.",
    demonstration=True,
    tasks=("caption", "vqa", "yes_no", "count", "locate", "detect", "point"),
    conversation=True,
    languages=("en", "zh"),
    license="Apache-2.0",
    grounding_image_tokens=MAX_PIXELS // (32 * 32),
)


def write_card(path: Path, card: ModelCard) -> None:
    """Replace the card of the GGUF file at `path`; the rest of it stays as it is."""
    new = {
        METADATA_KEY: MetadataDetails(GGUFValueType.STRING, card_json(card)),
        "general.license": MetadataDetails(GGUFValueType.STRING, card.license),
    }
    partial = path.with_suffix(".partial")
    reader = GGUFReader(path)
    writer = GGUFWriter(partial, arch=reader.fields["general.architecture"].contents(), endianess=reader.endianess)
    copy_with_new_metadata(reader, writer, new, [])
    partial.replace(path)


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    write_card(parser.parse_args().gguf, CARD)


if __name__ == "__main__":
    main()
