"""Adversarial alignment: a discriminator of the two domains, behind a gradient reversal layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.alignments.base import FeatureAlignment


class GradientReversal(FeatureAlignment):
    """A domain discriminator that the features learn to deceive (DANN).

    ½ (mean −log d(s) + mean −log(1 − d(t))): a discriminator d learns to tell the domains, the features to deceive it.

    d is a sigmoid over Linear(D, ``hidden``) – ReLU – Linear(``hidden``, 1), trained by the stage's optimiser. Its gradient
    reaches the features times −λ (DANN, Ganin et al., JMLR 2016). λ is ``strength``, or for ``strength: null`` the paper's
    2/(1+exp(−10 p)) − 1, p = the training steps this alignment has taken, of all ``steps`` of the stage. Each domain has
    weight ½, independent of its batch size; log 2 is the value of a discriminator that cannot distinguish them.
    """

    step: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        steps: int,
        feature: str = "embed",
        hidden: int = 256,
        strength: float | None = None,
    ) -> None:
        super().__init__(feature)
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}; it must be at least 1.")
        if strength is not None and strength < 0.0:
            raise ValueError(f"strength is {strength}; below 0 the features would help the discriminator.")
        self.steps, self.strength = steps, strength
        self.discriminator = nn.Sequential(nn.Linear(dims[feature], hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def gap(self, source: Tensor, target: Tensor) -> Tensor:
        turned = Turned.apply(torch.cat([source, target]), self.reversal())
        if self.training:
            self.step += 1
        scores = self.discriminator(turned).squeeze(1)
        ours, theirs = scores.split([len(source), len(target)])
        return (F.softplus(-ours).mean() + F.softplus(theirs).mean()) / 2.0

    def reversal(self) -> Tensor:
        """λ of the next step, a scalar kept on the device to avoid synchronisation."""
        if self.strength is not None:
            return torch.full_like(self.step, self.strength, dtype=torch.float32)
        progress = (self.step / max(self.steps, 1)).clamp(max=1.0)
        return 2.0 / (1.0 + torch.exp(-10.0 * progress)) - 1.0


class Turned(torch.autograd.Function):
    """Identity on features, with the gradient multiplied by −``strength``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength * gradients[0], None
