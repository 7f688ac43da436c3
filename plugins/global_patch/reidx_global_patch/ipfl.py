"""The image-level loss (IPFL): draws a view to its image's centre and pushes it from the nearest certain negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IPFL(nn.Module):
    """A triplet loss between an image's views and other images' centres.

    max(0, ``margin`` + d⁺ - d⁻), the mean over all views in the batch (PAUL, CVPR 2019).

    ``features`` (V,D) are the vectors of all views, ``index`` (V,) their images, ``centres`` (N,D) those of
    :class:`ImageCentres`; each distinct image of the batch is compared once. d⁺ is the distance of a view to its image's
    centre. For d⁻, the other centres are searched from the nearest on, at most ``max_iter`` of them. d⁻ is the distance to the
    first centre without the view's image among its own ``nearest`` nearest centres (itself included); centres with it may show
    the same person and are skipped. If there is none, d⁻ is 0.

    Raises :class:`ValueError` for a ``max_iter`` or ``nearest`` below 1.
    """

    def __init__(self, margin: float = 2.0, max_iter: int = 15, nearest: int = 3) -> None:
        super().__init__()
        if max_iter < 1 or nearest < 1:
            raise ValueError(f"max_iter is {max_iter}, nearest is {nearest}; both must be at least 1.")
        self.margin, self.max_iter, self.nearest = margin, max_iter, nearest

    def forward(self, features: Tensor, centres: Tensor, index: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self._loss(features.float(), centres[index].float(), index)

    def _loss(self, features: Tensor, centres: Tensor, index: Tensor) -> Tensor:
        # One column per view, so that shapes depend only on the size of the batch; columns that repeat an image are masked.
        same = index[:, None] == index
        column = same.int().argmax(1)  # the view's image, as the first view of it
        repeats = column != torch.arange(len(index), device=index.device)
        distances = _distances(features, centres)
        among = _distances(centres, centres).masked_fill(repeats, torch.inf)
        nearest = among.topk(min(self.nearest, len(index)), largest=False).indices
        # [b, l]: centre b has image l among its nearest
        near = torch.zeros_like(same).scatter(1, nearest, True)
        others = distances.masked_fill(same | repeats, torch.inf)
        looked_at = others.detach().sort(stable=True).indices[:, : self.max_iter]
        far = others.gather(1, looked_at)
        another = ~near.T[column].gather(1, looked_at) & far.isfinite()
        # the first certain negative; for rows without any the 0-th, which is replaced below
        negative = far.gather(1, another.int().argmax(1, keepdim=True))[:, 0]
        negative = torch.where(another.any(1), negative, 0.0)
        positive = distances.gather(1, column[:, None])[:, 0]
        return torch.relu(self.margin + positive - negative).mean()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (A,B) with the full precision of float32, because views may be very close to their centre."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
