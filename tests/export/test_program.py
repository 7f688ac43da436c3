"""Programs of networks take batches of any size, and refuse code that fixes one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.export.program import dynamic_program


class Keywords(nn.Module):
    """Two inputs, modules whose names are keywords of Python, a shared layer, a shared tensor, and a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"global": nn.Linear(4, 3), "lambda": nn.BatchNorm1d(3)})
        self.again = self.parts["global"]
        self.tied = nn.Linear(3, 3)
        self.tied.bias = self.again.bias
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 2.0]))

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        return {"embed": self.parts["lambda"](self.parts["global"](x)) * self.mask + self.tied(self.again(shift))}


def test_program_gives_the_outputs_for_each_batch() -> None:
    torch.manual_seed(0)
    module = Keywords().eval()
    x, shift = torch.randn(9, 4), torch.randn(9, 4)
    program = dynamic_program(module, {"x": x[:3], "shift": shift[:3]}).module()
    for size in (1, 2, 9):
        made = program(x[:size], shift[:size])["embed"]
        assert torch.allclose(made, module(x[:size], shift[:size])["embed"], atol=1e-6)


def test_program_keeps_the_module_unchanged() -> None:
    module = Keywords().eval()
    before = list(module.state_dict())
    dynamic_program(module, {"x": torch.randn(3, 4), "shift": torch.randn(3, 4)})
    assert list(module.state_dict()) == before and next(module.parameters()).requires_grad


def test_fixed_batch_is_refused_with_advice() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.ones(len(x), 1)

    with pytest.raises(ConfigError, match=r"batches of any size .* use shape\[0\]"):
        dynamic_program(Fixed(), {"x": torch.randn(3, 4)})
