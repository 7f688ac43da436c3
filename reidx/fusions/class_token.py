"""The plain fusion head of a vision transformer: its class token as the retrieval vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features


class ClassToken(nn.Module):
    """The batch-normalised class token of a vision transformer.

    Needs a backbone that provides ``class_token``. Provides ``global`` and ``embed``, the L2-normalised BatchNorm of the
    class token, and ``token``, before the BatchNorm.

    All are (B,C). The BatchNorm ("BNNeck") starts at weight 1 and bias 0 and its bias stays 0 (Luo et al., CVPRW 2019). The
    map is not used. ``neck: false`` omits the BatchNorm; ``normalize: false`` keeps the features at their length.
    """

    provides = frozenset({"embed", "global", "token"})

    def __init__(self, token_dims: Mapping[str, int], neck: bool = True, normalize: bool = True) -> None:
        super().__init__()
        width = token_dims["class_token"]
        self.neck: nn.Module = nn.Identity()
        if neck:
            self.neck = nn.BatchNorm1d(width)
            self.neck.bias.requires_grad_(False)
        self.normalize = normalize
        self.dims = dict.fromkeys(self.provides, width)

    def forward(self, maps: Tensor, class_token: Tensor) -> Features:
        vector = self.neck(class_token).float()
        if self.normalize:
            vector = F.normalize(vector)
        return Features({"embed": vector, "global": vector, "token": class_token})
