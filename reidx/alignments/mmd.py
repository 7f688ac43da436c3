"""Maximum mean discrepancy: the distance between the means of two domains in the space of Gaussian kernels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reidx.alignments.base import FeatureAlignment
from reidx.errors import ConfigError


class MMD(FeatureAlignment):
    """The maximum mean discrepancy of two domains; nothing to train.

    mean k(s,s') + mean k(t,t') − 2 mean k(s,t), the squared MMD, with k a mean of ``kernels`` Gaussian kernels.

    k(x,y) = (1/U) Σ_u exp(−‖x−y‖² / (b · factor^(u−⌊U/2⌋))), u = 0..U−1 (Gretton et al., JMLR 2012; several bandwidths: Long
    et al., ICML 2015). k is the mean of the kernels, so that k(x,x) = 1 and the value lies between 0 and 2 for any U; the
    sum of the kernels, also in use, is U times this.

    b is ``bandwidth``, a squared distance, or the ``mean`` or ``median`` of the squared distances of all pairs of images of
    both batches; that b follows the features' scale and carries no gradient. The mean is the default, since it is 0 only if
    all features are equal.

    The default estimate is the biased one (means over all pairs, an image with itself too): a squared norm, so 0 at identical
    batches and never below. ``unbiased`` leaves an image's pair with itself out, which takes away what small batches add
    (up to 1/B_s + 1/B_t) and lets the value fall below 0, where a loss has no floor.
    """

    def __init__(
        self,
        feature: str = "embed",
        kernels: int = 5,
        factor: float = 2.0,
        bandwidth: float | Literal["mean", "median"] = "mean",
        unbiased: bool = False,
    ) -> None:
        super().__init__(feature)
        if kernels < 1:
            raise ValueError(f"kernels is {kernels}; it must be at least 1.")
        if factor <= 1.0:
            raise ValueError(f"factor is {factor}; it must be above 1: each kernel is so much wider than the one before.")
        if not isinstance(bandwidth, str) and bandwidth <= 0.0:
            raise ValueError(f"bandwidth is {bandwidth}; it must be a positive squared distance, mean or median.")
        self.widths = [factor ** (u - kernels // 2) for u in range(kernels)]
        self.bandwidth, self.unbiased = bandwidth, unbiased

    def gap(self, source: Tensor, target: Tensor) -> Tensor:
        n, m = len(source), len(target)
        if self.unbiased and min(n, m) < 2:
            raise ConfigError(f"MMD: unbiased compares a domain's images; the batches hold {n} and {m}. Draw 2 or more.")
        distances = squared_distances(torch.cat([source, target]))
        unit = self._unit(distances.detach())
        kernel = torch.stack([torch.exp(-distances / (unit * width)) for width in self.widths]).mean(0)
        within = self._within(kernel[:n, :n]) + self._within(kernel[n:, n:])
        return within - 2.0 * kernel[:n, n:].mean()

    def _unit(self, distances: Tensor) -> Tensor | float:
        """The bandwidth b of the middle kernel."""
        if not isinstance(self.bandwidth, str):
            return self.bandwidth
        size = len(distances)
        pairs = distances[~torch.eye(size, dtype=torch.bool, device=distances.device)]
        return (pairs.mean() if self.bandwidth == "mean" else pairs.median()).clamp(min=1e-12)

    def _within(self, kernel: Tensor) -> Tensor:
        """The mean of a domain's own block (B,B) of the kernel matrix."""
        if not self.unbiased:
            return kernel.mean()
        size = len(kernel)
        return (kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))


def squared_distances(rows: Tensor) -> Tensor:
    """Squared Euclidean distances (N,N) of rows (N,D), centred on their mean to reduce rounding errors."""
    rows = rows - rows.mean(0).detach()
    norms = rows.square().sum(1)
    return (norms[:, None] + norms[None] - 2.0 * rows @ rows.T).clamp(min=0.0)
