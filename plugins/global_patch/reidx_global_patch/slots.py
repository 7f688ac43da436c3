"""Updates of one slot per image from a batch that may contain an image more than once."""

from __future__ import annotations

import torch
from torch import Tensor

# Shapes depend only on the size of the batch, and nothing is read back, so the host never waits for a GPU. The rows of one
# image are equal, so the order of writing does not matter.


def first_of(index: Tensor) -> Tensor:
    """Return for each row of a batch the first row (B,) of the same image."""
    return (index[:, None] == index).int().argmax(1) if len(index) else index


def mean_of(features: Tensor, index: Tensor) -> Tensor:
    """Return for each row of features (B,…) the mean over the batch's rows of the same image."""
    same = (index[:, None] == index).to(features)
    with torch.autocast(features.device.type, enabled=False):
        summed = (same @ features.flatten(1)).view_as(features)
    means = summed / same.sum(1).view(-1, *[1] * (features.ndim - 1))
    return means[first_of(index)]


def average(slots: Tensor, features: Tensor, index: Tensor, momentum: Tensor | float) -> None:
    """Move the slots (N,…) of a batch's images by ``momentum`` towards the mean of their features, in place."""
    old = slots[index]
    slots[index] = torch.lerp(old, mean_of(features.to(old), index), momentum)
