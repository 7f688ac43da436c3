"""The global similarity-based loss: draws images towards their credible samples in the exemplar memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["mean_log", "log_sum", "pedal", "mmcl"]


class GSL(nn.Module):
    """Attraction of images to their credible neighbours.

    The mean over the batch of the loss between an image and its credible samples C; 0 for an image without positives.

    ``scores`` (B,N) are cosines r with the memory's slots, one per image of the domain, ``index`` (B,) the images' own slots
    i, ``neighbours`` (B,M) the slots C, padded with -1. The labels of the images are not used. The abstract of the paper does
    not give the formula; ``form`` selects one, with p = softmax(r / ``beta``):

    * ``mean_log``: -Σ_{j∈C} w_j log p_j. The weights sum to 1 and are equal, or, with ``weighting: similarity``, proportional
      to max(r_j, 0)^``gamma``, without a gradient (equal if no r_j is positive). It draws the image to every credible sample;
    * ``log_sum``: -log Σ_{j∈C} p_j, which one credible sample can satisfy;
    * ``pedal``: the same with exp(-``scale`` ‖g - v_j‖²) for unit vectors, i.e. ``log_sum`` with beta = 1 / (2 scale);
    * ``mmcl``: ``delta`` times the mean of (1 - r)² over C and i, plus the mean of (1 + r)² over the nearest ``hard_ratio``
      of the other slots, at least one (MMCL, CVPR 2020). It also replaces the memory classifier (weight 0 for MemoryContrast).

    ``exclude_self`` removes i from all sums; ``auto`` does this for log_sum and pedal.

    Raises :class:`ValueError` for an invalid number, and for ``weighting: similarity`` with a form other than ``mean_log``.
    """

    column_meaning = "images"

    def __init__(
        self,
        form: Form = "mean_log",
        beta: float = 0.05,
        scale: float = 10.0,
        delta: float = 5.0,
        hard_ratio: float = 0.01,
        exclude_self: bool | Literal["auto"] = "auto",
        weighting: Literal["uniform", "similarity"] = "uniform",
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        for name, number in (("beta", beta), ("scale", scale), ("delta", delta), ("gamma", gamma)):
            if number <= 0.0:
                raise ValueError(f"{name} is {number}; it must be positive.")
        if not 0.0 < hard_ratio <= 1.0:
            raise ValueError(f"hard_ratio is a share, more than 0 and at most 1, not {hard_ratio}.")
        if weighting == "similarity" and form != "mean_log":
            raise ValueError(f"form: {form} has no weights; weighting: similarity is for mean_log.")
        self.form, self.delta, self.hard_ratio = form, delta, hard_ratio
        self.beta = 1.0 / (2.0 * scale) if form == "pedal" else beta
        self.alone = form in ("log_sum", "pedal") if exclude_self == "auto" else exclude_self
        self.weighting, self.gamma = weighting, gamma

    def forward(self, scores: Tensor, index: Tensor, neighbours: Tensor) -> Tensor:
        scores, own = scores.float(), index[:, None]
        credible = (neighbours >= 0) & (neighbours != own)
        losses = {"mean_log": self._mean_log, "mmcl": self._mmcl}.get(self.form, self._log_sum)
        return losses(scores, own, neighbours.clamp(min=0), credible).mean()

    def _logits(self, scores: Tensor, own: Tensor) -> Tensor:
        logits = scores / self.beta
        return logits.scatter(1, own, -torch.inf) if self.alone else logits

    def _mean_log(self, scores: Tensor, own: Tensor, slots: Tensor, credible: Tensor) -> Tensor:
        logits = self._logits(scores, own)
        # a difference of selected logits, because a log-softmax would contain the -inf of the own slot
        logs = logits.gather(1, slots).masked_fill(~credible, 0.0) - logits.logsumexp(1, keepdim=True)
        weights = credible.float()
        if self.weighting == "similarity":
            near = scores.detach().gather(1, slots).clamp(min=0.0) ** self.gamma * weights
            weights = torch.where(near.sum(1, keepdim=True) > 0, near, weights)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return -(weights * logs).sum(1)

    def _log_sum(self, scores: Tensor, own: Tensor, slots: Tensor, credible: Tensor) -> Tensor:
        logits, some = self._logits(scores, own), credible.any(1)
        picked = logits.gather(1, slots).masked_fill(~credible, -torch.inf)
        # rows without samples are set to 0 before the logarithm: the gradient of log 0 would be NaN
        picked = torch.where(some[:, None], picked, 0.0)
        return torch.where(some, logits.logsumexp(1) - picked.logsumexp(1), 0.0)

    def _mmcl(self, scores: Tensor, own: Tensor, slots: Tensor, credible: Tensor) -> Tensor:
        positive = torch.zeros_like(scores).scatter_add(1, slots, credible.float())
        others = (positive == 0).scatter(1, own, False)
        if not self.alone:
            positive = positive.scatter(1, own, 1.0)
        pull = _mean_where(positive > 0, (1.0 - scores).square())
        most = max(1, int(self.hard_ratio * scores.shape[1]))
        hardest, _ = scores.masked_fill(~others, -torch.inf).topk(most)
        taken = (self.hard_ratio * others.sum(1, keepdim=True)).long().clamp(min=1)
        hard = (torch.arange(hardest.shape[1], device=scores.device) < taken) & (hardest > -torch.inf)
        push = _mean_where(hard, (1.0 + hardest.masked_fill(~hard, 0.0)).square())
        return torch.where((positive > 0).any(1), self.delta * pull + push, 0.0)


def _mean_where(marked: Tensor, values: Tensor) -> Tensor:
    """The mean (B,) of each row's marked values, 0 for a row without any."""
    return (values * marked).sum(1) / marked.sum(1).clamp(min=1)
