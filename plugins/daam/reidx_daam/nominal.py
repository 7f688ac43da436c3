"""The nominal domain: a third domain that attracts the shared features of both real domains."""

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

    Two values: ``sim`` measures the distance of both domains' shared features from the nominal domain; ``sp`` is the loss of
    telling the two domains apart by their specific features.

    The abstract names a one-class loss without its formula; these are four interpretations. A mean over both domains is the
    mean of the two domains' means. f̂ is a feature at unit length, G a head with softmax, u a head with one output.

    ``kind``:
        ``nominal_softmax``: sim = −mean log p_nominal(shared), where G has the classes source, target and nominal, and
        ``sp`` trains the first two with the specific features.
        ``bce``: sim = −mean log σ(u(shared)) − mean log(1−σ(u(specific))); without the second mean, the bias could solve it.
        ``svdd``: sim = mean over all images of ‖f̂−c‖²; with ``soft_boundary`` R² + mean max(0, ‖f̂−c‖²−R²) / ``nu`` at the
        R that minimises it, which is the mean of the largest share ``nu``. It also draws identities together.
        ``domain_mean``: sim = ‖mean_source f̂ − c‖² + ‖mean_target f̂ − c‖².

    The centre c is the mean of the two domains' mean f̂, at unit length, over all training images at the start of the stage
    (without :meth:`begin`: over the first batch). It is fixed, or with ``centre_momentum`` m it becomes
    normalize(m c + (1−m) c_batch) after each step. It has no gradient. The features have no projection layer before the
    distance, because a projection could map them all to one point.

    ``sp`` is ``sp_weight`` times −mean log p(own domain) of the specific features: by G if it is the head of ``sim``, else
    by a separate head with two outputs; there is no ``sp`` with ``sp_weight: 0``. A head is Linear, BatchNorm, ReLU, Linear
    with ``hidden`` hidden units, or one Linear with ``hidden: 0``.

    ``feature`` names the shared feature, so the last two kinds work with any fusion; the specific feature is ``specific``.
    Without it, ``nominal_softmax`` has no negatives and becomes ``domain_mean``, with a note in the log; ``bce`` requires it.

    Raises :class:`ConfigError` for an invalid value, and for features of different widths that share one head.
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
            raise ConfigError("bce needs the feature `specific`: without negatives, its bias alone could solve it.")
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
        """Requires the feature ``feature``; ``bce`` also ``specific``."""
        return {"requires": frozenset({feature, "specific"} if kind == "bce" else {feature})}

    @property
    def needs_features(self) -> bool:
        """True if this kind has a centre."""
        return self.kind in ("svdd", "domain_mean")

    @torch.no_grad()
    def begin(self, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Place the centre between the two domains, given their features (N,D) by name."""
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
        """The values by the head of three outputs, which receives all features in one batch."""
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
        # the R² that minimises the value has a share nu of the images outside
        radius = torch.quantile(squared, 1.0 - self.nu, interpolation="higher")
        return radius + F.relu(squared - radius).mean() / self.nu

    @torch.no_grad()
    def _place(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the centre of this step, and move it for the next step."""
        if not self._placed:  # checked once, because the host waits for the device here
            self._placed = True
            if not self.centre.any():
                self.begin({self.feature: source}, {self.feature: target})
        centre = self.centre.clone()
        if self.centre_momentum is not None and self.training:
            step = 1.0 - self.centre_momentum
            self.centre.copy_(F.normalize(centre.lerp(between(source, target), step), dim=0))
        return centre

    def notes(self) -> list[str]:
        """Notes for the log on a replaced ``kind`` and on a loss that the bias can solve."""
        if self.fell_back:
            return [
                "NominalDomain: the fusion has no feature `specific` as negatives for nominal_softmax; "
                "kind domain_mean replaces it."
            ]
        if self.kind == "nominal_softmax" and self.sp_weight == 0:
            return ["NominalDomain: with sp_weight 0 no feature has the other classes, so the head's bias alone can solve it."]
        return []


def domain_head(dim: int, hidden: int, outputs: int) -> nn.Module:
    """Build a head (``dim`` to ``outputs``) of Linear, BatchNorm, ReLU, Linear, or of one Linear if ``hidden`` is 0."""
    if hidden == 0:
        return nn.Linear(dim, outputs)
    return nn.Sequential(
        nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs)
    )


def between(source: Tensor, target: Tensor) -> Tensor:
    """The mean (D,) of two domains' mean unit features (N,D), at unit length; both domains count equally."""
    return F.normalize((F.normalize(source).mean(0) + F.normalize(target).mean(0)) / 2, dim=0)


def _seen(head: nn.Module, *groups: Sequence[Tensor]) -> list[list[Tensor]]:
    """The logits of each tensor of each group, from one joint batch: separate BatchNorm statistics would reveal the group."""
    sizes = [len(part) for group in groups for part in group]
    logits = iter(head(torch.cat([part for group in groups for part in group])).split(sizes))
    return [[next(logits) for _ in group] for group in groups]


def _halves(values: Sequence[Tensor]) -> Tensor:
    """Mean of the tensors' means."""
    return torch.stack([value.mean() for value in values]).mean()


def _surprise(logits: Sequence[Tensor], outputs: tuple[int, int]) -> Tensor:
    """−log p of one output per tensor: the mean of the tensors' means."""
    return _halves([-part.log_softmax(1)[:, output] for part, output in zip(logits, outputs)])
