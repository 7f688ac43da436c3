"""BatchNorm whose statistics come from groups of a stated size, whatever the batch ("ghost" BatchNorm).

Numbers of unsupervised re-ID hang on how many images a BatchNorm sees at once; published runs split a batch of 256
over four devices, so each layer saw 64. Here that number is a setting.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Grouped:
    """Mixed in before a BatchNorm class: in training, normalises each group of ``group`` images by itself."""

    group: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.group:  # type: ignore[attr-defined]
            return super().forward(x)  # type: ignore[misc]
        # a last group of one image has no variance: it joins the group before it
        sizes = [self.group] * (len(x) // self.group)
        rest = len(x) - sum(sizes)
        if rest == 1:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        return torch.cat([super(_Grouped, self).forward(chunk) for chunk in x.split(sizes)])  # type: ignore[misc]


def group_batch_norm(model: nn.Module, group: int | None) -> nn.Module:
    """``model`` itself, every BatchNorm in it changed in place to take training statistics over ``group`` images.

    ``None`` leaves the model alone; a second call changes the group. Running statistics are updated once a group, in
    order. Parameters, buffers and their names stay; timm's BatchNorms with a built-in activation are covered, as the
    class is only extended. Raises :class:`ValueError` for a group below 2.
    """
    if group is None:
        return model
    if group < 2:
        raise ValueError(f"bn_group is {group}; a variance needs at least 2 images.")
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            base = type(module)
            if not isinstance(module, _Grouped):
                module.__class__ = type(f"Grouped{base.__name__}", (_Grouped, base), {})
            module.group = group  # type: ignore[assignment]
    return model
