"""Exports the tests' tiny Qwen3-VL to OpenVINO IR, by the same command as users export a real one.

optimum-intel works with older versions of transformers and huggingface_hub than the rest of the tests use. They are in
a directory of their own (scripts/set_up.py puts them there, without what they share with the rest, such as torch) and
only the exporting process sees it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from made_once import digest, made_once

TOOLS = Path(sys.prefix) / "openvino-export"
"""Where requirements/openvino-export.txt is installed."""


EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
"""OpenVINO's properties with which what else is in a batch does not change an answer, near-ties included."""


def export(hf_dir: Path, cache: Path) -> Path:
    """Export the model in ``hf_dir``, all in float32; returns the directory. ``cache`` keeps it for the next time."""
    if not TOOLS.is_dir():
        raise FileNotFoundError(f"{TOOLS} is missing: `make test-tools` installs what exports OpenVINO models there")
    name = digest((*sorted(hf_dir.iterdir()), *sorted(TOOLS.glob("*.dist-info/METADATA"))))
    return made_once(cache / name, lambda folder: _export(hf_dir, folder))


def _export(hf_dir: Path, folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    command += ["--model", str(hf_dir), "--task", "image-text-to-text", "--weight-format", "fp32", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(TOOLS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the export of the tiny model failed:\n{done.stderr[-3000:]}")


def with_chat_template(source: Path, target: Path, chat_template: str) -> Path:
    """Copy an exported model and give the copy another chat template; returns ``target``."""
    shutil.copytree(source, target)
    file = target / "openvino_tokenizer.xml"
    network = ElementTree.parse(file)
    element = network.find("rt_info/chat_template")
    assert element is not None
    element.set("value", chat_template)
    network.write(file)
    return target
