"""Sequential momentum updates of memory rows by the instances of a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def move_rows(rows: Tensor, features: Tensor, places: Tensor, momentum: float) -> None:
    """Move unit rows (K,D) in place: r_y ← normalize(m r_y + (1−m) f), one feature at a time in the order of the batch.

    ``features`` (B,D) are scaled to unit length, ``places`` (B,) are the rows they move (−1: none), m is ``momentum``. A
    place may occur several times: with m = 0.1 its last feature makes up nine tenths of the row, so the order matters.
    Earlier features whose share of a row is below float32's rounding (with m = 0.1 all but a row's last ten) are skipped.
    """
    if not len(places):
        return
    # Shapes depend only on the batch size, and nothing is read back, so there is no synchronisation with a GPU.
    features = F.normalize(features.float())
    labels = places.clamp(min=0)  # any row for place −1, which has no effect
    same = (labels[:, None] == labels) & (places >= 0)
    old = moved = rows[labels]
    earlier = same.tril(-1)
    before, is_first = _last(earlier), ~earlier.any(1, keepdim=True)
    for _ in range(min(len(features), rounds_to_rounding(momentum) or len(features))):
        # the row after each feature; correct for the k-th ones after k rounds
        moved = F.normalize(torch.lerp(features, torch.where(is_first, old, moved[before]), momentum))
    # the same row for all features of a place, so that the order of writes does not matter
    rows[labels] = torch.where(same.any(1, keepdim=True), moved[_last(same)], old)


def rounds_to_rounding(momentum: float) -> int | None:
    """Number of last features that determine a row up to float32 rounding; None: all.

    ``normalize(m r + (1−m) f)`` of unit vectors reduces the distance of two different r by a factor of at least (1−2m)/m,
    because the sum is at least 1−2m long. The result is the number of steps from a distance of 2 to one of 2⁻²⁵.
    """
    closer = math.inf if momentum == 0 else (1 - 2 * momentum) / momentum
    return math.ceil(26 * math.log(2) / math.log(closer)) + 1 if closer > 1.05 else None


def _last(marked: Tensor) -> Tensor:
    """The last marked column of each row, 0 where there is none."""
    return (marked * torch.arange(marked.shape[1], device=marked.device)).amax(1)
