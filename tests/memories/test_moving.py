"""Rows that follow a batch, against a plain Python loop over one feature after another."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.memories.moving import move_rows, rounds_to_rounding


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def one_by_one(rows: Tensor, features: Tensor, places: list[int], momentum: float) -> Tensor:
    table = rows.double().tolist()
    for feature, y in zip(features.double().tolist(), places):
        if y >= 0:
            length = math.hypot(*feature)
            mixed = [momentum * r + (1 - momentum) * f / length for r, f in zip(table[y], feature)]
            table[y] = [v / math.hypot(*mixed) for v in mixed]
    return torch.tensor(table)


PLACES = {
    "each once": [4, 0, 2],
    "a single row": [3] * 40,
    "interleaved": [0, 1, 0, 4, 1, 1, 0, 4] * 5,
    "some without a row": [-1, 0, 0, -1, 2, -1],
    "all without a row": [-1, -1],
    "empty batch": [],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.2, 0.5, 0.9])
def test_against_one_after_another(places: list[int], momentum: float) -> None:
    rows, features = unit(5, 6), unit(len(places), 6, seed=1) * torch.linspace(0.1, 9.0, len(places))[:, None]
    moved = rows.clone()
    move_rows(moved, features, torch.tensor(places, dtype=torch.int64), momentum)
    assert torch.allclose(moved, one_by_one(rows, features, places, momentum), atol=1e-6)
    untouched = [y for y in range(5) if y not in places]
    assert torch.equal(moved[untouched], rows[untouched])


def test_by_hand() -> None:
    # (1, 0) and (0, 1) at momentum 1/2: the diagonal; then (1, 0) once more: 22.5 degrees
    rows = torch.tensor([[1.0, 0.0]])
    move_rows(rows, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0]), 0.5)
    assert rows[0].tolist() == pytest.approx([math.cos(math.pi / 8), math.sin(math.pi / 8)])


def test_no_gradient_is_kept() -> None:
    rows = unit(2, 4)
    move_rows(rows, unit(3, 4, seed=1).requires_grad_(), torch.tensor([0, 1, 0]), 0.2)
    assert not rows.requires_grad


@pytest.mark.parametrize("momentum", [0.02, 0.1, 0.2, 0.3])
def test_dropped_rounds_are_below_rounding(momentum: float) -> None:
    rounds = rounds_to_rounding(momentum)
    features, apart = unit(rounds, 2, seed=3).double(), []
    for angle in (0.0, math.pi):  # two rows as far apart as possible
        row = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        for feature in features:
            row = F.normalize(momentum * row + (1 - momentum) * feature, dim=0)
        apart.append(row)
    assert (apart[0] - apart[1]).norm() < 2**-24


def test_slow_momenta_use_every_instance() -> None:
    assert [rounds_to_rounding(m) for m in (0.34, 0.5, 0.9, 1.0)] == [None] * 4
    assert rounds_to_rounding(0.1) == 10
