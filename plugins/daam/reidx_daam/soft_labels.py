"""Soft pseudo labels: a target distribution over all clusters in place of one label."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext
from reidx.errors import ConfigError
from reidx.memories.base import centroids

_ROWS = 4096


class SoftLabel:
    """Soft targets: the label mixed with uniform or similar clusters.

    ``soft_targets`` (N,K): q = (1−ε)·onehot + ε·r for each image in a cluster, so that each row sums to 1; 0 for an outlier.

    ``mode`` selects r, and ``eps`` is ε:
        ``lsr``: r = 1/K, label smoothing;
        ``similarity``: the softmax of cos(f, c_k)/``tau`` over the clusters' centroids, or with ``top_m`` over the ``top_m``
        nearest and 0 for the rest; f is the clustered feature;
        ``pure_similarity``: the same with ε = 1, regardless of ``eps``.

    ``CrossEntropy`` takes them as targets. Source: the soft-label cross-entropy of the second version, whose exact formula is
    unknown. Raises :class:`ConfigError` for an invalid value.
    """

    provides = frozenset({"soft_targets"})

    def __init__(
        self,
        mode: Literal["lsr", "similarity", "pure_similarity"] = "lsr",
        eps: float = 0.1,
        tau: float = 0.1,
        top_m: int | None = None,
        device: str | None = None,
    ) -> None:
        if not 0.0 <= eps <= 1.0:
            raise ConfigError(f"SoftLabel: eps is {eps}; it is a share, from 0 to 1.")
        if tau <= 0.0:
            raise ConfigError(f"SoftLabel: tau is {tau}; it must be positive.")
        if top_m is not None and (top_m < 1 or mode == "lsr"):
            raise ConfigError(f"SoftLabel: top_m is {top_m}; it must be at least 1, with a mode of similarity.")
        self.mode, self.eps, self.tau, self.top_m = mode, 1.0 if mode == "pure_similarity" else eps, tau, top_m
        self.device = device

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        found = torch.from_numpy(labels.labels)
        inside = found >= 0
        soft = torch.zeros(len(found), labels.count)
        if self.mode == "lsr":
            soft[inside] = self.eps / labels.count
        else:
            soft[inside] = self.eps * self._similar(context.features[context.feature].float(), found)[inside]
        soft[inside.nonzero().squeeze(1), found[inside]] += 1.0 - self.eps
        return replace(labels, soft_targets=soft.numpy())

    @torch.no_grad()
    def _similar(self, features: Tensor, labels: Tensor) -> Tensor:
        """The softmax (N,K) of each image's similarity to the centroids of the clusters."""
        features = F.normalize(features.cpu())
        rows = centroids(features, labels).to(self.device).T
        return torch.cat([self._shares(part.to(self.device) @ rows).cpu() for part in features.split(_ROWS)])

    def _shares(self, cosines: Tensor) -> Tensor:
        if self.top_m is None or self.top_m >= cosines.shape[1]:
            return F.softmax(cosines / self.tau, 1)
        near = cosines.topk(self.top_m, 1)
        return torch.zeros_like(cosines).scatter_(1, near.indices, F.softmax(near.values / self.tau, 1))
