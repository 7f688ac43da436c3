"""A trained network as a module from normalised images to unit features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.models.domain_norm import network_of_domain
from reidx.models.inference import fast_inference
from reidx.models.network import Network


class Embedder(nn.Module):
    """Normalised images (B,3,H,W) to unit features (B,D) float32: one named feature of a network, scaled to length 1.

    The networks are frozen copies for inference (:func:`reidx.models.inference.fast_inference`). ``teacher`` gives its map to
    a fusion that uses one. ``domain`` selects the BatchNorms of a network that has some for each domain.
    """

    def __init__(self, network: Network, feature: str, teacher: Network | None = None, domain: str | None = None) -> None:
        super().__init__()
        self.feature = feature
        self.network = _prepared(network, domain)
        self.teacher = None if teacher is None else _prepared(teacher, domain)

    def forward(self, images: Tensor, columns: Mapping[str, Tensor] | None = None) -> Tensor:
        return F.normalize(self.raw(images, columns), dim=1)

    def raw(self, images: Tensor, columns: Mapping[str, Tensor] | None = None) -> Tensor:
        """The feature (B,D) float32 as the network gives it; ``columns`` (B,) are those that it names."""
        given = columns or {}
        follower: Tensor | None = None if self.teacher is None else self.teacher.encode(images, given)["map"]  # type: ignore[operator]
        return self.network(images, follower, given)[self.feature].float()


def _prepared(network: Network, domain: str | None) -> nn.Module:
    with torch.no_grad():
        return fast_inference(network if domain is None else network_of_domain(network, domain))
