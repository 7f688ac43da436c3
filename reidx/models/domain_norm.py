"""A BatchNorm for each domain: weights and statistics of its own, all else shared.

Source: Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DomainBatchNorm(nn.Module):
    """The BatchNorms of the domains, all beginning as copies of ``norm``; ``forward`` is that of ``domain``."""

    def __init__(self, norm: nn.Module, domains: Sequence[str]) -> None:
        super().__init__()
        self.of = nn.ModuleDict({domain: copy.deepcopy(norm) for domain in domains})
        self.domain = domains[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.of[self.domain](x)


def split_by_domain(network: nn.Module, domains: Sequence[str]) -> None:
    """Put a :class:`DomainBatchNorm` in the place of each BatchNorm of ``network``."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, DomainBatchNorm(child, domains))


def enter(network: nn.Module, domain: str | None) -> None:
    """Have the images of ``domain`` normalised from now on; nothing for a network that does not tell domains apart."""
    if domain is not None:
        for module in network.modules():
            if isinstance(module, DomainBatchNorm):
                module.domain = domain


def of_domain(network: nn.Module, domain: str) -> nn.Module:
    """``network`` as the images of ``domain`` meet it: a copy with plain BatchNorms where it tells domains apart."""
    if not any(isinstance(module, DomainBatchNorm) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DomainBatchNorm):
                setattr(parent, name, child.of[domain])
    if hasattr(network, "frozen"):  # the BatchNorms of other domains are no longer there to be named
        there = dict(network.named_modules())
        network.frozen = tuple(name for name in network.frozen if name in there)  # type: ignore[assignment,union-attr,arg-type]
    return network


def for_each_domain(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` of a network that does not tell domains apart, given to each domain of one that does."""
    given = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, DomainBatchNorm):
            for key in next(iter(module.of.values())).state_dict():
                plain = given.pop(f"{name}.{key}", None)
                if plain is not None:
                    given.update({f"{name}.of.{domain}.{key}": plain for domain in module.of})
    return given
