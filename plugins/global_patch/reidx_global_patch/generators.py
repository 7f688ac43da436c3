"""Generators of patch positions on a map, and the mean of the map over each patch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Padding = Literal["border", "zeros"]


def stripes(count: int) -> Tensor:
    """The affine maps θ (count,2,3) of horizontal stripes, each of the full width and one ``count``-th of the height."""
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = 1.0
    theta[:, 1, 1] = 1.0 / count
    theta[:, 1, 2] = (2.0 * torch.arange(count) + 1.0) / count - 1.0
    return theta


class Stripes(nn.Module):
    """The same θ (1,P,2,3) for every map: horizontal stripes, without parameters."""

    theta: Tensor

    def __init__(self, num_patches: int) -> None:
        super().__init__()
        self.register_buffer("theta", stripes(num_patches)[None], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.theta


class SpatialTransformer(nn.Module):
    """θ (B,P,2,3), predicted from each map: the patch generator of PAUL (CVPR 2019).

    Convolution 3x3 without padding to ``hidden`` channels, BatchNorm, ReLU, max pooling, average over the map, then
    two linear layers with ``fc`` numbers between them. The last one starts with weights 0 and the stripes as its bias, so
    without training the result equals :class:`Stripes`. ``trainable: false`` freezes all parameters. Its BatchNorm then uses
    its running statistics with ``bn_eval``, or those of the batch without it, as in PAUL's code.
    """

    def __init__(
        self, in_channels: int, num_patches: int, hidden: int, fc: int, trainable: bool, bn_eval: bool
    ) -> None:
        super().__init__()
        self.num_patches, self.at_rest = num_patches, bn_eval and not trainable
        self.conv = nn.Conv2d(in_channels, hidden, 3)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(hidden)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        last = nn.Linear(fc, num_patches * 6)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(stripes(num_patches).flatten())
        self.place = nn.Sequential(nn.Linear(hidden, fc), nn.ReLU(), last)
        self.requires_grad_(trainable)

    def train(self, mode: bool = True) -> SpatialTransformer:
        super().train(mode)
        if self.at_rest:
            self.norm.eval()
        return self

    def forward(self, maps: Tensor) -> Tensor:
        seen = self.pool(torch.relu(self.norm(self.conv(maps)))).mean((2, 3))
        # in bf16, a position would be wrong by a twentieth of a row
        with torch.autocast(maps.device.type, enabled=False):
            return self.place(seen.float()).view(-1, self.num_patches, 2, 3)


def pooled_patches(maps: Tensor, theta: Tensor, align_corners: bool, padding: Padding) -> Tensor:
    """Return the mean (B,P,C) of each patch of maps (B,C,H,W), sampled bilinearly under θ (B or 1,P,2,3) at H x W points.

    Equals :func:`torch.nn.functional.grid_sample` followed by the mean. Both are linear in the map, so each mean is one
    weighted mean over the map's cells, without computing the patch.
    """
    weights = patch_weights(theta, maps.shape[2], maps.shape[3], align_corners, padding)
    return torch.einsum("bpk,bck->bpc", weights.expand(maps.shape[0], -1, -1, -1).flatten(2), maps.flatten(2))


def patch_weights(theta: Tensor, height: int, width: int, align_corners: bool, padding: Padding) -> Tensor:
    """The weight of each cell of a map in each patch's mean: (B,P,H,W), for θ (B,P,2,3); gradients flow to θ."""
    with torch.autocast(theta.device.type, enabled=False):
        theta = theta.float()
        y, x = (_centres(size, align_corners, theta.device) for size in (height, width))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points = torch.stack([columns, rows, torch.ones_like(rows)]).flatten(1)
        where = theta @ points  # (B,P,2,HW): the position of each point of a patch in the map
        across = _bilinear(where[:, :, 0], width, align_corners, padding)
        down = _bilinear(where[:, :, 1], height, align_corners, padding)
        return torch.einsum("bpkh,bpkw->bphw", down, across) / (height * width)


def _centres(size: int, align_corners: bool, device: torch.device) -> Tensor:
    """The centres of ``size`` cells from -1 to 1; with ``align_corners`` the outermost centres are -1 and 1."""
    if align_corners:
        return torch.linspace(-1.0, 1.0, size, device=device) if size > 1 else torch.zeros(1, device=device)
    return (2.0 * torch.arange(size, device=device) + 1.0) / size - 1.0


def _bilinear(where: Tensor, size: int, align_corners: bool, padding: Padding) -> Tensor:
    """The bilinear weights (…,K,size) of ``size`` cells at positions (…,K) between -1 and 1."""
    places = (where + 1.0) * ((size - 1) / 2.0) if align_corners else ((where + 1.0) * size - 1.0) / 2.0
    if padding == "border":
        places = places.clamp(0.0, size - 1.0)
    cells = torch.arange(size, device=where.device, dtype=where.dtype)
    return (1.0 - (places[..., None] - cells).abs()).clamp(min=0.0)
