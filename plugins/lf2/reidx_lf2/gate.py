"""Channel gates: the vector of a half of the student's map that multiplies the teacher's map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Order = Literal["gate_then_mul", "mul_then_gate"]


class ChannelGate(nn.Module):
    """Gated vector z (B,C) of the average a (B,C) and the maximum m (B,C) of a part of a map.

    ``gate_then_mul``: z = sigmoid(e(a) + e(m)) · (a + m), a gate in (0, 1) and then the product (Fig. 3 of the paper and the
    released code). ``mul_then_gate``: z = sigmoid(e(a) · a), so all of z is in (0, 1) (Eq. 5 of the paper). Here
    e(v) = V ReLU(U v) without biases, and the hidden width is C // ``reduction``.

    Raises :class:`ValueError` for a ``reduction`` outside 1 to C.
    """

    def __init__(self, channels: int, reduction: int = 4, order: Order = "gate_then_mul") -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction is {reduction}; it must lie between 1 and the {channels} channels of the map.")
        self.reduce = nn.Linear(channels, channels // reduction, bias=False)
        self.expand = nn.Linear(channels // reduction, channels, bias=False)
        self.order = order

    def forward(self, average: Tensor, maximum: Tensor) -> Tensor:
        if self.order == "mul_then_gate":
            return torch.sigmoid(self.excitation(average) * average)
        gate = torch.sigmoid(self.excitation(average) + self.excitation(maximum))
        return gate * (average + maximum)

    def excitation(self, vector: Tensor) -> Tensor:
        """e(v) = V ReLU(U v), (B,C) float32."""
        return self.expand(torch.relu(self.reduce(vector))).float()


class HalfGate(nn.Module):
    """Constant gate z = (a + m) / 2 without parameters, the control of :class:`ChannelGate`."""

    def forward(self, average: Tensor, maximum: Tensor) -> Tensor:
        return 0.5 * (average + maximum)
