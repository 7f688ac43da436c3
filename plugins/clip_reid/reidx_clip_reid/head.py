"""The head of PCL-CLIP: class token and projected class token, each batch-normalised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features


class ClassAndProjection(nn.Module):
    """The class token and its projection, each batch-normalised.

    Provides ``global`` (B,D) and ``projected`` (B,P), the batch-normalised tokens, and ``embed`` (B,D+P), both concatenated at
    length 1. ``aligned`` (B,P) is the projected token before the BatchNorm, at length 1: the feature that CLIP compares with
    texts. The bias of a BatchNorm ("BNNeck") stays 0. The map is not used.

    Source: Li, Gong, "Prototypical Contrastive Learning-based CLIP Fine-tuning for Object Re-identification", 2023.
    """

    provides = frozenset({"embed", "global", "projected", "aligned"})

    def __init__(self, token_dims: Mapping[str, int]) -> None:
        super().__init__()
        widths = token_dims["class_token"], token_dims["projected_token"]
        self.neck, self.projected_neck = (nn.BatchNorm1d(width) for width in widths)
        for neck in (self.neck, self.projected_neck):
            neck.bias.requires_grad_(False)
        self.dims = {"embed": sum(widths), "global": widths[0], "projected": widths[1], "aligned": widths[1]}

    def forward(self, maps: Tensor, class_token: Tensor, projected_token: Tensor) -> Features:
        whole, projected = self.neck(class_token).float(), self.projected_neck(projected_token).float()
        embed = F.normalize(torch.cat([whole, projected], dim=1))
        aligned = F.normalize(projected_token.float())
        return Features({"embed": embed, "global": whole, "projected": projected, "aligned": aligned})
