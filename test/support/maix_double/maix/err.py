"""maix.err"""

from __future__ import annotations

import builtins
import enum


class Err(enum.IntEnum):
    ERR_NONE = 0
    ERR_ARGS = 1
    ERR_RUNTIME = 13


class Exception(builtins.Exception):
    pass


def to_str(e: Err) -> str:
    return e.name


def check_raise(e: Err, msg: str = "") -> None:
    if e != Err.ERR_NONE:
        raise Exception(f"{to_str(e)} {msg}")
