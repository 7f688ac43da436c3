"""The linear layer that the published OSNets apply after the pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.models.weights import load_state, weights_for
from reidx.registry.constructor import FilePath


class Embedding(nn.Module):
    """OSNet's published vector: mean pooling, linear layer, BatchNorm, ReLU.

    Returns ``embed`` and ``global``, both (B, ``dim``) and equal. Source: OSNet (Zhou et al., ICCV 2019), table 1.

    Retrieval with the published networks uses this vector. Its entries are not negative, and its length is 1 only with
    ``normalize``. BatchNorm and ReLU do not commute with the pooling, so this layer is not part of the backbone.

    Args:
        in_channels: channels of the map.
        dim: width of the vector; 512 in the paper for networks of all widths.
        weights: a weights file with torchreid's key names, usually the backbone's; only ``fc.*`` is loaded.
        normalize: scale the vector to length 1, for losses over a memory.

    Raises:
        CheckpointError: the file is missing or unreadable, or its ``fc`` is missing or has another shape.
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
            # the backbone reports on the file
            state, _ = weights_for(weights, dict(self.named_parameters()), self, self.state_dict())
            load_state(self, {k: v for k, v in state.items() if k.startswith("fc.")}, weights)

    def forward(self, maps: Tensor) -> Features:
        vector = self.fc(maps.mean((2, 3))).float()
        if self.normalize:
            vector = F.normalize(vector)
        return Features({"embed": vector, "global": vector})
