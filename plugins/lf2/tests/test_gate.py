"""The gates against loops over single numbers, and against values by hand."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_lf2.gate import ChannelGate, HalfGate, Order
from torch import Tensor


def rows(seed: int, images: int = 3, channels: int = 4) -> Tensor:
    return torch.rand(images, channels, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def excitation(gate: ChannelGate, vector: list[float]) -> list[float]:
    """V ReLU(U v), number by number."""
    hidden = [max(0.0, sum(u * v for u, v in zip(row, vector))) for row in gate.reduce.weight.tolist()]
    return [sum(w * h for w, h in zip(row, hidden)) for row in gate.expand.weight.tolist()]


def by_loops(gate: ChannelGate, average: Tensor, maximum: Tensor) -> Tensor:
    table = []
    for a, m in zip(average.tolist(), maximum.tolist()):
        e_a, e_m = excitation(gate, a), excitation(gate, m)
        if gate.order == "gate_then_mul":
            table.append([sigmoid(x + y) * (p + q) for x, y, p, q in zip(e_a, e_m, a, m)])
        else:
            table.append([sigmoid(x * p) for x, p in zip(e_a, a)])
    return torch.tensor(table)


@pytest.mark.parametrize("order", ["gate_then_mul", "mul_then_gate"])
def test_each_order_against_loops(order: Order) -> None:
    torch.manual_seed(0)
    gate = ChannelGate(4, reduction=2, order=order)
    torch.nn.init.normal_(gate.reduce.weight)
    torch.nn.init.normal_(gate.expand.weight)
    assert torch.allclose(gate(rows(1), rows(2)), by_loops(gate, rows(1), rows(2)), atol=1e-6)


def test_by_hand() -> None:
    # U = 1, V = ln 3: for a = 0 and m = 1 the gate is sigmoid(ln 3) = 3/4, and 3/4 of a + m is 3/4
    gate = ChannelGate(1, reduction=1)
    gate.reduce.weight.data.fill_(1.0)
    gate.expand.weight.data.fill_(math.log(3))
    assert gate(torch.zeros(1, 1), torch.ones(1, 1)).item() == pytest.approx(0.75)
    # Eq. 5 uses only the average: sigmoid(0) for a = 0, and sigmoid(ln 3 * 1) for a = 1
    gate.order = "mul_then_gate"
    assert gate(torch.zeros(1, 1), torch.ones(1, 1)).item() == pytest.approx(0.5)
    assert gate(torch.ones(1, 1), torch.zeros(1, 1)).item() == pytest.approx(0.75)


def test_gate_of_zero_weights_is_constant() -> None:
    gate = ChannelGate(4, reduction=2)
    gate.expand.weight.data.zero_()
    assert torch.allclose(gate(rows(1), rows(2)), HalfGate()(rows(1), rows(2)))
    assert HalfGate()(torch.tensor([[1.0]]), torch.tensor([[2.0]])).item() == 1.5


def test_new_gate_is_about_one_half() -> None:
    # the reason why the released module is close to a plain product
    torch.manual_seed(0)
    gate = ChannelGate(2048)
    assert [tuple(p.shape) for p in gate.parameters()] == [(512, 2048), (2048, 512)]
    average = torch.rand(8, 2048) * 0.5
    values = gate(average, 2 * average) / (3 * average)
    assert 0.45 < values.mean().item() < 0.55
    assert values.std(1).max().item() < 0.25


@pytest.mark.parametrize("reduction", [0, 5])
def test_empty_hidden_layer_is_refused(reduction: int) -> None:
    with pytest.raises(ValueError, match=f"reduction is {reduction}; it must lie between 1 and the 4 channels"):
        ChannelGate(4, reduction)
