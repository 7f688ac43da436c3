"""Numbers of NumPy in weight files, such as torchreid's ``rank1``, read without NumPy's own unpickling code."""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

_PLAIN = re.compile(r"[biuf]\d{1,2}")
"""Types of plain numbers, as NumPy abbreviates them: ``f8``."""


class _Type:
    """Type of a number in a file; stands for ``numpy.dtype``."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _number(kind: _Type, data: bytes | str) -> float | int | bool:
    """The number with the bytes ``data``; stands for NumPy's ``scalar``. Raises ValueError for any other type."""
    if not isinstance(kind, _Type) or not _PLAIN.fullmatch(kind.code) or kind.order not in ("<", ">", "=", "|"):
        raise ValueError("not a plain number")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    (number,) = np.frombuffer(raw, np.dtype(kind.order.replace("|", "=") + kind.code)).tolist()
    return number


def numpy_numbers_allowed() -> AbstractContextManager[Any]:
    """Context in which ``torch.load(weights_only=True)`` accepts numbers of NumPy, old and new names of its module."""
    if not hasattr(torch.serialization, "safe_globals"):  # torch 2.4
        return contextlib.nullcontext()
    scalars = [(_number, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return torch.serialization.safe_globals([*scalars, (_Type, "numpy.dtype")])
