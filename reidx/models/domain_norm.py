"""Domain-specific BatchNorm: separate weights and statistics for each domain, all other layers shared.

Source: Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DomainBatchNorm(nn.Module):
    """One BatchNorm per domain, each initialised as a copy of ``norm``; ``forward`` applies that of ``domain``."""

    def __init__(self, norm: nn.Module, domains: Sequence[str]) -> None:
        super().__init__()
        self.of = nn.ModuleDict({domain: copy.deepcopy(norm) for domain in domains})
        self.domain = domains[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.of[self.domain](x)


def split_by_domain(network: nn.Module, domains: Sequence[str]) -> None:
    """Replace each BatchNorm of ``network`` with a :class:`DomainBatchNorm`."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, DomainBatchNorm(child, domains))


def select_domain(network: nn.Module, domain: str | None) -> None:
    """Select the BatchNorms of ``domain``; no effect on a network without domain-specific ones."""
    if domain is not None:
        for module in network.modules():
            if isinstance(module, DomainBatchNorm):
                module.domain = domain


def network_of_domain(network: nn.Module, domain: str) -> nn.Module:
    """The network for images of ``domain``: a copy with plain BatchNorms if it has domain-specific ones."""
    if not any(isinstance(module, DomainBatchNorm) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DomainBatchNorm):
                setattr(parent, name, child.of[domain])
    if hasattr(network, "frozen"):  # other domains' BatchNorms are gone
        there = dict(network.named_modules())
        network.frozen = tuple(name for name in network.frozen if name in there)  # type: ignore[assignment,union-attr,arg-type]
    return network


def for_each_domain(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy ``weights`` of a network without domain-specific BatchNorms to each domain of a network with them."""
    given = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, DomainBatchNorm):
            for key in next(iter(module.of.values())).state_dict():
                plain = given.pop(f"{name}.{key}", None)
                if plain is not None:
                    given.update({f"{name}.of.{domain}.{key}": plain for domain in module.of})
    return given
