"""Camera proxies, one per cluster and camera, and the loss that pulls the cameras of a cluster together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.memories.base import Memory, centroids


class CameraProxies(Memory):
    """Cluster centroids for each camera, for the loss CameraContrast.

    Returns the cosines of features with the camera proxies, (B,M), or (B,M,P) for parts. Proxies change only at a reset.

    A proxy is the normalised mean of the unit features of a cluster's images under one camera; for parts (N,P,D) each part
    has its own proxies. The M proxies are ordered by cluster, then by camera; outliers (−1) belong to none.
    ``proxy_labels`` (M,) and ``proxy_cameras`` (M,) give the cluster and camera of each proxy. Cosines stay in float32 in
    mixed precision, because the loss divides them by a small temperature. Source: PPLR (Cho et al., CVPR 2022), camera-aware
    proxies.

    Raises :class:`ValueError` at a reset without cameras.
    """

    cameras = "required"
    outliers = "drop"
    provides = frozenset({"proxy_labels", "proxy_cameras"})
    accepts_parts = frozenset({"features"})
    column_meaning = "proxies"
    proxies: Tensor
    proxy_labels: Tensor
    proxy_cameras: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("proxies", torch.zeros(0, dim))
        for name in ("proxy_labels", "proxy_cameras"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))

    @torch.no_grad()
    def reset(self, features: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None:
        assert features is not None
        if cameras is None:
            raise ValueError("CameraProxies needs the camera of each image, and was given none.")
        kept = labels >= 0
        pairs, proxy = torch.stack([labels[kept], cameras[kept]], 1).unique(dim=0, return_inverse=True)
        self.proxies = centroids(F.normalize(features[kept].float(), dim=-1), proxy)
        self.proxy_labels, self.proxy_cameras = pairs[:, 0].contiguous(), pairs[:, 1].contiguous()

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.float(), dim=-1)
            return torch.einsum("b...d,m...d->bm...", unit, self.proxies)


class CameraContrast(nn.Module):
    """Contrast of images with their cluster's proxies under other cameras.

    Returns the mean over images and parts of −(1/|P|)·Σ_{j∈P} log(exp(s_j/τ) / Σ_{k∈P∪H} exp(s_k/τ)), s the proxies'
    ``scores``.

    P are the proxies of the image's cluster under other cameras, H the ``hard`` most similar proxies of other clusters (all,
    if there are fewer); the proxy of the image's cluster and camera is ignored. An image whose cluster has no other camera
    adds 0 and counts in the mean. ``scores`` are (B,M) or (B,M,P); ``proxy_labels`` and ``proxy_cameras`` (M,) come from the
    memory. Source: PPLR (Cho et al., CVPR 2022), camera-aware contrastive loss.

    Raises :class:`ValueError` for a temperature that is not positive, or for fewer than one negative.
    """

    accepts_parts = frozenset({"scores"})
    column_meaning = "proxies"

    def __init__(self, temperature: float = 0.07, hard: int = 50) -> None:
        super().__init__()
        if temperature <= 0.0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        if hard < 1:
            raise ValueError(f"hard is {hard}; an image needs at least 1 negative.")
        self.temperature, self.hard = temperature, hard

    def forward(
        self, scores: Tensor, targets: Tensor, cameras: Tensor, proxy_labels: Tensor, proxy_cameras: Tensor
    ) -> Tensor:
        own = targets[:, None] == proxy_labels
        positive = (own & (cameras[:, None] != proxy_cameras))[:, None]
        similar = scores.float().reshape(*scores.shape[:2], -1).movedim(1, 2) / self.temperature  # (B,P,M)
        # finite, not −∞: exp still gives 0, and the gradient of an image without a positive is not NaN
        nothing = torch.finfo(similar.dtype).min
        hardest = similar.masked_fill(own[:, None], nothing).topk(min(self.hard, len(proxy_labels)), 2).values
        compared = torch.cat([similar.masked_fill(~positive, nothing), hardest], 2)
        count = positive.sum(2)
        losses = compared.logsumexp(2) - (similar * positive).sum(2) / count.clamp(min=1)
        return (losses * (count > 0)).mean()
