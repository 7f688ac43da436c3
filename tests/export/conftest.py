"""Small networks with random weights, ready for export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reidx.inference import ReID
from reidx.inference.sources import Trained
from reidx.models.network import build_network
from reidx.registry.build import fill_defaults
from reidx.registry.registry import KINDS

SIZE = (64, 32)

Make = Callable[..., ReID]


@pytest.fixture(scope="session")
def make() -> Make:
    """Return a function that builds a network of a backbone and a fusion, with running statistics unlike new ones."""

    def made(backbone: Any = "test_resnet", fusion: Any = "GlobalPool", size: tuple[int, int] = SIZE, **settings: Any) -> ReID:
        torch.manual_seed(0)
        spec = {"type": "Timm", "name": backbone} if isinstance(backbone, str) else backbone
        head = {"type": fusion} if isinstance(fusion, str) else fusion
        model = {"bn_group": None, "freeze": [], "domain_bn": False}
        model |= {kind: fill_defaults(kind, part, KINDS[kind].context) for kind, part in (("backbone", spec), ("fusion", head))}
        domains = settings.pop("domains", ())
        network = build_network({**model, "domain_bn": bool(domains)}, size, domains=domains)
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        section = {**model, "domain_bn": bool(domains)}
        return ReID(Trained("small", network, section, size, "bilinear", **settings), "cpu", "fp32")

    return made


@pytest.fixture(scope="session")
def small(make: Make) -> ReID:
    """Return a tiny ResNet with a pooled, batch-normalised vector."""
    return make()
