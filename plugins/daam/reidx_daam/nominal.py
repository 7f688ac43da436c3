"""The nominal domain: one new domain that the shared features of both real ones are drawn to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import ConfigError

Kind = Literal["nominal_softmax", "bce", "svdd", "domain_mean"]
SOURCE, TARGET, NOMINAL = 0, 1, 2
"""The outputs of the domain head."""


class NominalDomain(nn.Module):
    """Features of both domains drawn to a nominal one, as in DAAM.

    ``sim``, how far the shared features of two domains are from a nominal one, and ``sp``, how badly the specific
    features tell the two apart.

    The paper names a one-class loss without its formula; these are four readings (DAAM section 1.5). A mean over both
    domains is the mean of the two domains' means. f̂ is a feature at length 1, G a head with softmax, u one of one output.

    ``kind``:
        ``nominal_softmax``: sim = −mean log p_nominal(shared) by G over source, target and nominal, of which the specific
        features claim the first two.
        ``bce``: sim = −mean log σ(u(shared)) − mean log(1−σ(u(specific))); without the latter its bias would solve it.
        ``svdd``: sim = mean over all images of ‖f̂−c‖²; with ``soft_boundary`` R² + mean max(0, ‖f̂−c‖²−R²) / ``nu``, with
        the R that makes it least: the mean of the largest share ``nu``. It also draws identities together.
        ``domain_mean``: sim = ‖mean_source f̂ − c‖² + ‖mean_target f̂ − c‖².

    The centre c is the mean of the two domains' mean f̂, at length 1, over all training images when the stage begins
    (without :meth:`begin`: over the first batch). It stays, or with ``centre_momentum`` m goes on as
    normalize(m c + (1−m) c_batch) after each step. It has no gradient, and features come to it as they are: behind a layer
    of its own they would all come to one point.

    ``sp`` is ``sp_weight`` times −mean log p(own domain) of the specific features: by G where it is the head of ``sim``, else
    by one of its own with two outputs; nothing with ``sp_weight: 0``. Heads are Linear, BatchNorm, ReLU, Linear by way of
    ``hidden`` numbers, or with 0 one Linear.

    ``feature`` is the shared feature, so any fusion will do for the last two kinds; the specific one is called ``specific``.
    ``nominal_softmax`` without it has nothing to be told apart from, and becomes ``domain_mean``, which it says; ``bce``
    requires it.

    Raises :class:`ConfigError` for a value without meaning, and for features of two widths where one head sees both.
    """

    centre: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        kind: Kind = "nominal_softmax",
        feature: str = "shared",
        sp_weight: float = 1.0,
        hidden: int = 256,
        centre_momentum: float | None = None,
        soft_boundary: bool = False,
        nu: float = 0.1,
    ) -> None:
        super().__init__()
        apart = "specific" in dims
        self.fell_back = kind == "nominal_softmax" and not apart
        self.kind: Kind = "domain_mean" if self.fell_back else kind
        self.feature, self.sp_weight = feature, sp_weight if apart else 0.0
        self.requires = self.contract(kind, feature)["requires"]
        self.centre_momentum, self.soft_boundary, self.nu = centre_momentum, soft_boundary, nu
        if sp_weight < 0 or hidden < 0:
            raise ConfigError(f"sp_weight {sp_weight} and hidden {hidden} must not be negative.")
        if not 0.0 < nu <= 1.0:
            raise ConfigError(f"nu is {nu}; it is the share of images outside, above 0 and at most 1.")
        if centre_momentum is not None and not (0.0 <= centre_momentum < 1.0 and self.needs_features):
            raise ConfigError(f"centre_momentum is {centre_momentum}; it is for svdd and domain_mean, at least 0 and below 1.")
        if soft_boundary and kind != "svdd":
            raise ConfigError(f"soft_boundary is for kind: svdd, not for {kind}.")
        if kind == "bce" and not apart:
            raise ConfigError("bce needs the feature `specific`: without what lies outside, its bias alone would solve it.")
        if not self.needs_features and dims[feature] != dims["specific"]:
            raise ConfigError(f"{kind}: one head sees {feature} ({dims[feature]} numbers) and specific ({dims['specific']}).")
        outputs = {"nominal_softmax": 3, "bce": 1}.get(self.kind)
        self.head = domain_head(dims[feature], hidden, outputs) if outputs else None
        own = self.sp_weight > 0 and self.kind != "nominal_softmax"
        self.own = domain_head(dims["specific"], hidden, 2) if own else None
        self.register_buffer("centre", torch.zeros(dims[feature] if self.needs_features else 0))
        self._placed = False

    @staticmethod
    def contract(kind: str = "nominal_softmax", feature: str = "shared", **_: Any) -> dict[str, Any]:
        """It requires the feature ``feature``; ``bce`` its negatives too."""
        return {"requires": frozenset({feature, "specific"} if kind == "bce" else {feature})}

    @property
    def needs_features(self) -> bool:
        """Whether it has a centre."""
        return self.kind in ("svdd", "domain_mean")

    @torch.no_grad()
    def begin(self, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Put the centre between the two domains, of which these are banks (N,D) by name."""
        self.centre.copy_(between(source[self.feature], target[self.feature]))

    def forward(self, source: Features, target: Features) -> dict[str, Tensor]:
        with torch.autocast(source[self.feature].device.type, enabled=False):
            shared = [source[self.feature].float(), target[self.feature].float()]
            specific = [source["specific"].float(), target["specific"].float()] if "specific" in source else []
            return self._values(shared, specific)

    def _values(self, shared: Sequence[Tensor], specific: Sequence[Tensor]) -> dict[str, Tensor]:
        if self.kind == "nominal_softmax":
            return self._three(shared, specific)
        values = {"sim": self._binary(shared, specific) if self.kind == "bce" else self._centred(*shared)}
        if self.own is not None:
            values["sp"] = self._apart(self.own, specific)
        return values

    def _three(self, shared: Sequence[Tensor], specific: Sequence[Tensor]) -> dict[str, Tensor]:
        """By the head of three outputs, which sees all that is told apart in one batch."""
        assert self.head is not None
        claimed = specific if self.sp_weight > 0 else []
        of_shared, of_specific = _seen(self.head, shared, claimed)
        values = {"sim": _surprise(of_shared, (NOMINAL, NOMINAL))}
        if claimed:
            values["sp"] = self.sp_weight * _surprise(of_specific, (SOURCE, TARGET))
        return values

    def _binary(self, shared: Sequence[Tensor], specific: Sequence[Tensor]) -> Tensor:
        assert self.head is not None
        inside, outside = _seen(self.head, shared, specific)
        return _halves([F.softplus(-u) for u in inside]) + _halves([F.softplus(u) for u in outside])

    def _apart(self, head: nn.Module, specific: Sequence[Tensor]) -> Tensor:
        return self.sp_weight * _surprise(_seen(head, specific)[0], (SOURCE, TARGET))

    def _centred(self, source: Tensor, target: Tensor) -> Tensor:
        centre = self._place(source, target)
        if self.kind == "domain_mean":
            means = [F.normalize(features).mean(0) for features in (source, target)]
            return torch.stack([(mean - centre).square().sum() for mean in means]).sum()
        squared = (F.normalize(torch.cat([source, target])) - centre).square().sum(1)
        if not self.soft_boundary:
            return squared.mean()
        # of all R² the one that makes the value least has a share nu of the images outside
        radius = torch.quantile(squared, 1.0 - self.nu, interpolation="higher")
        return radius + F.relu(squared - radius).mean() / self.nu

    @torch.no_grad()
    def _place(self, source: Tensor, target: Tensor) -> Tensor:
        """Where the centre is in this step; it moves on for the next one."""
        if not self._placed:  # asked once, as the host waits for the answer
            self._placed = True
            if not self.centre.any():
                self.begin({self.feature: source}, {self.feature: target})
        centre = self.centre.clone()
        if self.centre_momentum is not None and self.training:
            step = 1.0 - self.centre_momentum
            self.centre.copy_(F.normalize(centre.lerp(between(source, target), step), dim=0))
        return centre

    def notes(self) -> list[str]:
        """What it does otherwise than it was asked to, and what it cannot do."""
        if self.fell_back:
            return [
                "NominalDomain: the fusion has no feature `specific` that nominal_softmax could tell from the nominal one, so "
                "kind domain_mean works in its place."
            ]
        if self.kind == "nominal_softmax" and self.sp_weight == 0:
            return ["NominalDomain: with sp_weight 0 nothing claims the other domains, so the head's bias alone can solve it."]
        return []


