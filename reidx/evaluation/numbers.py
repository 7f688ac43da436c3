"""Numbers of images in an evaluation, one per image: ids, cameras and further columns, checked before use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx.contracts import inputs_of_kind
from reidx.errors import DataError
from reidx.evaluation.protocols import Columns


def integers(values: Any, count: int, name: str) -> np.ndarray:
    """Return ``values`` as int64 (count,); raises :class:`DataError`, which names them, for other shapes and types."""
    array = torch.as_tensor(values).cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise DataError(f"{name} must be {count} integers, one per image; got {array.dtype} of shape {array.shape}.")
    if array.dtype.kind == "u" and count and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name} holds {array.max()}, which is beyond int64. Number them from 0.")
    return array.astype(np.int64)


def checked_columns(columns: Columns | None, queries: int, gallery: int, where: str) -> Columns | None:
    """Return the columns as int64 (Q,) and (G,); raises :class:`DataError`, which begins with ``where``, for others."""
    if columns is None:
        return None

    def side(given: Mapping[str, Any], count: int, prefix: str) -> dict[str, np.ndarray]:
        return {name: integers(values, count, f"{where}: column {prefix}_{name}") for name, values in given.items()}

    return side(columns[0], queries, "query"), side(columns[1], gallery, "gallery")


def require_inputs(kind: str, component: Any, known: Collection[str], where: str) -> None:
    """Raise :class:`DataError`, which begins with ``where``, if a protocol or re-ranker needs an input that is not known."""
    if missing := sorted(inputs_of_kind(kind, type(component))[0].difference(known)):
        name = getattr(component, "name", type(component).__name__)
        raise DataError(
            f"{where}: {kind} {name} needs {' and '.join(missing)}. Pass cameras, and further columns as "
            "columns=({NAME: values of the queries}, {NAME: values of the gallery})."
        )


def by_side(columns: Columns | None) -> dict[str, np.ndarray]:
    """Return the columns by the names under which a component gets them, ``query_NAME`` and ``gallery_NAME``."""
    query, gallery = ({}, {}) if columns is None else columns
    sides = ("query", query), ("gallery", gallery)
    return {f"{side}_{name}": values for side, its in sides for name, values in its.items()}
