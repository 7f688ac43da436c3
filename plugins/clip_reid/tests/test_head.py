"""The head of PCL-CLIP compared with its formula, and with values by hand."""

from __future__ import annotations

import math

import torch
from reidx_clip_reid.head import ClassAndProjection


def test_embed_is_both_normalised_tokens_at_length_one() -> None:
    head = ClassAndProjection({"class_token": 3, "projected_token": 2}).train()
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 3, generator=draws), torch.randn(4, 2, generator=draws)
    features = head(torch.zeros(4, 3, 1, 1), *tokens)
    for name, token in zip(("global", "projected"), tokens):
        for column in range(token.shape[1]):
            values = token[:, column].tolist()
            mean = sum(values) / 4
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 + 1e-5)
            expected = torch.tensor([(value - mean) / deviation for value in values])
            torch.testing.assert_close(features[name][:, column], expected)
    rows = torch.cat([features["global"], features["projected"]], 1)
    for row, embed in zip(rows, features["embed"]):
        torch.testing.assert_close(embed, row / math.sqrt(sum(value**2 for value in row.tolist())))


def test_embed_by_hand() -> None:
    """In evaluation mode a new BatchNorm divides by √(1 + 1e-5): (3, 4) and (0,) at length 1 are (0.6, 0.8) and (0,)."""
    head = ClassAndProjection({"class_token": 2, "projected_token": 1}).eval()
    features = head(torch.zeros(1, 2, 1, 1), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0]]))
    torch.testing.assert_close(features["embed"], torch.tensor([[0.6, 0.8, 0.0]]))
    assert head.dims == {"embed": 3, "global": 2, "projected": 1, "aligned": 1}
    assert not head.neck.bias.requires_grad and not head.projected_neck.bias.requires_grad


def test_aligned_token_is_before_the_norm() -> None:
    """Of (3, 4) it is (0.6, 0.8), also in training."""
    head = ClassAndProjection({"class_token": 1, "projected_token": 2}).train()
    features = head(torch.zeros(2, 1, 1, 1), torch.tensor([[5.0], [-1.0]]), torch.tensor([[3.0, 4.0], [0.0, -2.0]]))
    torch.testing.assert_close(features["aligned"], torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
