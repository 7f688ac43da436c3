"""Three views of one map: the whole map, its upper and its lower half."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import DataError
from reidx.fusions.global_pool import GlobalPool

VIEWS = ("global", "upper", "lower")
"""The names of the views, in the order of concatenation."""


class MultiView(nn.Module):
    """Unit vectors of the whole map, its upper half and its lower half.

    ``global``, ``upper``, ``lower`` (B,C): unit vectors of all rows of the map, of its upper and of its lower half.

    Each view has its own pooling and its own BatchNorm, whose bias stays 0; the backbone has no other addition. Of H rows the
    halves are [0, H//2) and [H//2, 2·(H//2)): only ``global`` has the last row of an odd H. ``embed`` is ``global`` (B,C), or
    with ``test_views: concat`` the concatenated views at unit length (B,3C). ``parts`` (B,2,C) are the two halves, for
    components that work on parts. ``pool`` as in ``GlobalPool``.

    Raises :class:`DataError` for a map of one row. Source: the authors' code.
    """

    provides = frozenset({"embed", "parts", *VIEWS})
    part_features = frozenset({"parts"})

    def __init__(
        self, in_channels: int, pool: str = "gem", test_views: Literal["global", "concat"] = "global"
    ) -> None:
        super().__init__()
        self.views = nn.ModuleDict({view: GlobalPool(in_channels, pool) for view in VIEWS})
        self.test_views = test_views
        self.dims = dict.fromkeys(("parts", *VIEWS), in_channels)
        self.dims["embed"] = in_channels * (len(VIEWS) if test_views == "concat" else 1)

    def forward(self, maps: Tensor) -> Features:
        half = maps.shape[2] // 2
        if half == 0:
            raise DataError(
                "lp.MultiView: the backbone's map is 1 row high and has no halves. Raise data.image_size, or use a "
                "backbone with a smaller stride."
            )
        rows = {"global": maps, "upper": maps[:, :, :half], "lower": maps[:, :, half : 2 * half]}
        features = {view: head(rows[view])["embed"] for view, head in self.views.items()}
        embed = features["global"]
        if self.test_views == "concat":
            embed = F.normalize(torch.cat([features[view] for view in VIEWS], dim=1))
        parts = torch.stack([features["upper"], features["lower"]], dim=1)
        return Features({"embed": embed, "parts": parts, **features})
