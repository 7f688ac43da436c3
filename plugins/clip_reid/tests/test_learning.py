"""The encoder with its head learns from random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reidx_clip_reid.encoder import CLIPViT
from reidx_clip_reid.head import ClassAndProjection
from torch import Tensor, nn

from reidx.models.network import Network


def images_of(labels: Tensor, draws: torch.Generator) -> Tensor:
    """Noise with one brighter patch, in one of four colours: the label. The place of the patch is random."""
    images = torch.randn(len(labels), 3, 16, 16, generator=draws)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    for image, label in zip(images, labels.tolist()):
        row, column = (8 * torch.randint(2, (2,), generator=draws)).tolist()
        image[:, row : row + 8, column : column + 8] += 1.5 * colours[label][:, None, None]
    return images


@pytest.mark.parametrize("seed", [1, 2])
def test_colours_of_a_patch_are_learnt(seed: int) -> None:
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    backbone = CLIPViT(8, 48, 2, 2, 16, image_size=(16, 16))
    network, classifier = Network(backbone, ClassAndProjection(backbone.dims)), nn.Linear(64, 4)
    optimizer = torch.optim.AdamW([*network.parameters(), *classifier.parameters()], lr=2e-3)
    test = torch.arange(80) % 4
    accuracies = []
    for steps in (0, 60):
        for _ in range(steps):
            labels = torch.randint(4, (32,), generator=draws)
            loss = F.cross_entropy(classifier(10 * network.train()(images_of(labels, draws))["embed"]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = classifier(network.eval()(images_of(test, draws))["embed"])
        accuracies.append((scores.argmax(1) == test).float().mean().item())
    assert accuracies[0] < 0.6 and accuracies[1] > 0.9, accuracies
