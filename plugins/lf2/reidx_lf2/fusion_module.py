"""The Fusion Module: features of a network's map and its halves, and the halves fused with the teacher's map."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.errors import DataError
from reidx_lf2.gate import ChannelGate, HalfGate, Order

HALVES = ("upper", "lower")
FUSED = ("phi0", "phi1", "phi2")
"""The clustered features: the teacher's global feature, and its fusions with each half of the student."""

Mode = Literal["fused", "local", "global"]
Gate = Literal["frozen", "const", "part_head", "fusion_triplet"]


class FusionModule(nn.Module):
    """Part features fused with a mean teacher's global map, as in LF2.

    Features to train: ``global``, ``upper``, ``lower`` (B,C). Features to cluster: ``phi0``, ``phi1``, ``phi2`` (B,C).
    Also ``pooled`` (B,C) and ``embed`` (B,3C).

    a(·) and m(·) are the average and the maximum of a map, p = a + m. M is the network's own map; M_1 and M_2 are its upper and
    lower half (of H rows the first H // 2 and the next H // 2). ``teacher`` is the map T of the network's average for the same
    images; without it T = M. No gradient reaches T.

    * ``pooled`` = p(M), ``global`` = BN(p(M)); ``upper``, ``lower`` = BN(A_j [a(M_j); m(M_j)] + b_j), with
      ``part_input: sum`` BN(A_j p(M_j) + b_j);
    * ``phi0`` = BN(p(T)), ``phi_j`` = BN(p(T · z_j)), where ``gate`` computes the vector z_j from M_j
      (:class:`reidx_lf2.gate.ChannelGate`) and z_j multiplies T at every position;
    * ``embed`` = [``global``; ``upper``; ``lower``] at unit length (B,3C).

    No other feature has unit length. Each feature has its own BatchNorm, whose bias stays 0.

    ``pool: avg`` sets m = 0 everywhere: the paper writes the average, the released code uses the sum. Use it for backbones
    that were not trained with maximum pooling.

    ``mode: local`` clusters the teacher's own halves, ``phi_j`` = BN(p(T_j)) (the paper's "w/o FM"). ``mode: global`` has no
    halves: it provides ``global``, ``embed`` (``global`` at unit length), ``pooled`` and ``phi0`` (the paper's baseline).

    ``gate`` selects the training of the gates. ``frozen``: none, as in the released code, whose gates are on no path to the
    loss. ``const``: no gates, z_j = p(M_j) / 2. ``part_head``: ``upper`` and ``lower`` are computed from z_j in place of
    p(M_j), so their losses train the gates. ``fusion_triplet``: a loss of ``phi1`` and ``phi2``, which the objective must
    contain. ``order`` and ``reduction`` are arguments of the gate.

    Raises :class:`ValueError` for settings that exclude each other, :class:`DataError` for a map of one row. Source: Fig. 3 and
    Eq. 5 of the paper, and the released code.
    """

    def __init__(
        self,
        in_channels: int,
        mode: Mode = "fused",
        gate: Gate = "frozen",
        order: Order = "gate_then_mul",
        pool: Literal["avg+max", "avg"] = "avg+max",
        part_input: Literal["concat", "sum"] = "concat",
        reduction: int = 4,
    ) -> None:
        super().__init__()
        if mode != "fused" and (gate, order) != ("frozen", "gate_then_mul"):
            raise ValueError(f"mode: {mode} has no gates; leave gate and order out.")
        if gate == "const" and order != "gate_then_mul":
            raise ValueError(f"gate: const multiplies by one half; order: {order} would have no effect. Leave it out.")
        if gate == "part_head" and part_input != "sum":
            raise ValueError("gate: part_head gives the part heads one vector, z; set part_input: sum.")
        if pool == "avg" and mode != "global" and part_input != "sum":
            raise ValueError("pool: avg has no maximum to concatenate with the average; set part_input: sum.")
        self.mode, self.gate, self.pool, self.part_input = mode, gate, pool, part_input
        self.halves = () if mode == "global" else HALVES
        self.fused = FUSED[: 1 + len(self.halves)]
        width = in_channels * (2 if part_input == "concat" else 1)
        self.experts = nn.ModuleDict({half: _expert(width, in_channels) for half in self.halves})
        self.norms = nn.ModuleDict({name: _norm(in_channels) for name in ("global", *self.halves)})
        self.fused_norms = nn.ModuleDict({name: _norm(in_channels) for name in self.fused})
        gates: dict[str, nn.Module] = {}
        if mode == "fused":
            for half in self.halves:
                gates[half] = HalfGate() if gate == "const" else ChannelGate(in_channels, reduction, order)
        self.gates = nn.ModuleDict(gates)
        self.gates.requires_grad_(gate in ("part_head", "fusion_triplet"))
        for name, norm in self.fused_norms.items():
            norm.requires_grad_(gate == "fusion_triplet" and name != "phi0")
            norm.bias.requires_grad_(False)  # type: ignore[union-attr, operator]
        self.dims = dict.fromkeys(provided(mode), in_channels)
        self.dims["embed"] = in_channels * (1 + len(self.halves))

    @classmethod
    def contract(cls, mode: Mode = "fused", **_: object) -> dict[str, frozenset[str]]:
        return {"provides": provided(mode)}

    def forward(self, maps: Tensor, teacher: Tensor | None = None) -> Features:
        pooled = self._pooled(maps)
        whole = (maps if teacher is None else teacher).detach()
        own, fused = {"global": pooled}, {"phi0": self._pooled(whole)}
        for half, phi in zip(self.halves, FUSED[1:], strict=False):
            average, maximum = self._pools(_rows(maps, half))
            local = torch.cat([average, maximum], dim=1) if self.part_input == "concat" else average + maximum
            if self.mode == "local":
                fused[phi] = self._pooled(_rows(whole, half))
            else:
                z = self.gates[half](average, maximum)
                fused[phi] = pooled_product(whole, z) if self.pool == "avg+max" else self._pooled(whole) * z
                local = z if self.gate == "part_head" else local
            own[half] = self.experts[half](local)
        made = {name: self.norms[name](vector).float() for name, vector in own.items()}
        embed = F.normalize(torch.cat(list(made.values()), dim=1))
        made |= {name: self.fused_norms[name](vector).float() for name, vector in fused.items()}
        return Features({"embed": embed, "pooled": pooled, **made})

    def _pools(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Average and maximum (B,C) of a map, float32; zeros in place of the maximum with ``pool: avg``."""
        if self.pool == "avg+max":
            return _pools(maps)
        average = maps.mean((2, 3), dtype=torch.float32)
        return average, torch.zeros_like(average)

    def _pooled(self, maps: Tensor) -> Tensor:
        """p (B,C) of a map, float32."""
        average, maximum = self._pools(maps)
        return average + maximum

    def notes(self) -> list[str]:
        """A note for the log if the gates are frozen."""
        if self.mode != "fused" or self.gate != "frozen":
            return []
        return [
            "lf2.FusionModule: the gates are frozen at their random initialisation (gate: frozen), as in the released code, "
            "where no loss reaches them. The clustered features are a fixed product of teacher and student, "
            "not learned attention."
        ]


def provided(mode: Mode) -> frozenset[str]:
    """Names of the features that a module of this ``mode`` provides."""
    whole = {"embed", "global", "pooled", "phi0"}
    return frozenset(whole if mode == "global" else {*whole, *HALVES, *FUSED})


def pooled_product(maps: Tensor, z: Tensor) -> Tensor:
    """p(M · z) (B,C) of a map M (B,C,h,w) and a vector z (B,C), without computing the product.

    z has one number per channel, so a(M z) = a(M) z; m(M z) = m(M) z where z ≥ 0, and min(M) z where z < 0. If neither M nor z
    has negative entries, the result is p(M) z.
    """
    average, maximum = _pools(maps)
    minimum = maps.amin((2, 3)).float()
    return (average + torch.where(z < 0, minimum, maximum)) * z


def _pools(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Average and maximum (B,C) of a map, float32."""
    return maps.mean((2, 3), dtype=torch.float32), maps.amax((2, 3)).float()


def _rows(maps: Tensor, half: str) -> Tensor:
    height = maps.shape[2] // 2
    if height == 0:
        raise DataError(
            "lf2.FusionModule: the backbone's map is 1 row high and has no halves. Raise data.image_size, or use a backbone "
            "with a smaller stride."
        )
    return maps[:, :, :height] if half == "upper" else maps[:, :, height : 2 * height]


def _norm(channels: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(channels)
    norm.bias.requires_grad_(False)
    return norm


def _expert(width: int, channels: int) -> nn.Linear:
    expert = nn.Linear(width, channels)
    nn.init.kaiming_normal_(expert.weight, mode="fan_out")
    nn.init.zeros_(expert.bias)
    return expert
