"""Comparison of an exported network with the one it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.errors import ReidxError

BATCHES = (1, 5, 32)
"""Sizes of the batches in which the exported network embeds the images."""

COSINE = 0.9999
"""The smallest cosine allowed between an image's two embeddings."""

TIE = 1e-5
"""Cosines that differ by less may change their order: the rounding of float32 decides it."""

Embed = Callable[[Tensor], Tensor]
"""Images (B,3,H,W) of floats in 0..1 to embeddings (B,D) of any length."""


class Parity(NamedTuple):
    """The agreement of an exported network on ``images`` images, over all sizes of batches.

    ``cosine`` is the smallest between an image's two embeddings. Each image ranks all others: ``inversion`` is the largest
    difference of cosines in the original of two images that change their order.
    """

    images: int
    cosine: float
    inversion: float

    def __str__(self) -> str:
        sizes = ", ".join(map(str, BATCHES))
        order = "the same ranking" if self.inversion <= TIE else f"images {self.inversion:.1e} apart change their order"
        return f"{self.images} images in batches of {sizes}: smallest cosine {self.cosine:.7f}, {order}"


def compare(exported: Embed, original: Tensor, images: Tensor) -> Parity:
    """Compare an exported network with the embeddings ``original`` (N,D) of ``images`` (N,3,H,W).

    Raises :class:`ReidxError` if the exported network refuses a batch.
    """
    rows = F.normalize(original.double(), dim=1)
    wanted = rows @ rows.T
    cosine, inversion = 1.0, 0.0
    for size in BATCHES:
        try:
            parts = [exported(part) for part in images.split(size)]
        except ReidxError:
            raise
        except Exception as error:  # each runtime has its own kinds
            raise ReidxError(f"The exported network fails for a batch of {size}: {error}") from error
        made = F.normalize(torch.cat(parts).double(), dim=1)
        if made.shape != rows.shape or not bool(torch.isfinite(made).all()):
            return Parity(len(images), -1.0, 2.0)
        cosine = min(cosine, (made * rows).sum(1).min().item())
        inversion = max(inversion, largest_inversion(wanted, made @ made.T))
    return Parity(len(images), cosine, inversion)


def largest_inversion(wanted: Tensor, found: Tensor) -> float:
    """The largest difference between two entries of a row of ``wanted`` whose order is reversed in ``found`` (both (Q,G))."""
    ranked = wanted.gather(1, found.argsort(dim=1, descending=True, stable=True))
    return float((ranked - ranked.cummin(dim=1).values).max())


def refuse_unequal(parity: Parity) -> None:
    """Raise :class:`ReidxError` unless the cosines reach :data:`COSINE` and no ranking changes beyond :data:`TIE`."""
    if not (parity.cosine >= COSINE and parity.inversion <= TIE):
        raise ReidxError(
            f"The exported network does not agree with the original ({parity}; required: cosine {COSINE}, the same ranking). "
            "Nothing was written."
        )
