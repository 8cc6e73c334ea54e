"""Finding a GGUF model and its vision part (mmproj) on disk, and reading single values of their metadata."""

from __future__ import annotations

import ctypes
from pathlib import Path

from llama_cpp._ggml import libggml

from qwen3vl_ros.engines.base import ModelNotFound

DOWNLOAD_COMMAND = "qwen3vl-ros model use 2b"


def find_model(model: str, mmproj: str = "") -> tuple[Path, Path | None]:
    """Find the model's GGUF file and its mmproj file on disk.

    Args:
        model: A GGUF file, or a folder with exactly one besides its mmproj.
        mmproj: The vision part; "" finds the one file beside the model that has "mmproj" in its name.

    Returns:
        Both files; None as the second where the model has no mmproj file beside it.

    Raises:
        ModelNotFound: A file is missing, or several fit.
    """
    path = Path(model).expanduser()
    if not model or not path.exists():
        raise ModelNotFound(f"There is no model at '{model}'. Set its path, or get one with `{DOWNLOAD_COMMAND}`.")
    if path.is_dir():
        # Of a model that is split into several files, llama.cpp wants the first.
        files = [f for f in _gguf_files(path, mmproj=False) if "-of-" not in f.name or "-00001-of-" in f.name]
        path = _only(files, f"The folder '{path}' must have one GGUF model", "the model")
    if mmproj:
        vision: Path | None = Path(mmproj).expanduser()
        if vision is not None and not vision.is_file():
            raise ModelNotFound(
                f"There is no vision part at '{mmproj}'. Set the path of the model's mmproj file, or get a model with "
                f"`{DOWNLOAD_COMMAND}`."
            )
        return path, vision
    beside = [f for f in _gguf_files(path.parent, mmproj=True) if f != path]
    if not beside:
        return path, None
    return path, _only(beside, f"Beside the model '{path}' must be one mmproj file", "the mmproj")


def parts_of(model: Path) -> list[Path]:
    """Return all files of the model whose first, or only, file is ``model``."""
    name, split, count = model.name.partition("-00001-of-")
    if not split:
        return [model]
    parts = _gguf_files(model.parent, mmproj=False)
    return [part for part in parts if part.name.startswith(f"{name}-") and part.name.endswith(f"-of-{count}")]


def _gguf_files(folder: Path, *, mmproj: bool) -> list[Path]:
    # An importance matrix, which a model was quantised with, is no model.
    ggufs = [f for f in folder.glob("*") if f.suffix.lower() == ".gguf" and "imatrix" not in f.name.lower()]
    return sorted(f for f in ggufs if ("mmproj" in f.name.lower()) == mmproj)


def _only(files: list[Path], rule: str, what: str) -> Path:
    if len(files) == 1:
        return files[0]
    has = ", ".join(f.name for f in files) or "none"
    raise ModelNotFound(f"{rule}, and there are {len(files)} ({has}). Set {what}, or use `{DOWNLOAD_COMMAND}`.")


class _InitParams(ctypes.Structure):
    """struct gguf_init_params of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_GGUF_TYPE_UINT32 = 4

libggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
libggml.gguf_init_from_file.restype = ctypes.c_void_p
libggml.gguf_free.argtypes = [ctypes.c_void_p]
libggml.gguf_free.restype = None
libggml.gguf_find_key.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
libggml.gguf_find_key.restype = ctypes.c_int64
libggml.gguf_get_kv_type.argtypes = [ctypes.c_void_p, ctypes.c_int64]
libggml.gguf_get_kv_type.restype = ctypes.c_int
libggml.gguf_get_val_u32.argtypes = [ctypes.c_void_p, ctypes.c_int64]
libggml.gguf_get_val_u32.restype = ctypes.c_uint32


def read_numbers(path: Path, *keys: str) -> dict[str, int]:
    """Read the 32-bit unsigned numbers among ``keys`` from the metadata of the GGUF file at ``path``.

    mtmd gives no access to the metadata of an mmproj file; this uses llama.cpp's own reader (gguf.h).

    Returns:
        The values by key, without those that the file lacks; {} if it is not a GGUF file.
    """
    gguf = libggml.gguf_init_from_file(str(path).encode(), _InitParams(True, None))
    if not gguf:
        return {}
    try:
        found = {key: libggml.gguf_find_key(gguf, key.encode()) for key in keys}
        return {
            key: int(libggml.gguf_get_val_u32(gguf, index))
            for key, index in found.items()
            # gguf_get_val_u32 aborts the process when the value has another type.
            if index >= 0 and libggml.gguf_get_kv_type(gguf, index) == _GGUF_TYPE_UINT32
        }
    finally:
        libggml.gguf_free(gguf)
