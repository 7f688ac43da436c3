"""Rows of a memory that follow the instances of a batch, one after another."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def move_rows(rows: Tensor, features: Tensor, places: Tensor, momentum: float) -> None:
    """Moves unit rows (K,D) in place: r_y ← normalize(m r_y + (1−m) f), feature after feature in the order of the batch.

    ``features`` (B,D) count at unit length, ``places`` (B,) are the rows they move (−1: none), m is ``momentum``. A place may
    occur often: with m = 0.1 the last of its features carries nine tenths of the row, so the order counts. Features so far
    back that their share of a row is below float32's rounding (with m = 0.1 all but a row's last ten) are left out.
    """
    if not len(places):
        return
    # Shapes hang on the size of the batch alone, and nothing is read back: a GPU is never waited for.
    features = F.normalize(features.float())
    labels = places.clamp(min=0)  # of a place −1: any, as it takes part in nothing
    same = (labels[:, None] == labels) & (places >= 0)
    old = moved = rows[labels]
    earlier = same.tril(-1)
    before, is_first = _last(earlier), ~earlier.any(1, keepdim=True)
    for _ in range(min(len(features), rounds_to_rounding(momentum) or len(features))):
        # what each feature leaves of its row; right for the k-th ones after k rounds
        moved = F.normalize(torch.lerp(features, torch.where(is_first, old, moved[before]), momentum))
    # the same row for all features of a place, so that it does not count which of them is written last
    rows[labels] = torch.where(same.any(1, keepdim=True), moved[_last(same)], old)


def rounds_to_rounding(momentum: float) -> int | None:
    """How many features, the last ones, decide a row to the rounding of float32; None: all.

    ``normalize(m r + (1−m) f)`` of unit vectors brings two different r at least (1−2m)/m times closer together, as the sum is
    at least 1−2m long: from a distance of 2 to one of 2⁻²⁵ in so many steps.
    """
    closer = math.inf if momentum == 0 else (1 - 2 * momentum) / momentum
    return math.ceil(26 * math.log(2) / math.log(closer)) + 1 if closer > 1.05 else None


def _last(marked: Tensor) -> Tensor:
    """The last marked column of each row, 0 where there is none."""
    return (marked * torch.arange(marked.shape[1], device=marked.device)).amax(1)