def domain_head(dim: int, hidden: int, outputs: int) -> nn.Module:
    """Features (B,``dim``) to logits (B,``outputs``): Linear, BatchNorm, ReLU, Linear, or for ``hidden`` 0 one Linear."""
    if hidden == 0:
        return nn.Linear(dim, outputs)
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
    )


def between(source: Tensor, target: Tensor) -> Tensor:
    """The mean (D,) of two domains' mean unit features (N,D), at length 1: each domain counts half, whatever its size."""
    return F.normalize((F.normalize(source).mean(0) + F.normalize(target).mean(0)) / 2, dim=0)


def _seen(head: nn.Module, *groups: Sequence[Tensor]) -> list[list[Tensor]]:
    """The logits of each tensor of each group, of one batch of all: statistics of its own would tell a part apart."""
    sizes = [len(part) for group in groups for part in group]
    logits = iter(head(torch.cat([part for group in groups for part in group])).split(sizes))
    return [[next(logits) for _ in group] for group in groups]


def _halves(values: Sequence[Tensor]) -> Tensor:
    """The mean of the parts' means."""
    return torch.stack([value.mean() for value in values]).mean()


def _surprise(logits: Sequence[Tensor], outputs: tuple[int, int]) -> Tensor:
    """−log p of an output each, the mean of the parts' means."""
    return _halves([-part.log_softmax(1)[:, output] for part, output in zip(logits, outputs)])
