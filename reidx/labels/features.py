"""Checks of feature banks: one row per image, float32, finite, and of length 1 for cosines."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidx.errors import DataError

_UNIT = 1e-5  # how far from 1 the norm of a "unit" row may be, about what float32 leaves
_LARGEST = 1e15  # the squares of larger numbers, summed over a row, overflow float32


def checked(features: Tensor | np.ndarray, name: str = "features") -> Tensor:
    """Return the features as a contiguous float32 tensor (N, D) on their device, copied only if necessary.

    Raises DataError, which names the first bad row, for another shape, for entries that are not real numbers, and for NaN,
    infinity or numbers too large to be squared.
    """
    try:
        given = np.ascontiguousarray(features) if isinstance(features, np.ndarray) else features
        tensor = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: expected an array of numbers, shape (N, D); {error}") from error
    if tensor.is_complex() or tensor.layout != torch.strided:
        raise DataError(f"{name}: expected dense real numbers; got {tensor.dtype}, {tensor.layout}.")
    if tensor.ndim != 2 or (len(tensor) and not tensor.shape[1]):
        raise DataError(f"{name}: expected one row per image, shape (N, D); got {tuple(tensor.shape)}.")
    tensor = tensor.float().contiguous()
    if not tensor.numel():
        return tensor
    bad = not_finite(tensor)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise DataError(
            f"{name}: {int(bad.sum())} of {len(tensor)} rows hold NaN or infinity (the first is row {first}), or "
            f"numbers beyond {_LARGEST:.0e}. "
            "The network has most likely diverged: lower the learning rate or use precision: fp32, or look at the image "
            "of that row."
        )
    return tensor


def not_finite(features: Tensor) -> Tensor:
    """Mask (N,) of the rows with NaN, infinity, or numbers so large that distances overflow float32."""
    return ~(torch.linalg.vector_norm(features.flatten(1), ord=torch.inf, dim=1).float() <= _LARGEST)


def unit(features: Tensor, name: str = "features") -> Tensor:
    """Scale the rows to length 1; return the tensor itself if they already are.

    Raises DataError for a row of zeros or shorter than 1e-12.
    """
    norms = torch.linalg.vector_norm(features, dim=1)
    if bool(((norms - 1).abs() <= _UNIT).all()):
        return features
    zero = norms < 1e-12
    if zero.any():
        raise DataError(
            f"{name}: {int(zero.sum())} of {len(features)} rows are all zeros (the first is row "
            f"{int(zero.nonzero()[0])}), so they point nowhere and have no cosine. "
            "The network's last layers have died: look at its learning rate and its last activation."
        )
    return features / norms[:, None]
