"""Reads a .mud file, MaixPy's description of a model, of a vision-language model on the board."""

from __future__ import annotations

import configparser
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.engines.base import ModelNotFound
from qwen3vl_ros.engines.maix_http.request import Limits, limits_of

_THE_MODEL = "Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448"

_FILES = ("tokens_embed", "post_model", "vpm_resampler_model", "post_config_path")
"""Keys of [extra] whose values are files beside the .mud file (MaixCDK, components/llm/src/maixcam2)."""


@dataclass(frozen=True, slots=True)
class MaixModel:
    """A model on the board.

    ``service_url``: address of the model's service, "" for a model that runs in MaixPy's own process.
    ``image_tokens``: tokens of one image. ``limits``: read from the model's names.
    """

    path: Path
    model_class: str
    service_url: str
    image_tokens: int
    limits: Limits

    @property
    def name(self) -> str:
        """The folder's name, which for published models is the model's."""
        return self.path.absolute().parent.name


def find_maix_model(path: str, model_class: str) -> MaixModel:
    """Read the .mud file ``path`` and check its model, without importing MaixPy, which is native code.

    Raises:
        ModelNotFound: A file is missing or wrong, or MaixPy is not installed.
    """
    if importlib.util.find_spec("maix") is None:
        raise ModelNotFound(
            "MaixPy is not installed: it comes with Sipeed's boards, and engine maix runs on the board alone. From "
            "another machine use engine maix_http, with base_url http://BOARD:12346 (docs/npu.md)."
        )
    mud = Path(path)
    if not mud.is_file():
        raise ModelNotFound(
            f"There is no model description {mud}: put the model's folder on the board, "
            "`hf download sipeed/Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448-maixcam2`, and give the path of "
            "the model.mud in it."
        )
    description = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        description.read_string(mud.read_text(encoding="utf-8"))
        extra = description["extra"]
    except (configparser.Error, UnicodeDecodeError, KeyError) as error:
        raise ModelNotFound(f"{mud} is no description of a language model ({error}): download it again.") from None
    # Only Qwen3VL has a service of its own; the others run in MaixPy's process.
    service_url = extra.get("llm_service_url", "").rstrip("/")
    if bool(service_url) != (model_class == "Qwen3VL"):
        other = "Qwen3VL" if service_url else "InternVL"
        raise ModelNotFound(
            f"{mud} describes a model for nn.{other}, not nn.{model_class}: set model_class to {other}."
        )
    missing = [name for key in _FILES if (name := extra.get(key, "")) and not (mud.parent / name).is_file()]
    if missing:
        raise ModelNotFound(f"{mud} names {', '.join(missing)}, not there: download the whole folder again.")
    try:
        image_tokens = int(extra["vpm_len"])
    except (KeyError, ValueError):
        raise ModelNotFound(f"{mud} does not say how many tokens an image has (vpm_len): download it again.") from None
    # For a service whose folder's name gives no limits: only one model exists for these boards.
    names = (str(mud.absolute()), *([_THE_MODEL] if service_url else []))
    return MaixModel(mud, model_class, service_url, image_tokens, limits_of(names, 0, 0))
