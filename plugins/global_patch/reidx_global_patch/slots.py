"""Writing a batch into slots of one image each, where an image may be in the batch more than once."""

from __future__ import annotations

import torch
from torch import Tensor

# Shapes hang on the size of the batch alone, and nothing is read back: a GPU is never waited for. Rows of one image come
# out equal, so that it does not count which of them is written last.


def first_of(index: Tensor) -> Tensor:
    """For each row of a batch the first row (B,) of the same image."""
    return (index[:, None] == index).int().argmax(1) if len(index) else index


def mean_of(features: Tensor, index: Tensor) -> Tensor:
    """For each row of features (B,…) the mean over the batch's rows of the same image."""
    same = (index[:, None] == index).to(features)
    with torch.autocast(features.device.type, enabled=False):
        summed = (same @ features.flatten(1)).view_as(features)
    means = summed / same.sum(1).view(-1, *[1] * (features.ndim - 1))
    return means[first_of(index)]


def average(slots: Tensor, features: Tensor, index: Tensor, momentum: Tensor | float) -> None:
    """Move the slots (N,…) of a batch's images by ``momentum`` towards the mean of their features, in place."""
    old = slots[index]
    slots[index] = torch.lerp(old, mean_of(features.to(old), index), momentum)
