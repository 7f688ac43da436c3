"""The fully connected layer that the published OSNets put behind the pooled map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.models.weights import load_state, read_weights
from reidx.registry.constructor import FilePath


class Embedding(nn.Module):
    """OSNet's published vector: pooling, linear layer, BatchNorm, ReLU.

    ``embed`` and ``global`` (B, ``dim``): average pooling, linear layer, BatchNorm, ReLU (table 1 of the paper).

    This is the vector by which the published networks are compared, as it is: entries are not negative and the length
    is free, unless ``normalize`` makes it 1. BatchNorm and ReLU do not commute with the pooling, which is why this is
    no part of the backbone.

    Args:
        in_channels: channels of the map.
        dim: width of the vector, 512 in the paper whatever the width of the network.
        weights: a file of weights in torchreid's key names, of which ``fc.*`` is taken; usually the backbone's file.
        normalize: scale the vector to length 1, as losses over a memory want it.

    Raises:
        CheckpointError: the file is missing, unreadable, or its ``fc`` is absent or of another shape.
    """

    provides = frozenset({"embed", "global"})

    def __init__(
        self, in_channels: int, dim: int = 512, weights: FilePath | None = None, normalize: bool = False
    ) -> None:
        super().__init__()
        linear = nn.Linear(in_channels, dim)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.fc = nn.Sequential(linear, nn.BatchNorm1d(dim), nn.ReLU(inplace=True))
        self.normalize = normalize
        self.dims = dict.fromkeys(self.provides, dim)
        if weights is not None:
            state = read_weights(weights, self)
            load_state(self, {k: v for k, v in state.items() if k.startswith("fc.")}, weights)

    def forward(self, maps: Tensor) -> Features:
        vector = self.fc(maps.mean((2, 3))).float()
        if self.normalize:
            vector = F.normalize(vector)
        return Features({"embed": vector, "global": vector})
