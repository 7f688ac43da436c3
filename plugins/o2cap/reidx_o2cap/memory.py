"""The proxy memory: one unit vector for each cluster and camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memories.base import Memory, centroids
from reidx.memories.moving import move_rows


class ProxyMemory(Memory):
    """Camera proxies, updated by the instances of each batch.

    Returns the cosines of features (B,D) with the camera proxies, (B,M), f at unit length.

    A proxy is the centroid of the images of a cluster under one camera: at a reset, the normalised mean of their unit features.
    The M proxies are ordered by cluster, then by camera; outliers (−1) belong to none. Images of unknown cameras are refused
    before training. After a step, for each instance in the order of the batch, c ← normalize(m c + (1−m) f),
    where c is the proxy of its cluster and camera, m = ``momentum``, and f is at unit length.

    Losses may read ``proxies`` (M,D), ``proxy_labels`` (M,) and ``proxy_cameras`` (M,): the vector, cluster and camera of each
    proxy. Features get gradients, proxies do not; cosines stay in float32 in mixed precision, because the losses divide them by
    a small temperature. Source: O2CAP (Wang et al., IEEE TIP 2022) and CAP (Wang et al., AAAI 2021), proxy-level memory bank.

    Raises :class:`ValueError` for a momentum outside [0, 1].
    """

    cameras = "required"
    outliers = "drop"
    provides = frozenset({"proxies", "proxy_labels", "proxy_cameras"})
    column_meaning = "proxies"
    proxies: Tensor
    proxy_labels: Tensor
    proxy_cameras: Tensor

    def __init__(self, dim: int, momentum: float = 0.2) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum = momentum
        self.register_buffer("proxies", torch.zeros(0, dim))
        for name in ("proxy_labels", "proxy_cameras"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def reset(self, features: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None:
        assert features is not None and cameras is not None
        kept = labels >= 0
        pairs, place = torch.stack([labels[kept], cameras[kept]], 1).unique(dim=0, return_inverse=True)
        self.proxies = centroids(F.normalize(features[kept].float()), place)
        self.proxy_labels, self.proxy_cameras = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(features.float()) @ self.proxies.T

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor, index: Tensor, cameras: Tensor | None = None) -> None:
        assert cameras is not None
        own = own_proxies(targets, cameras, self.proxy_labels, self.proxy_cameras)
        move_rows(self.proxies, features, torch.where(own.any(1), own.int().argmax(1), -1), self.momentum)


def own_proxies(targets: Tensor, cameras: Tensor, proxy_labels: Tensor, proxy_cameras: Tensor) -> Tensor:
    """Mark the proxy of each image's cluster and camera, booleans (B,M)."""
    return (targets[:, None] == proxy_labels) & (cameras[:, None] == proxy_cameras)
