"""A network for images in another scale equals the network for images in its own."""

from __future__ import annotations

import torch
from torch import nn

from reidx.export.rescaled import IMAGENET, PLAIN, Rescaled, normalised

OWN = ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


def test_each_scale_gives_the_network_its_own_input() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([(images[:, c] - OWN[0][c]) / OWN[1][c] for c in range(3)], dim=1)
    for given in (PLAIN, IMAGENET, OWN):
        found = Rescaled(nn.Identity(), OWN, given)(normalised(images, given))
        assert torch.allclose(found, wanted, atol=1e-6)


def test_value_by_hand() -> None:
    white = torch.ones(1, 3, 1, 1)
    assert normalised(white, OWN).flatten().tolist() == torch.tensor([1.0, 2.4, 3.5]).tolist()
    assert Rescaled(nn.Identity(), OWN, PLAIN)(white).flatten().allclose(torch.tensor([1.0, 2.4, 3.5]))
