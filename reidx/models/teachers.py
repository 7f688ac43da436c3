"""Teachers: the exponential moving average of another network, and the frozen one."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class EMA:
    """Exponential moving average of a student: θ_T ← w θ_T + (1−w) θ_S after each step t.

    w is ``momentum``, or with ``warmup`` min(1 − 1/(t+1), momentum), so that step 0 copies the student.
    ``batch_norm`` selects the running statistics: ``own`` keeps those of the teacher's own forward passes, ``copy`` takes
    the student's. The caller provides the step count, which is stored in the checkpoint.
    """

    def __init__(self, momentum: float = 0.999, warmup: bool = True, batch_norm: str = "own") -> None:
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is {momentum}; it must lie between 0 and 1.")
        self.momentum, self.warmup, self.batch_norm = momentum, warmup, batch_norm

    def weight(self, step: int) -> float:
        """The share w that the teacher keeps at step ``step``."""
        return min(1.0 - 1.0 / (step + 1), self.momentum) if self.warmup else self.momentum

    @torch.no_grad()
    def update(self, teacher: nn.Module, student: nn.Module, step: int) -> None:
        """Move the teacher's parameters towards the student's."""
        # read parameters from the modules each time: tensors kept from before a .to(device) would be stale
        mine, theirs = list(teacher.parameters()), list(student.parameters())
        torch._foreach_lerp_(
            [p.data for p in mine], [p.data.to(m.dtype) for p, m in zip(theirs, mine)], 1.0 - self.weight(step)
        )
        if self.batch_norm == "copy":
            for own, other in zip(teacher.buffers(), student.buffers()):
                own.copy_(other)


def freeze(network: nn.Module, statistics: str) -> None:
    """Set the statistics that the BatchNorms of a frozen network use: ``batch`` or ``running``.

    With ``batch`` the running statistics drift with each forward pass, which does not affect its outputs.
    """
    network.eval()
    if statistics == "batch":
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()


