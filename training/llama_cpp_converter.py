"""Runs llama.cpp's `convert_hf_to_gguf.py` for a Qwen3-VL model with a tokenizer of its own.

A process of its own (`convert.py` starts it), because the converter brings its own `gguf`
package and reads `sys.argv`:

    python llama_cpp_converter.py LLAMA_CPP_DIR <arguments of convert_hf_to_gguf.py>

Three things are settled here, in memory, in llama.cpp's classes:
- The converter recognises a tokenizer by the hash of a test string, so it refuses one that it has
  never seen. Ours splits text as Qwen2's does: say so.
- It looks for a SentencePiece vocabulary first, and needs that library to find that there is none.
- It drops the image size limit of the preprocessor's configuration, which llama.cpp calls
  `clip.vision.image_max_pixels`. An engine that reads the file should learn it.
"""

import importlib
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """The command line; see above."""
    llama_cpp = Path(sys.argv[1]).resolve()
    sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]

    base: Any = importlib.import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda *_: "qwen2"

    qwen3vl: Any = importlib.import_module("conversion.qwen3vl")
    qwen3vl.Qwen3VLTextModel.set_vocab = base.TextModel._set_vocab_gpt2

    vision = qwen3vl.Qwen3VLVisionModel
    write_parameters = vision.set_gguf_parameters

    def write_parameters_and_limit(self: Any) -> None:
        write_parameters(self)
        limit = self.preprocessor_config.get("size", {}).get("longest_edge")
        if limit is not None:
            self.gguf_writer.add_vision_max_pixels(int(limit))

    vision.set_gguf_parameters = write_parameters_and_limit
    importlib.import_module("convert_hf_to_gguf").main()


if __name__ == "__main__":
    main()
