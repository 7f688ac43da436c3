"""What a half of the student's map comes to before it meets the teacher's: a vector, channel by channel let through or not."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Order = Literal["gate_then_mul", "mul_then_gate"]


class ChannelGate(nn.Module):
    """z (B,C) of the average a (B,C) and the maximum m (B,C) of a part of a map, by e(v) = V ReLU(U v) without biases.

    ``gate_then_mul``: z = sigmoid(e(a) + e(m)) · (a + m), the gate in (0, 1) and then the product (LF2 section 2.3: Fig. 3 and
    the released code). ``mul_then_gate``: z = sigmoid(e(a) · a), all of z in (0, 1) (Eq. 5 of the paper). The hidden width is
    C // ``reduction``. Raises :class:`ValueError` where that is 0.
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
    """z = (a + m) / 2: a gate that is one half everywhere and has nothing to learn, the control of :class:`ChannelGate`."""

    def forward(self, average: Tensor, maximum: Tensor) -> Tensor:
        return 0.5 * (average + maximum)
