"""Centroids against a loop, and the restoring of a memory of another size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from reidx.memories.base import Memory, centroids


def test_centroids_against_a_loop() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    labels = [2, -1, 0, 0, 1, 2, 2, -1, 0, 1, 1, 2]
    for k, row in enumerate(centroids(features, torch.tensor(labels))):
        members = [features[i].tolist() for i in range(12) if labels[i] == k]
        mean = [sum(column) / len(members) for column in zip(*members)]
        length = math.sqrt(sum(v * v for v in mean))
        assert row.tolist() == pytest.approx([v / length for v in mean], abs=1e-6)


def test_outliers_are_in_no_centroid() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0], [100.0, 100.0]])
    assert torch.equal(centroids(features, torch.tensor([1, 0, -1])), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert centroids(features, torch.tensor([-1, -1, -1])).shape == (0, 2)


def test_centroids_carry_no_gradient() -> None:
    features = torch.randn(4, 2, requires_grad=True)
    assert not centroids(features, torch.tensor([0, 0, 1, 1])).requires_grad


class Nested(Memory):
    """Memory with state in a buffer, in parameters and in a child module."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.full((rows, 2), float(rows)))
        self.weight = nn.Parameter(torch.full((rows,), float(rows)))
        self.fixed = nn.Parameter(torch.zeros(rows), requires_grad=False)
        self.child = nn.Linear(2, rows)

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        """Do nothing."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_restore_takes_the_saved_shapes() -> None:
    saved, fresh = Nested(5), Nested(2)
    state = saved.state_dict()
    fresh.restore(state)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in state.items())
    trained = {name: p.requires_grad for name, p in fresh.named_parameters()}
    assert trained == {"weight": True, "fixed": False, "child.weight": True, "child.bias": True}
    assert list(dict(fresh.named_buffers())) == ["bank"]
    with torch.no_grad():
        fresh.bank.zero_()
    assert saved.bank.sum() == 50  # it is a copy


def test_restoring_another_memorys_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Nested holds \['bank', .*the checkpoint has \['rows'\]"):
        Nested(2).restore({"rows": torch.zeros(3)})


@pytest.mark.parametrize("lacking", ["reset", "forward"])
def test_memory_without_its_methods_cannot_be_built(lacking: str) -> None:
    methods = {name: lambda self, *given: None for name in ("reset", "forward") if name != lacking}
    with pytest.raises(TypeError, match=f"Bare.* '?{lacking}"):
        type("Bare", (Memory,), methods)()


def test_update_is_optional() -> None:
    nothing: Tensor = torch.zeros(0)
    given = {name: lambda self, *given: None for name in ("reset", "forward")}
    assert type("Bare", (Memory,), given)().update(nothing, nothing, nothing) is None
